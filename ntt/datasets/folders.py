"""Data sets in a folder: in COCO format, the published ones, and plain folders without annotation files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ntt.convert.plain_folder import coco_categories, convert_references, convert_targets
from ntt.datasets.base import DATA_VARIABLE, DatasetFiles, RootedConfig, write_list
from ntt.datasets.exports import find_annotation_file, find_image_folder
from ntt.datasets.published.details import known_datasets
from ntt.errors import DataError, raise_all

TARGETS_FILE = "targets.json"


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
        problems = []
        if not files.references_file.is_file():
            problems = [
                f"dataset.references: there is no file {files.references_file}. Name an annotation file in COCO format."
            ]
        if not files.targets_file.is_file() and not is_folder:
            what = f"dataset.targets: there is no file or folder {files.targets_file}."
            problems.append(f"{what} Name an annotation file, or a folder of images to search.")
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


@dataclass(frozen=True, kw_only=True)
class PublishedConfig(CocoJsonConfig):
    """Schema of COCO, LVIS, Pascal VOC and CD-FSOD in their official layouts, one YAML file each.

    They are stored below a common folder (`runtime.data_root`, or the environment variable NTT_DATA), keep their own
    name wherever they are, and `ntt data check NAME` compares them with their recorded content (`datasets.json`).
    """

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


@dataclass(frozen=True, kw_only=True)
class FolderConfig(RootedConfig):
    """Schema of `dataset=folder`; `ntt/convert/plain_folder.py` describes its layout."""

    SCHEMA: ClassVar[str] = "folder"

    references: str = "references"
    """Folder of the example images below `root`, one folder per class."""

    targets: str | None = "targets"
    """Folder of the images to search, below `root` or the working directory; null: all images below `root` except the
    examples."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Return whether a folder looks like this layout, rather than COCO format."""
        return (root / cls.references).is_dir() and not (root / "annotations").is_dir()

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Write annotation files for the folder's current contents below the cache, and nothing into `root`."""
        self._require_root(f"{self.references}/", f"{self.targets or 'images'}/")
        root = self.root_path
        references = self.below_root(self.references)
        targets = root if self.targets is None else self.targets_path(self.targets)
        given = root / TARGETS_FILE
        examples = convert_references(references, coco_categories(given) if given.is_file() else None)
        cache = self.list_folder(cache_root, references, targets)
        references_file = write_list(examples, cache / "references.json")
        if not given.is_file():
            without = references if self.targets is None else None
            given = write_list(convert_targets(targets, examples.categories, without=without), cache / TARGETS_FILE)
        return DatasetFiles(references_file, reference_images=references, targets_file=given, target_images=targets)
