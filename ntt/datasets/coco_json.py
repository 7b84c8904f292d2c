"""Any folder in COCO format: images, a references file and a targets file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.base.settings import setting
from ntt.datasets.base import DatasetConfig, DatasetFiles, folder_label
from ntt.errors import DataError, raise_all


@dataclass(frozen=True, kw_only=True)
class CocoJsonConfig(DatasetConfig):
    """Schema of `dataset=coco_json`; the relative paths below start at `root`."""

    SCHEMA: ClassVar[str] = "coco_json"

    root: str = setting("???", path=True)
    """Folder of the data set."""

    references: str = "annotations/references.json"
    """Annotation file the references are drawn from."""

    targets: str = "annotations/targets.json"
    """Annotation file of the images to search; its annotations, where it has any, are the ground truth."""

    reference_images: str = "images"
    """Folder of the references' images."""

    target_images: str = "images"
    """Folder of the target images."""

    def label(self) -> str:
        """Return the name of the root folder, so that runs on different folders are told apart at a glance."""
        return folder_label(self.root) or self.name

    def places(self) -> DatasetFiles:
        """Return where everything would be, without looking whether it is there."""
        root = Path(self.root).expanduser().absolute()

        def below_root(relative: str) -> Path:
            # Normalised as text: `..` after a symbolic link would lead beside the link's target.
            return Path(os.path.normpath(root / relative))

        return DatasetFiles(
            references_file=below_root(self.references),
            reference_images=below_root(self.reference_images),
            targets_file=below_root(self.targets),
            target_images=below_root(self.target_images),
        )

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Resolve the four paths against `root` and check that they exist."""
        if not Path(self.root).expanduser().is_dir():
            raise DataError(
                f"dataset.root={self.root} is not a folder. Give the folder that holds {self.targets} and "
                f"{self.target_images}/, for example dataset.root=/data/my_set."
            )
        files = self.places()
        problems = [
            f"dataset.{key}: there is no file {path}. Put the annotation file there, or correct dataset.{key}."
            for key, path in (("references", files.references_file), ("targets", files.targets_file))
            if not path.is_file()
        ]
        problems += [
            f"dataset.{key}: there is no folder {path}. Put the images there, or correct dataset.{key}."
            for key, path in (("reference_images", files.reference_images), ("target_images", files.target_images))
            if not path.is_dir()
        ]
        raise_all(problems, DataError, summary="The data set is incomplete")
        return files
