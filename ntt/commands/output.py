"""The one place from which commands print."""

import sys


def echo(text: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{text}\n")
