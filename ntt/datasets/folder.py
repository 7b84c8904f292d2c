"""A plain folder of example images and images to search, without annotation files."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.convert.plain_folder import coco_categories, convert_references, convert_targets
from ntt.datasets.base import DatasetFiles, RootedConfig, write_list

TARGETS_FILE = "targets.json"


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
