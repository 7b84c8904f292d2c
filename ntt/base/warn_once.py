"""Work over many points says the same of each of them; once is enough."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


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
