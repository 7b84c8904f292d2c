"""Where the library's log goes: the console, the run's `run.log`; each warning once."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from ntt.errors import StorageError


@contextmanager
def console_logging(rank: int = 0) -> Iterator[None]:
    """Send the library's log to the console while the block runs.

    Rank 0 shows everything from INFO on; the others only errors, with their rank.
    """
    logger = logging.getLogger("ntt")
    console: logging.Handler = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter("%(message)s"))
    if rank:
        console.setFormatter(logging.Formatter(f"[process {rank}] %(levelname)s %(message)s"))
        console.setLevel(logging.ERROR)
    before = (logger.level, logger.propagate)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(console)
    # What is said before the run directory may be created is written to its log later.
    early = MemoryHandler(sys.maxsize, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    logger.addHandler(early)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logger.removeHandler(console)
        logger.removeHandler(early)
        console.flush()


@contextmanager
def file_logging(root: Path, rank: int = 0) -> Iterator[None]:
    """Send the log of rank 0, and the error that ends the block, to the run's `run.log`.

    Raises:
        StorageError: if the run directory cannot be written.
    """
    if rank:
        yield
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        handler = _RunLog(root / "run.log", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"Cannot write into the run directory {root}: {error}. Set runtime.output_root to a writable folder."
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logger = logging.getLogger("ntt")
    for early in [early for early in logger.handlers if isinstance(early, MemoryHandler)]:
        early.setTarget(handler)
        early.flush()
        logger.removeHandler(early)
    logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        message = f"stopped by {type(error).__name__}: {error}"
        handler.handle(logging.LogRecord("ntt", logging.ERROR, __file__, 0, message, None, None))
        raise
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk; the error that ended the block is the one to show
            handler.close()


class _RunLog(logging.FileHandler):
    """A log file that is given up where it cannot be written: the disk is full, and the run itself will say so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Pass over an error of the disk; anything else is a defect and is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def each_warning_once() -> Iterator[None]:
    """While the block runs, show every distinct warning of the library once, wherever its log goes."""
    places = [(handler, _Distinct()) for handler in _handlers(logging.getLogger("ntt"))]
    for handler, distinct in places:
        handler.addFilter(distinct)
    try:
        yield
    finally:
        for handler, distinct in places:
            handler.removeFilter(distinct)


class _Distinct(logging.Filter):
    """Lets warnings and errors through the first time they are said; everything milder always."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is to be shown."""
        if record.levelno < logging.WARNING:
            return True
        sentence = (record.name, record.getMessage())
        is_new = sentence not in self._said
        self._said.add(sentence)
        return is_new


def _handlers(logger: logging.Logger) -> list[logging.Handler]:
    """Return what a logger's records reach."""
    found = list(logger.handlers)
    while logger.propagate and logger.parent is not None:
        logger = logger.parent
        found += logger.handlers
    return found or ([] if logging.lastResort is None else [logging.lastResort])
