"""Published data sets in their official layouts, one YAML file each: COCO, LVIS, Pascal VOC, CD-FSOD.

They differ from any other folder in COCO format in three ways: they lie below a common folder (`runtime.data_root`, or
the environment variable NTT_DATA), they are called by their own name wherever they lie, and what they must contain is
recorded (`datasets.json`), so that `ntt data check NAME` can say what is missing or different.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.datasets.base import DATA_VARIABLE, DatasetFiles
from ntt.datasets.coco_json import CocoJsonConfig
from ntt.errors import DataError


@dataclass(frozen=True, kw_only=True)
class PublishedConfig(CocoJsonConfig):
    """Schema of the data sets with an official layout; the relative paths start at `root`."""

    SCHEMA: ClassVar[str] = "published"

    def label(self) -> str:
        """Return the name of the data set: its folder may be called anything."""
        return self.name

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Resolve the four paths and check that they exist."""
        root = Path(self.root).expanduser().absolute()
        if not root.is_dir():
            raise DataError(
                f"The data set {self.name} is not there: {root} is not a folder. Set runtime.data_root or the "
                f"environment variable {DATA_VARIABLE} to the folder that holds {root.name}/, or dataset.root to the "
                f"data set's own folder; `ntt data get {self.name}` says how to get it."
            )
        try:
            return super().locate(cache_root)
        except DataError as error:
            raise DataError(f"{error}\n`ntt data check {self.name}` lists what is missing and how to get it.") from None
