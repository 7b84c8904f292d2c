"""A plain folder of example images and images to search, without any annotation format."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.base.digests import content_key
from ntt.base.files import write_text
from ntt.convert.base import Converted
from ntt.convert.plain_folder import coco_categories, convert_references, convert_targets
from ntt.datasets.base import DatasetFiles, RootedConfig

_LOG = logging.getLogger(__name__)
TARGETS_FILE = "targets.json"


@dataclass(frozen=True, kw_only=True)
class FolderConfig(RootedConfig):
    """Schema of `dataset=folder`; `ntt/convert/plain_folder.py` describes its layout."""

    SCHEMA: ClassVar[str] = "folder"

    references: str = "references"
    """Folder of the example images below `root`, one folder per class."""

    targets: str = "targets"
    """Folder of the images to search, below `root`."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Return whether a folder looks like one of these, rather than one in COCO format."""
        return (root / cls.references).is_dir() and not (root / "annotations").is_dir()

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Write annotation files for what the folder holds now, below the cache; nothing is written into `root`."""
        self._require_root(f"{self.references}/", f"{self.targets}/")
        root = self.root_path
        references, targets = root / self.references, root / self.targets
        given = root / TARGETS_FILE
        examples = convert_references(references, coco_categories(given) if given.is_file() else None)
        # Two folders of the same name have different caches.
        cache = cache_root / f"folder-{self.label()}-{content_key([str(references), str(targets)])[:10]}"
        _write(examples, cache / "references.json")
        if not given.is_file():
            _write(convert_targets(targets, examples.categories), cache / TARGETS_FILE)
        return DatasetFiles(
            references_file=cache / "references.json",
            reference_images=references,
            targets_file=given if given.is_file() else cache / TARGETS_FILE,
            target_images=targets,
        )


def _write(converted: Converted, path: Path) -> None:
    """Write a file unless it exists with the same content: several processes may do this at the same time."""
    for note in converted.notes:
        _LOG.warning("%s: %s.", converted.image_root, note)
    text = json.dumps(converted.document, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
