"""The demo data set, part of the package: photographic objects on photographic backgrounds, with exact masks.

Real objects (a cat, coins, a cup, a dahlia, a pagoda, three people, a model of a space shuttle) were cut out of
photographs and pasted onto photographed backgrounds. References and targets share these photographs, so the set shows
that a pipeline works, not how well a method generalises. `demo_data/CREDITS.md` names authors and licences.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.datasets.base import DatasetConfig, DatasetFiles
from ntt.errors import ConfigError, StorageError

DEMO_FOLDER = Path(__file__).with_name("demo_data")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(DatasetConfig):
    """Schema of `dataset=demo`."""

    SCHEMA: ClassVar[str] = "demo"

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Return where the files are in the package."""
        annotations, images = DEMO_FOLDER / "annotations", DEMO_FOLDER / "images"
        return DatasetFiles(annotations / "references.json", images, annotations / "targets.json", images)


def copy_demo(folder: Path) -> None:
    """Copy the demo data set into a new folder, as an example of a folder in COCO format."""
    if folder.exists():
        raise ConfigError(f"{folder} exists already. Name a new folder.")
    try:
        shutil.copytree(DEMO_FOLDER, folder)
    except OSError as error:
        raise StorageError(f"The demo data set cannot be copied to {folder}: {error}.") from error
