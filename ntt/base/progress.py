"""Progress of long work: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_LOG_EVERY_S = 10.0


def track(items: Sequence[T], stage: str, *, unit: str, visible: bool) -> Iterator[T]:
    """Yield the items and show how far the stage is.

    Args:
        items: what is worked through.
        stage: name shown before the count.
        unit: what one item is, such as "image".
        visible: False in all processes but one.
    """
    if not visible:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, desc=f"{stage:<14}", unit=unit, leave=False, dynamic_ncols=True)
        return
    started = shown = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - shown >= _LOG_EVERY_S:
            shown = now
            left_s = (now - started) / done * (len(items) - done)
            _LOG.info("%-14s %d of %d %ss, about %.0f s left", stage, done, len(items), unit, left_s)
        yield item
