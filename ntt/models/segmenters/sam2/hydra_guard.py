"""Importing the `sam2` package without its side effect.

`sam2/__init__.py` sets up Hydra globally, with its own config folder, unless some Hydra is set up already. An
application that is no Hydra application itself, or that starts Hydra later, would find the place taken. This is the
only module below `ntt/config/schema.py` that touches Hydra, and it only touches the place, never a configuration.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hydra_left_alone() -> Iterator[None]:
    """Hold Hydra's global place during an import, and leave it as it was."""
    from hydra.core.global_hydra import GlobalHydra

    place: Any = GlobalHydra.instance()
    before = place.hydra
    if before is None:
        place.hydra = "held while sam2 is imported"
    try:
        yield
    finally:
        place.hydra = before
