"""Standard output and standard error, when nobody reads them any more."""

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer


def outlive_readers() -> None:
    """Let this process go on silently once nobody reads what it prints, as in `python main.py | head`.

    For runs: their results lie in files. Without this, every further line would end in an error.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:  # the shell's `>&-` takes it away
            setattr(sys, name, _outliving(stream))


def _outliving(stream: TextIO) -> TextIO:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )


class _Output(io.FileIO):
    """A descriptor that leads nowhere as soon as its reader has gone."""

    def write(self, data: "Buffer", /) -> int:
        """Write what can be written; return how many bytes are done with."""
        try:
            return super().write(data)
        except BrokenPipeError:
            if not reader_has_gone(self.fileno()):
                raise
            return super().write(data)


def reader_has_gone(output: int) -> bool:
    """Say whether nobody reads a descriptor any more, as in `ntt weights list | head`; it then leads nowhere."""
    watcher = select.poll()
    watcher.register(output, 0)
    if not watcher.poll(0):
        return False
    # Python flushes once more when it ends, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True
