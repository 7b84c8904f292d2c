"""Annotation files that list the contents of folders: written below the cache, never into the data set."""

import json
import logging
from pathlib import Path

from ntt.base.digests import content_key
from ntt.base.files import write_text
from ntt.convert.base import Converted

_LOG = logging.getLogger(__name__)


def list_folder(cache_root: Path, label: str, *folders: Path) -> Path:
    """Return where the lists of some folders are; data sets of the same name do not share them."""
    return cache_root / f"folder-{label}-{content_key([str(folder) for folder in folders])[:10]}"


def write_list(converted: Converted, path: Path) -> Path:
    """Write a list unless it exists with the same content; several processes may do so at the same time."""
    for note in converted.notes:
        _LOG.warning("%s: %s.", converted.image_root, note)
    text = json.dumps(converted.document, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path
