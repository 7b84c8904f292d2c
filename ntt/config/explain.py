"""Explains in one sentence why Hydra refuses an override, with a guess at what was meant. Needs a `hydra_session`."""

import difflib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ntt.base.settings import flatten_settings
from ntt.base.typed import unknown_key
from ntt.config.registry import OPTION_GROUPS, active_sources, compose_lines, hydra_session, option_schemas
from ntt.errors import listed

# Hydra raises a bare ValueError for a group option that is not a word, such as shots=5.
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError)
_PLUGINS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "optuna": "hydra-optuna-sweeper",
    "ax": "hydra-ax-sweeper",
    "nevergrad": "hydra-nevergrad-sweeper",
}


def program() -> str:
    """Return how a run is started here: `ntt run`, or `python main.py` in a clone that was started so."""
    return "python main.py" if Path(sys.argv[0]).name == "main.py" else "ntt run"


def group_options(group: str) -> list[str]:
    """Return the names of a config group's options, sorted; empty if there is no such group."""
    loader = GlobalHydra.instance().config_loader()
    return sorted(loader.get_group_options(group)) if re.fullmatch(r"\w[\w/]*", group) else []


def option_names(group: str) -> list[str]:
    """Return the project's own options of a group, outside a session."""
    with hydra_session():
        return group_options(group)


def no_schema(group: str) -> str:
    """Explain that an option's file builds on no schema."""
    schemas = ", ".join(name for name in option_schemas(*OPTION_GROUPS[group]))
    return (
        f"{group}: the chosen option's file names no schema. Begin it with `defaults: [/schema/{group}/SCHEMA@_here_, "
        f"_self_]`, where SCHEMA is one of {schemas}."
    )


def unreadable(override: str) -> str:
    """Explain an override that cannot be parsed."""
    return f"{override}: this override cannot be read. Write KEY=VALUE.{quoting_hint(override)}"


def quoting_hint(override: str) -> str:
    """Show how a value with special characters, such as a path, is quoted: for Hydra, and again for the shell."""
    key, _, value = override.partition("=")
    if not value or value[0] in "\"'[{":
        return ""
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    command = shlex.quote(f'{key}="{text}"')
    return f" If the value is one text, such as a path, quote it twice: {command}"


def removal_problem(overrides: Sequence[Override]) -> str | None:
    """Explain why the first `~KEY` is refused; None if there is none. Hydra would remove what a run needs."""
    for override in overrides:
        if override.type == OverrideType.DEL and not override.is_hydra_override():
            line = override.input_line
            return f"{line}: a run needs all settings, so none can be removed. Leave {line} out to keep the default."
    return None


def first_problem(lines: Sequence[str]) -> str | None:
    """Explain the first override that cannot be composed; None if all can."""
    if error := _compose_error([]):
        return (
            f"--config-name {active_sources().name}: {str(error).splitlines()[0].rstrip('.')}. See --info searchpath."
        )
    accepted: list[str] = []
    # Options first: settings below a group exist only once its option is chosen.
    for line in sorted(lines, key=lambda line: "." in line.split("=")[0]):
        error = _compose_error([*accepted, line])
        if error is not None:
            return _explain(line, error, accepted)
        accepted.append(line)
    return None


def _compose_error(lines: Sequence[str]) -> Exception | None:
    try:
        compose_lines(lines)
    except COMPOSE_ERRORS as error:
        return error
    return None


def _explain(line: str, error: Exception, others: Sequence[str]) -> str:
    key, _, value = line.partition("=")
    key = key.lstrip("+~")
    if value in (options := group_options(key)):
        return _unusable_option(key, value, error)
    if key in ("hydra/launcher", "hydra/sweeper"):
        return _no_such_plugin(line, value, options)
    if options:
        return _no_such_option(key, value, options)
    settings = flatten_settings(cast("dict[str, Any]", OmegaConf.to_container(compose_lines(others))))
    if key not in settings:
        return _no_such_setting(line, key, settings)
    reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
    if "ListConfig" in reason:
        return f"{key}={value}: this setting takes a list. Write {key}=[{value}]."
    return f"{key}={value}: {reason}. Give a value of the same kind as the default, {key}={settings[key]}."


def _unusable_option(group: str, option: str, error: Exception) -> str:
    """Explain why the file of an existing option cannot be used."""
    text = str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        text = f"line {error.problem_mark.line + 1}: {error.problem}"
    if group in OPTION_GROUPS and (schema := re.search(r"Could not (?:find|load) '(/?schema/[^']*)'", text)):
        names = ", ".join(option_schemas(*OPTION_GROUPS[group]))
        return f"{group}={option}: its file builds on {schema[1]}, which does not exist. Allowed: one of {names}."
    if group in OPTION_GROUPS and f"not in '{OPTION_GROUPS[group][1].__name__}'" in text:
        return no_schema(group)
    cause = error.__context__  # Hydra names the file, OmegaConf the key
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and is_dataclass(cause.object_type):
        section = str(cause.full_key).removesuffix(str(cause.key))
        allowed = [f"{section}{declared.name}" for declared in fields(cause.object_type)]
        return f"{group}={option}: its file cannot be used. {unknown_key(str(cause.full_key), allowed)}"
    key = f"{cause.full_key}: " if isinstance(cause, OmegaConfBaseException) and cause.full_key else ""
    reason = re.search(r"(Key '.*|Value '.*)", text) or re.search(".*", text)
    return f"{group}={option}: its file cannot be used: {key}{reason[0].rstrip('.') if reason else text}."


def _no_such_plugin(line: str, name: str, installed: Sequence[str]) -> str:
    """Explain that a launcher or sweeper of Hydra is not installed."""
    text = f"{line}: this plug-in of Hydra is not installed. Installed: {', '.join(installed)}."
    if name in _PLUGINS:
        return f"{text} Get it with: pip install {_PLUGINS[name]}"
    close = difflib.get_close_matches(name, [*installed, *_PLUGINS], n=1)
    return f"{text} Did you mean {close[0]}?" if close else text


def _no_such_option(group: str, value: str, options: Sequence[str]) -> str:
    text = f"{group}={value}: there is no such option. Allowed: one of {', '.join(options)}."
    close = difflib.get_close_matches(value, options, n=1) or [name for name in options if name.startswith(value)]
    # "5", "5shots" and "5shot" all mean a number of references.
    number = value.removesuffix("s").removesuffix("shot")
    if group == "shots" and number.isdigit():
        close = [f"{number}shot"]
        if close[0] not in options:
            return f"{text} For another number of references write shots.count={number}."
    if close:
        return f"{text} Did you mean {group}={close[0]}?"
    if group == "split":
        return f"{text} To choose classes yourself use split.classes=[NAME,NAME]."
    return text


def _no_such_setting(line: str, key: str, settings: Mapping[str, object]) -> str:
    entries = [name for name in settings if name.startswith(f"{key}.")]
    if entries:
        return f"{line}: {key} is a section. Set its entries: {listed(entries, 4)}."
    sections = dict.fromkeys(name.partition(".")[0] for name in settings if "." not in key)
    close = difflib.get_close_matches(key, [*filter(group_options, sections), *settings], n=1)
    guess = f"Did you mean {close[0]}?" if close else f"See all settings with: {program()} --cfg job"
    group, _, name = key.partition(".")
    own = [setting.removeprefix(f"{group}.") for setting in settings if setting.startswith(f"{group}.")]
    if name and group_options(group) and not difflib.get_close_matches(name, own, n=1):
        return f"{line}: this option of {group} has no setting {name!r}. It has {listed(own)}."
    return f"{line}: there is no setting {key!r}. {guess}"
