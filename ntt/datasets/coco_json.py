"""Any folder in COCO format: images, a references file and a targets file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.datasets.base import DatasetFiles, RootedConfig
from ntt.errors import DataError, raise_all


@dataclass(frozen=True, kw_only=True)
class CocoJsonConfig(RootedConfig):
    """Schema of `dataset=coco_json`; the relative paths below start at `root`."""

    SCHEMA: ClassVar[str] = "coco_json"

    references: str = "annotations/references.json"
    """Annotation file the references are drawn from."""

    targets: str = "annotations/targets.json"
    """Annotation file of the images to search; its annotations, where it has any, are the ground truth."""

    reference_images: str = "images"
    """Folder of the references' images."""

    target_images: str = "images"
    """Folder of the target images."""

    def places(self) -> DatasetFiles:
        """Return where everything would be, without checking that it exists."""

        def below_root(relative: str) -> Path:
            # Normalised as text: `..` after a symbolic link would lead beside the link's target.
            return Path(os.path.normpath(self.root_path / relative))

        return DatasetFiles(
            references_file=below_root(self.references),
            reference_images=below_root(self.reference_images),
            targets_file=below_root(self.targets),
            target_images=below_root(self.target_images),
        )

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Resolve the four paths against `root` and check that they exist."""
        self._require_root(self.targets, f"{self.target_images}/")
        files = self.places()
        problems = [
            f"dataset.{key}: there is no {kind} {path}. Add it, or correct dataset.{key}."
            for key, path, kind, is_there in (
                ("references", files.references_file, "file", Path.is_file),
                ("targets", files.targets_file, "file", Path.is_file),
                ("reference_images", files.reference_images, "folder", Path.is_dir),
                ("target_images", files.target_images, "folder", Path.is_dir),
            )
            if not is_there(path)
        ]
        raise_all(problems, DataError, summary="The data set is incomplete")
        return files
