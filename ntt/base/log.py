"""Destinations of the library's log: the console and the run's `run.log`; each warning once."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TextIO

from ntt.errors import StorageError, printable


@contextmanager
def console_logging(rank: int = 0) -> Iterator[None]:
    """Show the library's log while the block runs: INFO and above; for ranks other than 0, errors only."""
    lenient_stdout()
    logger = logging.getLogger("ntt")
    console = _Console(sys.stdout)
    console.setFormatter(_Formatter("%(message)s"))
    console.addFilter(lambda record: not getattr(record, "has_bar", False))
    if rank:
        console.setFormatter(_Formatter(f"[process {rank}] %(levelname)s %(message)s"))
        console.setLevel(logging.ERROR)
    before = (logger.level, logger.propagate)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(console)
    # Messages logged before the run directory may be created are buffered, and written to its log later.
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


def lenient_stdout() -> None:
    """Print question marks for characters, as in class names, that the terminal's encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


class _Formatter(logging.Formatter):
    """Replaces control characters: names come from annotation files, and a terminal would obey them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Console(logging.StreamHandler[TextIO]):
    """Standard output that may be closed early: a run continues after `python main.py | head`."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Discard output once the reader has gone; any other error is a defect and is shown."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        else:
            super().handleError(record)


@contextmanager
def file_logging(root: Path, rank: int = 0) -> Iterator[None]:
    """Send the log of rank 0, and the error that ends the block, to `run.log`; a StorageError if it is not writable."""
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
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(message)s"))
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
        with suppress(OSError):  # a full disk; the error that ended the block is the one to show
            handler.close()


class _RunLog(logging.FileHandler):
    """A log file that ignores disk errors: the run itself reports a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def each_warning_once() -> Iterator[None]:
    """While the block runs, let each handler of the library's log show every distinct warning once."""
    logger = logging.getLogger("ntt")
    handlers = [*logger.handlers, *(logging.root.handlers if logger.propagate else ())] or [logging.lastResort]
    filters = [(handler, _NewWarnings()) for handler in handlers if handler is not None]
    for handler, new_warnings in filters:
        handler.addFilter(new_warnings)
    try:
        yield
    finally:
        for handler, new_warnings in filters:
            handler.removeFilter(new_warnings)


class _NewWarnings(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._messages: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = (record.name, record.getMessage())
        is_repeated = message in self._messages
        self._messages.add(message)
        return record.levelno < logging.WARNING or not is_repeated
