"""Composes configurations outside a Hydra program, and turns what Hydra composes into checked dataclasses."""

import copy
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ntt.base.settings import setting_problems
from ntt.config.explain import COMPOSE_ERRORS, first_problem, no_schema, program, removal_problem, unreadable
from ntt.config.registry import OPTION_GROUPS, active_sources, compose_lines, hydra_session
from ntt.config.schema import STAGE_ALIASES, ExperimentConfig
from ntt.config.typed_text import keep_text
from ntt.datasets.base import DATA_VARIABLE
from ntt.errors import ConfigError, raise_all

_REMOVED = frozenset(("decode_images",))
"""Settings of data sets that earlier versions had, and that decided nothing."""


def compose_config(overrides: Sequence[str]) -> ExperimentConfig:
    """Compose `conf/config.yaml` with overrides, outside a Hydra program; see `compose_many`."""
    return compose_many([overrides])[0]


def compose_many(points: Sequence[Sequence[str]]) -> list[ExperimentConfig]:
    """Compose configurations, each from its overrides; a ConfigError explains the first override to be refused.

    What the same options give is kept as long as the process lives, so later changes in `conf/` are not seen.
    """
    with hydra_session():
        return [from_hydra(compose_cached(overrides)) for overrides in points]


def restore_data(settings: Mapping[str, Any]) -> ExperimentConfig:
    """Return a configuration with the data set and the classes of a run's config.yaml, and defaults for the rest.

    The run's own folders are not restored, so that nobody else's run decides where files are written. A ConfigError if
    the data set's option or one of its settings no longer exists, or holds an interpolation.
    """
    runtime = settings.get("runtime", {})
    roots = {"data_root": runtime["data_root"]} if "data_root" in runtime else {}
    dataset = {key: value for key, value in settings["dataset"].items() if key not in _REMOVED}
    restored = {"dataset": dataset, "split": dict(settings["split"]), "runtime": roots}
    if "${" in json.dumps(restored, default=str):
        # Runs store resolved configurations; resolving here would put this machine's environment into a report.
        raise ConfigError("The configuration of this run holds ${...}, which is not resolved for another user's run.")
    options = [f"{group}={settings[group]['name']}" for group in ("dataset", "split")]
    try:
        with hydra_session():
            return from_hydra(cast("DictConfig", OmegaConf.merge(compose_lines(options), restored)))
    except COMPOSE_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The data set of this run cannot be set up any more ({reason}). Run it again.") from error


def from_hydra(cfg: DictConfig) -> ExperimentConfig:
    """Turn what Hydra composed into checked dataclasses; a ConfigError names all missing and unusable values."""
    added = [f"There is no setting {key}. See all settings with: {program()} --cfg job" for key in _added_keys(cfg)]
    raise_all(added, ConfigError, summary="The configuration has unknown settings")
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        config = OmegaConf.to_object(cfg) if not missing else None
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration cannot be resolved: {error}") from error
    raise_all([_missing(key) for key in missing], ConfigError, summary="The configuration is incomplete")
    if not isinstance(config, ExperimentConfig):
        raise ConfigError("The configuration does not start from `schema`: keep `- schema` first in conf/config.yaml.")
    bare = [group for group in OPTION_GROUPS if not hasattr(getattr(config, group), "SCHEMA")]
    raise_all([no_schema(group) for group in bare], ConfigError, summary="Some options have no schema")
    config = replace(config, stage=STAGE_ALIASES.get(config.stage, config.stage))
    parts = (config.shots, config.split, config.matcher)
    problems = [*setting_problems(config), *(problem for part in parts for problem in part.problems())]
    raise_all(problems, ConfigError, summary="The configuration cannot be run")
    return config


def compose_cached(overrides: Sequence[str]) -> DictConfig:
    """Do what Hydra's `compose` does, once for the same options, and explain refusals. Needs a `hydra_session`."""
    try:
        parsed = OverridesParser.create().parse_overrides(keep_text(overrides))
        if (removal := removal_problem(parsed)) is not None:
            raise ConfigError(removal)
        options = tuple(override.input_line or "" for override in parsed if not _sets_a_value(override))
        config = copy.deepcopy(_composed(options, (active_sources(), os.environ.get(DATA_VARIABLE))))
        for override in filter(_sets_a_value, parsed):
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except OverrideParseException as error:
        raise ConfigError(unreadable(error.override)) from error
    except COMPOSE_ERRORS as error:
        raise ConfigError(first_problem(overrides) or str(error)) from error
    return config


@cache
def _composed(options: tuple[str, ...], context: Hashable) -> DictConfig:
    """Compose; `context` is what else decides the result: the sources of options, a variable that a default reads."""
    return compose_lines(options)


def _sets_a_value(override: Override) -> bool:
    """Return whether an override sets a single value, rather than choosing, adding or removing something."""
    key = override.key_or_group
    if override.type != OverrideType.CHANGE or override.is_sweep_override() or "/" in key or override.package:
        return False
    # hydra.searchpath, for instance, decides which options there are.
    return not override.is_hydra_override() and ("." in key or key in ("seed", "stage"))


def _missing(key: str) -> str:
    group, _, setting = key.partition(".")
    if setting == "name":  # options set the name, so none is chosen
        return (
            f"{group}: no option is chosen, or its file has no line `name: NAME`. Choose one on the command line: "
            f"{group}=NAME."
        )
    return f"{key} is not set and has no default. Set it on the command line: {key}=VALUE."


def _added_keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    """Return the keys that were added with `+` although no schema has them."""
    schema = OmegaConf.get_type(cfg)
    declared_keys = {declared.name for declared in fields(schema)} if is_dataclass(schema) else set(map(str, cfg))
    added = [f"{prefix}{key}" for key in map(str, cfg) if key not in declared_keys]
    for key in declared_keys:
        # An interpolation has no keys, and resolving it may fail.
        plain_value = not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key)
        if plain_value and isinstance(cfg[key], DictConfig):
            added += _added_keys(cfg[key], f"{prefix}{key}.")
    return sorted(added)
