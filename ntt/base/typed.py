"""Dataclasses from the plain values of YAML and JSON: the one place that checks types, ranges and names."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ntt.base.files import read_json
from ntt.base.settings import range_problems
from ntt.base.yaml_files import Plain
from ntt.errors import StorageError

T = TypeVar("T")
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    NoneType: "null",
    Path: "a path",
}


def read_dataclass(
    cls: type[T], values: Any, problems: list[str], *, key: str = "", strict: bool = True, **more: Any
) -> T | None:
    """Build a dataclass from plain values; the types and metadata (`setting`) of its fields define what is allowed.

    `values` has a value for each field that has no default, except those given as `more`, which are not read.
    `problems` receives one sentence per unknown, missing or unusable value; `key` is that of the values themselves, ""
    at the root. Unknown keys are ignored unless `strict`. Returns the instance, with defaults in place of unusable
    values; None if a value without default is unusable.
    """
    usable = {**read_fields(cls, values, problems, key=key, without=tuple(more), strict=strict), **more}
    required = {item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING}  # type: ignore[arg-type]
    if required <= set(usable):
        return cls(**usable)
    absent = required - set(usable) - set(values if isinstance(values, Mapping) else ())
    problems += [f"{_dotted(key, name)} is missing." for name in sorted(absent)]
    return None


def read_fields(
    cls: type[Any],
    values: Any,
    problems: list[str],
    *,
    key: str = "",
    without: tuple[str, ...] = (),
    strict: bool = True,
) -> dict[str, Any]:
    """Return the usable values of fields that are not in `without`; some may be absent. See `read_dataclass`."""
    hints = get_type_hints(cls)
    by_name = {declared.name: declared for declared in fields(cls) if declared.name not in without}
    if not isinstance(values, Mapping):
        problems.append(_refusal(key, values, f"a mapping with the keys {', '.join(by_name)}"))
        return {}
    usable = {}
    for name, value in values.items():
        inner: list[str] = []
        if name in by_name:
            usable[name] = _convert(value, hints[name], _dotted(key, name), inner, strict)
            inner = inner or range_problems(by_name[name], usable[name], _dotted(key, name))
        elif strict:
            inner.append(unknown_key(_dotted(key, name), [_dotted(key, sibling) for sibling in by_name]))
        if inner:
            usable.pop(name, None)
            problems += inner
    return usable


def read_record(cls: type[T], path: Path, *, remedy: str) -> T:
    """Read a JSON file into the dataclass it was written from; keys that only another version has are ignored.

    A StorageError, which ends with `remedy`, if it is damaged, or of another version of this program.
    """
    problems: list[str] = []
    try:
        record = read_dataclass(cls, read_json(path), problems, strict=False)
    except StorageError as error:
        raise StorageError(f"{error} {remedy}") from error
    if record is None or problems:
        raise StorageError(f"{path} is of another version of this program ({problems[0]}) {remedy}")
    return record


def unknown_key(key: str, allowed: list[str]) -> str:
    """Return a message that there is no such key, with the closest allowed one."""
    close = difflib.get_close_matches(key, allowed, n=1)
    return f"There is no key {key}. " + (f"Did you mean {close[0]}?" if close else f"Allowed: {', '.join(allowed)}.")


def _convert(value: Any, hint: Any, key: str, problems: list[str], strict: bool) -> Any:
    """Convert a value to a type, or note why that is impossible."""
    origin, members = get_origin(hint), get_args(hint)
    value = _from_text(value, hint) if isinstance(value, Plain) and origin is None else value
    if origin in (Union, UnionType):
        return _convert_to_any(value, members, key, problems, strict)
    if is_dataclass(hint):
        return read_dataclass(hint, value, problems, key=key, strict=strict)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, members[0], key, problems, strict) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {
            str(name): _convert(item, members[1], _dotted(key, name), problems, strict) for name, item in value.items()
        }
    if hint is Path and isinstance(value, str):
        return Path(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is Any or (hint is float and is_number) or (origin is None and type(value) is hint):
        return value
    problems.append(_refusal(key, value, _words(hint)))
    return None


def _from_text(text: Plain, hint: Any) -> Any:
    """Return an unquoted scalar as the requested type if possible, else as text."""
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if hint is int and re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    if hint is float and re.fullmatch(r"[-+]?(\d+\.?|\d*\.\d+)([eE][-+]?\d{1,3})?", text):
        return float(text)
    return str(text)


def _convert_to_any(value: Any, members: tuple[Any, ...], key: str, problems: list[str], strict: bool) -> Any:
    """Convert to the first type that fits."""
    tried: list[list[str]] = []
    for member in members:
        tried.append([])
        converted = _convert(value, member, key, tried[-1], strict)
        if not tried[-1]:
            return converted
    # A mistake inside a list or mapping is more informative than another type that would have been allowed.
    inner = [attempt for attempt in tried if not attempt[0].startswith(f"{key}={yaml_text(value)} ")]
    problems += inner[0] if inner else [_refusal(key, value, _words(*members))]
    return None


def _refusal(key: str, value: Any, allowed: str) -> str:
    return f"{key}{'=' if key else ''}{yaml_text(value)} is invalid. Allowed: {allowed}."


def _words(*hints: Any) -> str:
    """Name the types of values."""
    words = [_WORDS.get(hint, "a list" if get_origin(hint) is tuple else "a mapping") for hint in hints]
    words = [word for word in dict.fromkeys(words) if not (word == "a whole number" and "a number" in words)]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def yaml_text(value: object) -> str:
    """Return a value as written in YAML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _dotted(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)
