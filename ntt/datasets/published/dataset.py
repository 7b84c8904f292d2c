"""Published data sets in their official layouts, one YAML file each: COCO, LVIS, Pascal VOC, CD-FSOD.

They differ from any other folder in COCO format in three ways: they are stored below a common folder
(`runtime.data_root`, or the environment variable NTT_DATA), they keep their own name wherever they are, and their
expected content is recorded (`datasets.json`), so that `ntt data check NAME` can tell what is missing or different.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.datasets.base import DATA_VARIABLE, DatasetFiles
from ntt.datasets.coco_json import CocoJsonConfig
from ntt.datasets.published.details import known_datasets
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
        try:
            return super().locate(cache_root)
        except DataError as error:
            if self.name not in known_datasets():  # an option of the user's own
                raise
            raise DataError(
                f"{error}\n`ntt data check {self.name}` lists what is missing, `ntt data get {self.name}` says how to "
                f"get it. runtime.data_root or {DATA_VARIABLE} is the folder of all published data sets."
            ) from None
