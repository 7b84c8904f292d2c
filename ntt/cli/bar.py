"""A progress line on the terminal, for commands that take long."""

import sys
import time

_REDRAW_S = 0.2


class Bar:
    """A line that is rewritten on a terminal, and nothing where the output goes to a file."""

    def __init__(self, name: str) -> None:
        """Name what is going on; nothing is drawn yet."""
        self._name = name
        self._drawn_at = 0.0
        self._is_open = False

    def show(self, done: int, total: int | None) -> None:
        """Draw the state of a download, not more often than a person can read."""
        now = time.monotonic()
        if not sys.stdout.isatty() or (now - self._drawn_at < _REDRAW_S and done != total):
            return
        share = "" if not total else f" of {total / 1e6:.1f} MB ({100 * done // total} %)"
        sys.stdout.write(f"\r{self._name}: {done / 1e6:.1f} MB{share}\x1b[K")
        sys.stdout.flush()
        self._drawn_at, self._is_open = now, True

    def close(self) -> None:
        """Leave the line."""
        if self._is_open:
            sys.stdout.write("\n")
