"""Class splits: named lists of classes, and their look-up in a data set."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from ntt.errors import ConfigError, raise_all
from ntt.types import Category

ALL = "all"

_LISTED_NAMES = 30
_FREQUENCY_SPLITS = {"lvis_rare": "r", "lvis_common": "c", "lvis_frequent": "f"}
"""Splits by how often a class occurs in LVIS; the annotation file itself says so, in its categories' `frequency`."""

_OTHER_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""Pascal VOC's name of a class -> COCO's. Used in hints only: what a data set calls a class is never guessed."""


def split_names() -> tuple[str, ...]:
    """Return the names `resolve_split` knows: `all`, the named lists, and the splits by frequency."""
    return (ALL, *_named_splits(), *_FREQUENCY_SPLITS)


def split_classes(name: str) -> tuple[str, ...]:
    """Return the class names of a named list, in its order.

    Raises:
        ConfigError: if there is no list of this name.
    """
    splits = _named_splits()
    if name not in splits:
        raise ConfigError(
            f"There is no class split named {name!r}.{_nearest(name, split_names())} Choose one of "
            f"{', '.join(split_names())}, or list class names in split.classes."
        )
    return tuple(splits[name])


def resolve_split(
    name: str,
    classes: Sequence[str] | None,
    available: Sequence[Category],
    frequencies: Mapping[int, str] | None = None,
) -> tuple[Category, ...]:
    """Choose the categories of an experiment.

    Args:
        name: `all` or a name of `split_names()`.
        classes: class names that take the place of a named split; None to go by `name`.
        available: the categories of the data set.
        frequencies: category id -> "r", "c" or "f", where the data set's file says so; for the splits of LVIS.

    Returns:
        The chosen categories, sorted by id.

    Raises:
        ConfigError: for an unknown split, for both a named split and class names, and for classes the data set does
            not have.
    """
    if classes is not None and name != ALL:
        raise ConfigError(
            f"split.name={name} and split.classes={list(classes)} exclude each other. Leave out one of the two."
        )
    if classes is None and name == ALL:
        return _sorted(available)
    if classes is None and name in _FREQUENCY_SPLITS:
        return _of_frequency(name, available, frequencies or {})
    wanted = split_classes(name) if classes is None else tuple(classes)
    _check_list(wanted)
    by_name = {category.name: category for category in available}
    _check_available(wanted, by_name, origin="split.classes" if classes is not None else f"split {name}")
    return _sorted(by_name[class_name] for class_name in wanted)


@cache
def _named_splits() -> dict[str, list[str]]:
    text = Path(__file__).with_name("splits.json").read_text(encoding="utf-8")
    splits: dict[str, list[str]] = json.loads(text)
    return splits


def _of_frequency(name: str, available: Sequence[Category], frequencies: Mapping[int, str]) -> tuple[Category, ...]:
    letter = _FREQUENCY_SPLITS[name]
    chosen = _sorted(category for category in available if frequencies.get(category.id) == letter)
    if not chosen:
        raise ConfigError(
            f"split={name} takes the classes whose `frequency` is {letter!r} in the references file, and there is "
            "none. Files of LVIS have r, c and f there; for another data set use split=all or split.classes."
        )
    return chosen


def _check_list(wanted: Sequence[str]) -> None:
    if not wanted:
        raise ConfigError("split.classes is empty: at least one class is needed. Name some, or choose split=all.")
    repeated = sorted({name for name in wanted if list(wanted).count(name) > 1})
    if repeated:
        raise ConfigError(f"split.classes names {', '.join(map(repr, repeated))} more than once. Name each class once.")


def _check_available(wanted: Sequence[str], by_name: dict[str, Category], *, origin: str) -> None:
    missing = [name for name in wanted if name not in by_name]
    if not missing:
        return
    names = sorted(by_name)
    shown = ", ".join(names[:_LISTED_NAMES]) + (
        f" and {len(names) - _LISTED_NAMES} more" if len(names) > _LISTED_NAMES else ""
    )
    problems = [
        f"{origin} names the class {name!r}, which the data set does not have.{_hint(name, names)}" for name in missing
    ]
    problems[-1] += (
        f" The data set has {len(names)} classes: {shown}. Choose from these in split.classes, or use split=all."
    )
    raise_all(problems, ConfigError, summary=f"{len(missing)} of {len(wanted)} classes are not in the data set")


def _hint(name: str, names: Sequence[str]) -> str:
    """Suggest what may be meant: the same class under Pascal VOC's or COCO's name, else the most similar names."""
    same = [coco if name == voc else voc for voc, coco in _OTHER_NAMES.items() if name in (voc, coco)]
    found = [other for other in same if other in names]
    if found:
        return f" It may be the class it calls {found[0]!r}; names are not translated."
    return _nearest(name, names)


def _nearest(name: str, names: Iterable[str]) -> str:
    by_lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    if not close:
        return ""
    return f" The nearest is {' or '.join(repr(by_lower[other]) for other in close)}."


def _sorted(categories: Iterable[Category]) -> tuple[Category, ...]:
    return tuple(sorted(categories, key=lambda category: category.id))
