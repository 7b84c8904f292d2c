"""Any folder in COCO format: images, a references file and a targets file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ntt.convert.plain_folder import coco_categories, convert_targets
from ntt.datasets.base import DatasetFiles, RootedConfig, write_list
from ntt.datasets.exports import find_annotation_file, find_image_folder
from ntt.errors import DataError, raise_all


@dataclass(frozen=True, kw_only=True)
class CocoJsonConfig(RootedConfig):
    """Schema of `dataset=coco_json`; the relative paths below start at `root`."""

    SCHEMA: ClassVar[str] = "coco_json"

    references: str = "annotations/references.json"
    """Annotation file from which references are drawn. If the default is missing, an export of an annotation tool is
    used; see `ntt/datasets/exports.py`."""

    targets: str | None = "annotations/targets.json"
    """Annotation file of the images to search; its annotations, if any, are the ground truth. Or a folder below `root`
    or the working directory, all of whose images are searched; null: the folder `target_images`."""

    reference_images: str = "images"
    """Folder of the references' images. If the default does not hold them, the folder that does is used."""

    target_images: str = "images"
    """Folder of the target images, likewise; unused if `targets` is a folder."""

    def places(self) -> DatasetFiles:
        """Return where everything would be, without checking that it exists."""
        return DatasetFiles(
            references_file=self.below_root(self.references),
            reference_images=self.below_root(self.reference_images),
            targets_file=self.targets_path(self.targets or self.target_images),
            target_images=self.below_root(self.target_images),
        )

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Find the files and folders and check that they exist; a folder of targets is listed below the cache."""
        self._require_root("the annotation files", "the images")
        files = self.places()
        if not files.references_file.is_file() and self.references == type(self).references:
            export = find_annotation_file(self.root_path)
            files = files if export is None else replace(files, references_file=export)
        is_folder = files.targets_file.is_dir()
        missing = [] if files.references_file.is_file() else [("references", f"file {files.references_file}")]
        if not files.targets_file.is_file() and not is_folder:
            missing.append(("targets", f"file or folder {files.targets_file}"))
        problems = [f"dataset.{key}: there is no {what}. Add it, or correct dataset.{key}." for key, what in missing]
        raise_all(problems, DataError, summary="The data set is incomplete")
        files = replace(files, reference_images=self._image_folder("reference_images", files.references_file))
        if is_folder:
            return self._listed(files, cache_root)
        return replace(files, target_images=self._image_folder("target_images", files.targets_file))

    def _image_folder(self, key: str, annotation_file: Path) -> Path:
        """Return the folder that a setting names, or if it is the default, the one that holds a file's images."""
        folder = self.below_root(getattr(self, key))
        if getattr(self, key) == getattr(type(self), key):
            folder = find_image_folder(self.root_path, annotation_file) or folder
        if not folder.is_dir():
            raise DataError(f"dataset.{key}: there is no folder {folder}. Add it, or correct dataset.{key}.")
        return folder

    def _listed(self, files: DatasetFiles, cache_root: Path) -> DatasetFiles:
        """List all images of a folder of targets, without annotations unless it holds LabelMe files."""
        folder = files.targets_file
        targets = convert_targets(folder, coco_categories(files.references_file))
        written = write_list(targets, self.list_folder(cache_root, folder) / "targets.json")
        return replace(files, targets_file=written, target_images=folder)
