"""Errors addressed to the user.

A message says what is wrong, with the value and what is allowed, and what to do about it if that is not obvious.
`main.py` and the `ntt` command print such an error without a traceback; any other exception is a defect of ours.
"""

from collections.abc import Sequence

EXIT_USER_ERROR = 2
"""Exit status of a program that ends with such an error."""


def printable(text: str) -> str:
    """Replace control characters, which a terminal would obey, and lone surrogates; keep line breaks and tabs."""
    allowed = "\n\t\xa0\u200c\u200d"  # the last three, a space and joiners, occur in names
    return "".join(each if each.isprintable() or each in allowed else "\ufffd" for each in text)


class NttError(Exception):
    """Base of all errors a user can fix."""

    def __str__(self) -> str:
        """Return the message; it quotes names from files and command lines."""
        return printable(super().__str__())


class ConfigError(NttError):
    """A setting, or a combination of settings, that cannot be run."""


class DataError(NttError):
    """An annotation file, an image or a folder that cannot be used."""


class WeightsError(NttError):
    """Model weights that are missing, damaged or of the wrong model."""


class DownloadError(NttError):
    """A file that a server does not have, refuses, or sends wrongly."""


class StorageError(NttError):
    """A disk that is full or not writable, or an artefact that cannot be read back."""


class DistributedError(NttError):
    """A process of a distributed job that failed, vanished or disagrees with the others."""


def raise_all(problems: Sequence[str], kind: type[NttError], *, summary: str) -> None:
    """Raise one error, of class `kind`, that lists every problem at once; do nothing when there is none.

    `summary` is the heading of the list where there is more than one.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise kind(problems[0])
    lines = [f"  - {problem}" for problem in problems[:20]]
    if len(problems) > 20:
        lines.append(f"  ... and {len(problems) - 20} more")
    raise kind("\n".join([f"{summary} ({len(problems)} problems):", *lines]))
