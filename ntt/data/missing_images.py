"""Images that do not exist under the name in an annotation file: which file is meant, and how the names differ."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from ntt.types import ImageRecord

_DIFFERENCES: dict[str, Callable[[str], str]] = {
    "a backslash in place of a slash": lambda name: name.replace("\\", "/"),
    "an escape such as %20": unquote,
    "the Unicode form of a letter": lambda name: unicodedata.normalize("NFC", name),
    "upper and lower case": str.casefold,
    "blanks at the end": str.strip,
}


def missing_problems(missing: Sequence[ImageRecord], total: int) -> list[str]:
    """Return one sentence for all images whose names differ from a file's in the same way, and one per other image."""
    by_folder: defaultdict[Path, list[ImageRecord]] = defaultdict(list)
    for record in missing:
        by_folder[Path(str(record.path)[: -len(record.file_name)])].append(record)
    alike: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    unexplained: list[ImageRecord] = []
    for folder, records in by_folder.items():
        paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
        files = {_form(name): name for name in (path.relative_to(folder).as_posix() for path in paths)}
        for record in records:
            file = next((files[form] for form in _forms_below(record.file_name) if form in files), None)
            if file is None:
                unexplained.append(record)
            else:
                alike[_difference(record.file_name, file)].append((record.file_name, file))
    if len(unexplained) == total > 1:
        return [f"None of the {total} images exist, such as {unexplained[0].path}. Is the folder right?"]
    return [
        f"{len(pairs)} of {total} images have other names on disk: {pairs[0][0]!r} exists as {pairs[0][1]!r}. These "
        f"differ by {difference}; correct `file_name`."
        for difference, pairs in alike.items()
    ] + [f"There is no image {record.path}. Add it, or correct the image folder." for record in unexplained]


def _form(name: str, *, without: str | None = None) -> str:
    for difference, unify in _DIFFERENCES.items():
        name = name if difference == without else unify(name)
    return name


def _forms_below(name: str) -> Iterator[str]:
    """Yield the unified name, then without its first folders, because names may begin at another folder."""
    parts = _form(name).split("/")
    for start in range(len(parts)):
        yield "/".join(parts[start:])


def _difference(name: str, file: str) -> str:
    differences = [
        difference for difference in _DIFFERENCES if _form(name, without=difference) != _form(file, without=difference)
    ]
    if len(_form(name).split("/")) > len(_form(file).split("/")):
        slashes = ["a backslash in place of a slash"] if "\\" in name and "\\" not in file else []
        differences = [*slashes, "leading folders"]
    return " and ".join(differences)
