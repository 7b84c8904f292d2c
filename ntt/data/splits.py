"""The classes of an experiment, looked up in a data set."""

import difflib
from collections.abc import Mapping, Sequence

import yaml

from ntt.base.project import CONF_DIR
from ntt.errors import ConfigError, listed, raise_all
from ntt.types import Category


def split_classes(option: str) -> tuple[str, ...]:
    """Return the class names that an option of the config group `split` lists."""
    text = (CONF_DIR / "split" / f"{option}.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text)["classes"])


def resolve_split(
    available: Sequence[Category],
    *,
    name: str = "all",
    classes: Sequence[str] | None = None,
    frequency: str | None = None,
    frequencies: Mapping[int, str] | None = None,
) -> tuple[Category, ...]:
    """Look up the categories of an experiment among those of a data set; return them sorted by id.

    They are chosen by class names or by `frequency`, "r", "c" or "f" for LVIS' rare, common or frequent classes;
    without both, all. `frequencies` has that of each category id, if the data set's file states it; `name` is the
    split's, for messages. A ConfigError for classes the data set does not have.
    """
    categories = list(available)
    if classes is not None:
        by_name = {category.name: category for category in available}
        _check_available(classes, by_name, origin="split.classes" if name == "all" else f"split={name}")
        categories = [by_name[class_name] for class_name in classes]
    elif frequency is not None:
        categories = [category for category in available if (frequencies or {}).get(category.id) == frequency]
        if not categories:
            raise ConfigError(
                f"split={name} takes the classes whose `frequency` is {frequency!r} in the references file, and there "
                "is none. Use split=all or split.classes."
            )
    return tuple(sorted(categories, key=lambda category: category.id))


def _check_available(classes: Sequence[str], by_name: Mapping[str, Category], *, origin: str) -> None:
    names = sorted(by_name)
    by_lower = {name.lower(): name for name in names}
    problems: list[str] = []
    for name in classes:
        if name not in by_name:
            close = [repr(by_lower[other]) for other in difflib.get_close_matches(name.lower(), by_lower)]
            hint = f" The nearest is {' or '.join(close)}." if close else ""
            problems.append(f"{origin} names the class {name!r}, which the data set does not have.{hint}")
    if problems:
        problems[-1] += f" It has {len(names)} classes: {listed(names, 30)}. Choose from these in split.classes."
    raise_all(problems, ConfigError, summary=f"{len(problems)} of {len(classes)} classes are not in the data set")
