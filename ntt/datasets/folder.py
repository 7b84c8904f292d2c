"""A plain folder of example images and images to search, without any annotation format."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.base.digests import content_key
from ntt.base.files import write_text
from ntt.base.settings import setting
from ntt.convert.base import Converted
from ntt.convert.plain_folder import coco_categories, convert_references, convert_targets
from ntt.datasets.base import DatasetConfig, DatasetFiles, folder_label
from ntt.errors import DataError
from ntt.types import Category

_LOG = logging.getLogger(__name__)
TARGETS_FILE = "targets.json"


@dataclass(frozen=True, kw_only=True)
class FolderConfig(DatasetConfig):
    """Schema of `dataset=folder`; `ntt/convert/plain_folder.py` describes its layout."""

    SCHEMA: ClassVar[str] = "folder"

    root: str = setting("???", path=True)
    """Folder of the data set."""

    references: str = "references"
    """Folder of the example images below `root`, one folder per class."""

    targets: str = "targets"
    """Folder of the images to search, below `root`."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Return whether a folder looks like one of these, rather than one in COCO format."""
        return (root / cls.references).is_dir() and not (root / "annotations").is_dir()

    def label(self) -> str:
        """Return the name of the root folder, so that runs on different folders are told apart at a glance."""
        return folder_label(self.root) or self.name

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Write annotation files for what the folder holds now, below the cache; nothing is written into `root`."""
        root = Path(self.root).expanduser().absolute()
        if not root.is_dir():
            raise DataError(
                f"dataset.root={self.root} is not a folder. Give the folder that holds {self.references}/ and "
                f"{self.targets}/, for example dataset.root=my_set."
            )
        references, targets = root / self.references, root / self.targets
        given = root / TARGETS_FILE
        examples = convert_references(references, coco_categories(given) if given.is_file() else None)
        # Two folders of the same name have different caches.
        cache = cache_root / f"folder-{self.label()}-{content_key([str(references), str(targets)])[:10]}"
        _write(examples, cache / "references.json")
        if not given.is_file():
            categories = [Category(entry["id"], entry["name"]) for entry in examples.document["categories"]]
            _write(convert_targets(targets, categories), cache / TARGETS_FILE)
        return DatasetFiles(
            references_file=cache / "references.json",
            reference_images=references,
            targets_file=given if given.is_file() else cache / TARGETS_FILE,
            target_images=targets,
        )


def _write(converted: Converted, path: Path) -> None:
    """Write a file unless it is there already with the same content: several processes may come here at once."""
    for note in converted.notes:
        _LOG.info("%s: %s", converted.image_root, note)
    text = json.dumps(converted.document, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
