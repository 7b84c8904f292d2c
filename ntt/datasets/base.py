"""The data set interface: where a references file, a targets file and their images are stored."""

import json
import logging
import os
import re
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from ntt.base.digests import content_key
from ntt.base.files import write_text
from ntt.base.settings import setting
from ntt.convert.base import Converted
from ntt.errors import DataError

_LOG = logging.getLogger(__name__)
DATA_VARIABLE = "NTT_DATA"
"""Environment variable that names the folder of the published data sets."""


@dataclass(frozen=True)
class DatasetFiles:
    """Where a data set is stored: two COCO-format annotation files and the folders their file names refer to."""

    references_file: Path
    reference_images: Path
    targets_file: Path
    target_images: Path


def write_list(converted: Converted, path: Path) -> Path:
    """Write an annotation file unless it exists with this content; several processes may do so at the same time."""
    for note in converted.notes:
        _LOG.warning("%s: %s.", converted.image_root, note)
    text = json.dumps(converted.document, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Base schema of the config group `dataset`."""

    name: str = setting("???", names=True)
    """Name of the data set; it appears in run directories and tables."""

    sampler: str = setting("native", decides=False)
    """How references are drawn unless `shots.sampler` is set; fixed if the data set has a references file for each
    number of shots."""

    protocol: str = setting("coco", decides=False)
    """The evaluation protocol unless `evaluation.protocol` is set: coco or lvis."""

    crowd: str = setting("regions", one_of=("regions", "objects"))
    """How annotations with `iscrowd` = 1 are read. regions: neither references nor objects to find; objects: like any
    other, for tools that mark every painted mask in this way (CVAT)."""

    orientation: str | None = setting(None, one_of=("upright", "stored"))
    """How images are read if the annotated size does not tell the EXIF orientation from the stored one (upside down,
    mirrored, or square): turned upright or as stored, depending on how they were annotated. Null: upright, with a
    warning."""

    white_level: float | None = setting(None, gt=0)
    """Pixel value that becomes white in images of more than 8 bits, such as 4095 for 12 bits. Null: estimated from a
    sample of the images, for all of them; see `ntt/data/pixels.py`."""

    references_complete: bool | str = setting("auto", one_of=("auto", True, False))
    """Whether all objects of the searched classes are annotated in reference images; only then may references choose a
    matcher. auto: yes if most of these images have two objects or more."""

    def label(self) -> str:
        """Return the name of the data set in run directories and tables."""
        return self.name

    @abstractmethod
    def locate(self, cache_root: Path) -> DatasetFiles:
        """Return where the files are, after writing annotation files, where needed, below `cache_root`.

        A DataError if the data set is not where the settings say.
        """


@dataclass(frozen=True, kw_only=True)
class RootedConfig(DatasetConfig):
    """Base schema of the options that read a folder of the user's."""

    root: str = setting("???", path=True)
    """Folder of the data set."""

    def label(self) -> str:
        """Return the name of the root folder, so that runs on different folders are easy to distinguish."""
        return re.sub(r"[^\w.-]+", "-", self.root_path.name) or self.name

    @property
    def root_path(self) -> Path:
        """The root folder as an absolute path without `..`, which would end as the name of the data set."""
        return Path(os.path.normpath(Path(self.root).expanduser().absolute()))

    def below_root(self, relative: str) -> Path:
        """Return a path below the root; `..` is resolved textually, as after a link it would lead elsewhere."""
        return Path(os.path.normpath(self.root_path / relative))

    def targets_path(self, relative: str) -> Path:
        """Return a path below the root or, if there is nothing, below the working directory."""
        below, here = self.below_root(relative), Path(os.path.normpath(Path(relative).expanduser().absolute()))
        return here if here.exists() and not below.exists() else below

    def list_folder(self, cache_root: Path, *folders: Path) -> Path:
        """Return the folder for annotation files that list `folders`; data sets of the same name do not share one."""
        return cache_root / f"folder-{self.label()}-{content_key([str(folder) for folder in folders])[:10]}"

    def _require_root(self, *contents: str) -> None:
        if not self.root_path.is_dir():
            listed = " and ".join(contents)
            raise DataError(f"dataset.root={self.root} is not a folder. Give the folder that holds {listed}.")
