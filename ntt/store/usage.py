"""Which entries of the store a run has used: a list each run directory keeps."""

import logging
from pathlib import Path

from ntt.base.files import read_json
from ntt.errors import StorageError

_LOG = logging.getLogger(__name__)

STORE_KEYS = "store_keys.json"
KEY_DIGITS = 16
"""Hexadecimal digits of a store key that are written down: enough to tell 2^32 entries apart."""


def used_store_keys(root: Path) -> dict[str, dict[str, list[str]]]:
    """Return stage -> kind -> beginnings of keys of the store's entries that a run has used.

    Args:
        root: the run directory. One without such a list, or with a damaged one, has used nothing.
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
        _LOG.warning("%s does not list entries of the store (%s); it is passed over.", root / STORE_KEYS, error)
        return {}
    return used
