"""Settings that are text keep what was typed: `dataset.root=2024_01_15` is a folder, not the number 20240115.

So do words with letters that Hydra takes in quotes only, such as `~/Bücher`.
"""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from ntt.config.registry import OPTION_GROUPS, option_schemas
from ntt.config.schema import ExperimentConfig
from ntt.errors import ConfigError

_INTERPOLATION = r"\$\{(?:[^{}]|\{[^{}]*\})*\}"
# Quoted text, or a run of interpolations and what neither separates values nor encloses them.
_TOKEN = re.compile(rf""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?:{_INTERPOLATION}|[^,\[\](){{}}="'])+""")
_LISTS_VALUES = ("choice(", "shuffle(", "sort(")
_UNQUOTED = re.compile(r"[\w/\-\\+.$%*@?|: \t]*", re.ASCII)


def keep_text(lines: Sequence[str]) -> list[str]:
    """Quote, in values of settings that are text, what Hydra would refuse, or read as a number, a truth value or null.

    A ConfigError for a number of hundreds of digits, which Python refuses to read.
    """
    for line in lines:
        if re.search(r"\d{400}", line):
            raise ConfigError(f"{line[:40]}...: no setting takes a number of so many digits. Give a shorter one.")
    return [_quoted(line) for line in lines]


def _quoted(line: str) -> str:
    key, _, value = line.partition("=")
    hint = _text_settings().get(key.lstrip("+"))
    if hint is None or ("(" in value and not value.startswith(_LISTS_VALUES)):
        return line
    null_is_none = type(None) in get_args(hint) and not value.startswith("[")
    return f"{key}={_TOKEN.sub(lambda match: _quote(match[0], null_is_none=null_is_none), value)}"


def _quote(token: str, *, null_is_none: bool) -> str:
    text = token.strip()
    is_null = text.lower() == "null" and not null_is_none
    is_typed = is_null or text.lower() in ("true", "false") or _is_number(text)
    is_plain = token[0] in "\"'" or text.endswith("\\") or _UNQUOTED.fullmatch(re.sub(_INTERPOLATION, "", text))
    return token if is_plain and not is_typed else token.replace(text, "'" + text.replace("'", r"\'") + "'")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@cache
def _text_settings() -> dict[str, Any]:
    """Return the types of the settings that are text or lists of text, by dotted key."""
    hints = {name: [hint] for name, hint in get_type_hints(ExperimentConfig).items() if not is_dataclass(hint)}
    for group, hint in get_type_hints(ExperimentConfig).items():
        for schema in option_schemas(*OPTION_GROUPS[group]).values() if group in OPTION_GROUPS else [hint]:
            for declared in fields(schema) if is_dataclass(schema) else ():
                hints.setdefault(f"{group}.{declared.name}", []).append(get_type_hints(schema)[declared.name])
    return {key: of_key[0] for key, of_key in hints.items() if all(map(_is_text, of_key))}


def _is_text(hint: Any) -> bool:
    """Return whether a type is str or list[str], or one of these or None."""
    members = {member for member in (get_args(hint) or (hint,)) if member is not type(None)}
    return members in ({str}, {list[str]})
