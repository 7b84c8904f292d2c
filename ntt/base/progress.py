"""Progress of long work: bars on a terminal; elsewhere a log line now and then, or nothing for downloads."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_LOG_EVERY_S = 10.0


def track(items: Sequence[T], stage: str, *, unit: str, visible: bool) -> Iterator[T]:
    """Yield the items and show the stage's progress; `unit` names one item, such as "image"."""
    if not visible:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, desc=f"{stage:<14}", unit=unit, leave=False, dynamic_ncols=True)
        return
    started = logged = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - logged >= _LOG_EVERY_S:
            logged = now
            left_s = (now - started) / done * (len(items) - done)
            _LOG.info("%-14s %d of %d %ss, about %.0f s left", stage, done, len(items), unit, left_s)
        yield item


@contextmanager
def download_bars() -> Iterator[Callable[[str], Callable[[int, int | None], None]]]:
    """Yield a function that starts a download's bar, ends the previous one, and returns the callback of `download`."""
    with ExitStack() as bars:

        def begin(name: str) -> Callable[[int, int | None], None]:
            bars.close()
            bar = bars.enter_context(tqdm(desc=name, unit="B", unit_scale=True, dynamic_ncols=True, disable=None))

            def show(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return show

        yield begin
