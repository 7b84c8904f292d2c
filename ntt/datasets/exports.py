"""Finds annotation files by the names that annotation tools give them, and the folders of their images.

| tool | file | images |
|---|---|---|
| Roboflow | `train/_annotations.coco.json` | beside it |
| CVAT | `annotations/instances_default.json` | `images/` or a folder below it |
| Label Studio | `result.json` | `images/`, which its file names begin with |
| VIA | `via_project_..._coco.json` | beside it |
"""

import json
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ntt.base.files import open_regular
from ntt.errors import DataError

_PATTERNS = (
    "train/_annotations.coco.json",
    "_annotations.coco.json",
    "annotations/instances_default.json",
    "annotations/instances_[Tt]rain*.json",
    "instances_default.json",
    "result.json",
    "*coco*.json",
)
_TRIED_IMAGES = 50
_MAX_FOLDERS = 10_000
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def find_annotation_file(root: Path) -> Path | None:
    """Return the first file named as annotation tools name COCO files; a DataError if several match one pattern."""
    for pattern in _PATTERNS:
        files = sorted(root.glob(pattern))
        if len(files) > 1:
            names = " and ".join(path.name for path in files[:2])
            raise DataError(f"{root} holds {names}, either of which may have the examples. Set dataset.references.")
        if files:
            return files[0]
    return None


def find_image_folder(root: Path, annotation_file: Path) -> Path | None:
    """Return the folder, `root` or one below it, that the file names in an annotation file are relative to.

    `images` and the file's own folder are tried first. A DataError if several other folders fit.
    """
    names = _first_names(annotation_file)
    if not names:
        return None
    for folder in (root / "images", annotation_file.parent, root):
        if _holds(folder, names):
            return folder
    others = [folder for folder in islice(_folders(root), _MAX_FOLDERS) if _holds(folder, names)]
    if len(others) > 1:
        raise DataError(
            f"Both {others[0]} and {others[1]} hold images with the names in {annotation_file}. Set "
            "dataset.reference_images or dataset.target_images to one of them."
        )
    return others[0] if others else None


def _first_names(annotation_file: Path) -> list[str]:
    """Return the first file names in a file, without reading all of it: it may hold millions of annotations."""
    try:
        with (
            open_regular(annotation_file) as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            texts = [match.group(1) for match in islice(_FILE_NAME.finditer(content), _TRIED_IMAGES)]
        names = [str(json.loads(text)) for text in texts]
    except (OSError, ValueError):  # the reader of the file explains it
        return []
    return [name for name in names if name.isprintable()]


def _holds(folder: Path, names: Sequence[str]) -> bool:
    try:
        return all((folder / os.path.normpath(name)).is_file() for name in names)
    except OSError:  # a name that is too long
        return False


def _folders(root: Path) -> Iterator[Path]:
    for folder, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in folders)
