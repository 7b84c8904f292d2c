"""Finds annotation files under the names annotation tools give them, and the folders their images are in.

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
    """Return the first file below a folder that is called as an annotation tool calls its COCO files.

    Raises:
        DataError: if several fit one pattern.
    """
    for pattern in _PATTERNS:
        files = sorted(root.glob(pattern))
        if len(files) > 1:
            names = " and ".join(path.name for path in files[:2])
            raise DataError(f"{root} holds {names}: which one has the examples? Name it in dataset.references.")
        if files:
            return files[0]
    return None


def find_image_folder(root: Path, annotation_file: Path) -> Path | None:
    """Return the folder, `root` or one below it, that an annotation file's file names start from.

    `images` and the file's own folder come first.

    Raises:
        DataError: if several others fit.
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
            f"{others[0]} and {others[1]} hold images of the names in {annotation_file}. Name the folder in "
            "dataset.reference_images or dataset.target_images."
        )
    return others[0] if others else None


def _first_names(annotation_file: Path) -> list[str]:
    """Return the first file names in a file, of which no more is read: it may hold millions of annotations."""
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
