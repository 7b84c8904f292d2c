"""Settings: dataclass fields that carry their range or choices, and whether they decide a result.

Every option's dataclass is written once with `setting(...)`; checks and digests read the fields' metadata.
"""

import math
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

_LARGEST = 2**63 - 1
_FILE_NAME = re.compile(r"[^\W_][\w.+-]*|[?]{3}")  # or not set yet


def setting(
    default: Any = MISSING,
    *,
    default_factory: Callable[[], Any] | Any = MISSING,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    one_of: Sequence[Any] = (),
    decides: bool = True,
    path: bool = False,
    names: bool = False,
) -> Any:
    """Declare a field of a settings dataclass, with its bounds (>=, >, <=, <) or its choices.

    `decides=False`: the setting cannot change a result, and digests leave it out. `path`: they take the absolute path.
    `names`: the text becomes part of file names.
    """
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt, "one_of": tuple(one_of) or None}
    metadata = {name: limit for name, limit in limits.items() if limit is not None}
    metadata = {**metadata, "decides": decides, "path": path, "names": names}
    return field(default=default, default_factory=default_factory, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Option:
    """What the options of all config groups have."""

    name: str = setting("???", decides=False, names=True)
    """Name of the option; it appears in run directories and tables."""


def setting_problems(settings: Any, prefix: str = "") -> list[str]:
    """Return one sentence per value out of the range of its field, nested settings included; None always passes.

    `prefix` is the key of the settings themselves, such as "matcher"; "" at the root.
    """
    problems: list[str] = []
    for declared in fields(settings):
        key = f"{prefix}.{declared.name}" if prefix else declared.name
        value = getattr(settings, declared.name)
        members = {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
        for name, member in members.items():
            is_nested = is_dataclass(member)
            problems += setting_problems(member, name) if is_nested else range_problems(declared, member, name)
    return problems


def range_problems(declared: "Field[Any]", value: Any, key: str) -> list[str]:
    """Check one value, named `key` in messages, against the metadata of its field; see `setting_problems`."""
    if value is None or _allows(declared, value):
        return []
    allowed = f"at most {_LARGEST:,}" if _is_absurd(declared, value) else allowed_values(declared) or "a finite number"
    return [f"{key}={value} is invalid. Allowed: {allowed}."]


def allowed_values(declared: "Field[Any]") -> str:
    """Describe the range or choices of a field: "0 to 1", "1 or more", "one of a, b"; "" if anything is allowed."""
    limits = declared.metadata
    if "one_of" in limits:
        return "one of " + ", ".join(map(str, limits["one_of"]))
    if limits.get("names"):
        return "letters, digits, '_', '-', '+' and '.', a letter or digit first"
    low = f"{limits['ge']:g}" if "ge" in limits else f"more than {limits['gt']:g}" if "gt" in limits else ""
    high = f"{limits['le']:g}" if "le" in limits else f"less than {limits['lt']:g}" if "lt" in limits else ""
    if low and high:
        return f"{low} to {high}"
    if "ge" in limits:
        return f"{low} or more"
    return f"at most {high}" if "le" in limits else low or high


def deciding_settings(settings: Any) -> dict[str, Any]:
    """Return the settings that decide a result as nested plain values with the kinds of options, ready for a digest."""
    return {
        declared.name: _plain(getattr(settings, declared.name), is_path=declared.metadata.get("path", False))
        for declared in fields(settings)
        if declared.metadata.get("decides", True)
    }


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys: {"matcher": {"merging": "soft"}} -> {"matcher.merging": "soft"}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _plain(value: Any, *, is_path: bool = False) -> Any:
    if is_path and value is not None:
        return os.path.normpath(Path(value).expanduser().absolute())
    if is_dataclass(value):  # two kinds of an option may share all settings
        kind = {"kind": value.SCHEMA} if hasattr(value, "SCHEMA") else {}
        return {**kind, **deciding_settings(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value


def _is_absurd(declared: "Field[Any]", value: Any) -> bool:
    """Return whether a number is larger than any sensible one, if the field has a minimum and no maximum."""
    limits = set(declared.metadata)
    is_open = bool({"ge", "gt"} & limits) and not {"le", "lt"} & limits
    return is_open and isinstance(value, int | float) and _LARGEST < value < math.inf


def _allows(declared: "Field[Any]", value: Any) -> bool:
    limits = declared.metadata
    return (
        not (isinstance(value, float) and math.isinf(value))
        and not _is_absurd(declared, value)
        and (not limits.get("names") or _FILE_NAME.fullmatch(value) is not None)
        and ("one_of" not in limits or value in limits["one_of"])
        and all(getattr(operator, name)(value, limits[name]) for name in ("ge", "gt", "le", "lt") if name in limits)
    )
