"""Progress of long work: bars on a terminal; elsewhere a log line now and then, or nothing for files."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import NoReturn, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_LOG_EVERY_S = 10.0


def track(items: Iterable[T], stage: str, *, unit: str, visible: bool) -> Iterator[T]:
    """Yield the items and show the stage's progress; `unit` names one item, such as "image"."""
    if not visible:
        yield from items
        return
    has_bar = sys.stderr.isatty()
    total = len(items) if isinstance(items, Sized) else None
    started = logged = time.monotonic()
    bar = tqdm(items, desc=f"{stage:<14}", unit=unit, leave=False, dynamic_ncols=True, disable=not has_bar)
    for done, item in enumerate(bar):
        now = time.monotonic()
        if done == 1:
            started = now  # the first item takes longer: models are loaded for it
        if done and now - logged >= _LOG_EVERY_S:
            logged = now
            of_all = "" if total is None else f" of {total}"
            rest_s = (now - started) / (done - 1) * (total - done) if total is not None and done > 1 else None
            left = "" if rest_s is None else f", about {rest_s:.0f} s left"
            # With a bar on the terminal the line is for the run's log alone.
            _LOG.info("%-14s %d%s %ss%s", stage, done, of_all, unit, left, extra={"has_bar": has_bar})
        yield item


def byte_bar(label: str, total: int | None, *, done: int) -> "tqdm[NoReturn]":
    """Return a bar for the bytes of a file, of which `done` exist; on a terminal only. It is updated by hand."""
    return tqdm(desc=label, initial=done, total=total, unit="B", unit_scale=True, dynamic_ncols=True, disable=None)
