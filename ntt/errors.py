"""Errors addressed to the user.

A message states what is wrong, with the value and what is allowed, and what to do about it if that is not obvious.
`main.py` and the `ntt` command print such an error without a traceback; any other exception is a defect of ours.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest

EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130
"""Exit status of a program that ends with such an error, or with Ctrl-C."""
_NAME = re.compile(r"[\d/'\"=]|\w[._]\w")
_NAMED = 4


def printable(text: str) -> str:
    """Replace control characters, which a terminal would obey, and lone surrogates; keep line breaks and tabs."""
    if text.isprintable():
        return text
    allowed = "\n\t\xa0\u200c\u200d"  # the last three, a space and joiners, occur in names
    return "".join(each if each.isprintable() or each in allowed else "\ufffd" for each in text)


def one_line(text: str) -> str:
    """Put a text on one line, without control characters."""
    return printable(" ".join(text.split()))


def listed(names: Iterable[object], most: int = 10) -> str:
    """Return names separated by commas; beyond `most` of them, how many more there are."""
    texts = list(map(str, names))
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def counted(number: int, what: str, several: str | None = None) -> str:
    """Return "1 point", "2,000 points"; `several` is a plural that does not end in "s" alone."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def range_text(values: Collection[float]) -> str:
    """Return the range of values with two decimals; one value with as many as it needs, at least two."""
    low, high = min(values), max(values)
    if low == high:
        return max(f"{low:.2f}", f"{low:.4g}", key=len)
    return " to ".join(dict.fromkeys((f"{low:.2f}", f"{high:.2f}")))


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


def raise_all(problems: Sequence[str], kind: type[NttError], *, summary: str, where: str = "") -> None:
    """Raise one error, of class `kind`, that lists every problem at once; do nothing when there is none.

    `summary` is the heading of the list where there is more than one; `where` is what a single problem begins with.
    """
    if not problems:
        return
    problems = _one_each(problems)
    if len(problems) == 1:
        raise kind(where + problems[0])
    lines = [f"  - {problem}" for problem in problems[:20]]
    if len(problems) > 20:
        lines.append(f"  ... and {len(problems) - 20} more")
    raise kind("\n".join([f"{summary} ({len(problems)} problems):", *lines]))


def _one_each(problems: Sequence[str]) -> list[str]:
    """Join the problems that are one mistake in several places: they differ in names and numbers before "Allowed:"."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for problem in dict.fromkeys(problems):
        what, _, allowed = problem.partition(" Allowed: ")
        key = (*(word for word in what.split(" ") if not _NAME.search(word)), allowed)
        alike.setdefault(key, []).append(problem)
    return [first + _others(first, others) for first, *others in alike.values()]


def _others(first: str, others: Sequence[str]) -> str:
    """Return a sentence that names other problems by the first word in which each differs."""
    if not others:
        return ""
    words = first.split(" ")
    names = [
        next((name for name, word in zip_longest(other.split(" "), words) if name and name != word), "the same")
        for other in others
    ]
    return f" The same holds for {len(others)} more ({listed((name.rstrip(',:.') for name in names), _NAMED)})."
