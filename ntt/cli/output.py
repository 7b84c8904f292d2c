"""The one place from which commands print, and what holds for every file they write."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ntt.errors import ConfigError


def echo(text: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{text}\n")


def check_output(output: Path, *, sources: Sequence[Path] = ()) -> None:
    """Refuse to write over anything.

    Args:
        output: file to write.
        sources: files the command reads.

    Raises:
        ConfigError: if the output exists already.
    """
    if output.exists() and any(source.exists() and output.samefile(source) for source in sources):
        raise ConfigError(
            f"--output={output} is the annotation file itself, which is never changed. Name another file."
        )
    if output.exists():
        raise ConfigError(
            f"--output={output} exists already and would be overwritten. Name another file, or delete it first."
        )
