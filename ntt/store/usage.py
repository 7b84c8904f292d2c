"""Which entries of the store a run has used: a list in each run directory."""

import logging
from pathlib import Path

from ntt.base.files import read_json
from ntt.errors import StorageError

_LOG = logging.getLogger(__name__)

STORE_KEYS = "store_keys.json"
KEY_DIGITS = 16
"""Hexadecimal digits of a store key that are listed: enough to distinguish 2^32 entries."""


def used_store_keys(root: Path) -> dict[str, dict[str, list[str]]]:
    """Return stage -> kind -> beginnings of the keys of store entries that the run in a directory has used.

    Without such a list, or with a damaged one, it has used nothing.
    """
    if not (root / STORE_KEYS).is_file():
        return {}
    try:
        used: dict[str, dict[str, list[str]]] = read_json(root / STORE_KEYS)
        if not all(isinstance(key, str) for kinds in used.values() for keys in kinds.values() for key in keys):
            raise TypeError("a key is no text")
    except StorageError as error:
        _LOG.warning("%s", error)
        return {}
    except (AttributeError, TypeError) as error:
        _LOG.warning("%s does not list entries of the store (%s); it is ignored.", root / STORE_KEYS, error)
        return {}
    return used
