"""What a data set option declares: where a references file, a targets file and their images lie."""

import re
from dataclasses import dataclass
from pathlib import Path

from ntt.base.settings import setting

DATA_VARIABLE = "NTT_DATA"
"""Environment variable that names the folder of the published data sets."""


@dataclass(frozen=True)
class DatasetFiles:
    """Where a data set lies: two COCO-format annotation files and the folders their file names refer to."""

    references_file: Path
    reference_images: Path
    targets_file: Path
    target_images: Path


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Base schema of the config group `dataset`."""

    name: str = "???"
    """Name of the data set; it appears in run directories and tables."""

    sampler: str = setting("native", decides=False)
    """How references are drawn unless `shots.sampler` says otherwise: fixed where the references file of each number
    of shots is part of the data set."""

    protocol: str = setting("coco", decides=False)
    """Whose rules of evaluation apply unless `evaluation.protocol` says otherwise: coco or lvis."""

    decode_images: bool = setting(default=False, decides=False)
    """Decode every image completely before the run starts, not only its header and its end."""

    def label(self) -> str:
        """Return the name of the data set in run directories and tables."""
        return self.name

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Return where the files are; annotation files that have to be made are written first.

        Args:
            cache_root: folder for such files.

        Raises:
            DataError: if the data set is not where the settings say.
        """
        raise NotImplementedError


def folder_label(root: str) -> str:
    """Return the name of a folder as part of a file name: letters, digits, dots, dashes and underscores; or ""."""
    return re.sub(r"[^\w.-]+", "-", Path(root).expanduser().absolute().name)
