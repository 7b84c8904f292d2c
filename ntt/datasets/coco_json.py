"""Any folder in COCO format: images, a references file and a targets file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.datasets.base import DatasetConfig, DatasetFiles, folder_label
from ntt.errors import DataError, raise_all


@dataclass
class CocoJsonConfig(DatasetConfig):
    """Schema of `dataset=coco_json`; the relative paths below start at `root`."""

    SCHEMA: ClassVar[str] = "coco_json"

    root: str = "???"
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
        """Name of the root folder, so that runs on different folders are told apart at a glance."""
        return folder_label(self.root) or self.name

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Resolve the four places against `root` and check that they exist."""
        root = Path(self.root).expanduser().absolute()
        if not root.is_dir():
            raise DataError(
                f"dataset.root={self.root} is not a folder. Give the folder that holds {self.targets} and "
                f"{self.target_images}/, for example dataset.root=/data/my_set."
            )
        files = self.files_below(root)
        _check_places(files)
        return files

    def files_below(self, root: Path) -> DatasetFiles:
        """Resolve the four places against a folder, without looking whether they exist."""

        def place(relative: str) -> Path:
            # Normalised as text: `..` after a symbolic link would lead beside the link's target.
            return Path(os.path.normpath(root / relative))

        return DatasetFiles(
            references_file=place(self.references),
            reference_images=place(self.reference_images),
            targets_file=place(self.targets),
            target_images=place(self.target_images),
        )


def _check_places(files: DatasetFiles) -> None:
    problems = [
        f"dataset.{key}: there is no file {path}. Put the annotation file there, or set dataset.{key} to its place "
        "below dataset.root."
        for key, path in (("references", files.references_file), ("targets", files.targets_file))
        if not path.is_file()
    ]
    problems += [
        f"dataset.{key}: there is no folder {path}. Put the images there, or set dataset.{key} to their place below "
        "dataset.root."
        for key, path in (("reference_images", files.reference_images), ("target_images", files.target_images))
        if not path.is_dir()
    ]
    raise_all(problems, DataError, summary="The data set is incomplete")
