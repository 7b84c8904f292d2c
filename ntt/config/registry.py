"""What Hydra knows: the schemas of the options, and the folders of configurations, the user's own among them.

A backbone, segmenter, matcher, data set or tracker is one module in the group's package and one YAML file in
`conf/<group>/`. The module declares a dataclass derived from the group's base schema, with a class variable `SCHEMA`
that names it; nothing has to be registered.
"""

import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from ntt.base.project import CONF_DIR, CONFIG_ROOT
from ntt.config.schema import ExperimentConfig, RuntimeConfig, ShotsConfig, SplitConfig
from ntt.datasets.base import DATA_VARIABLE, DatasetConfig
from ntt.errors import ConfigError, listed
from ntt.matchers.base import MatcherConfig
from ntt.models.backbones.base import BackboneConfig
from ntt.models.segmenters.base import SegmenterConfig
from ntt.trackers.base import TrackerConfig

T = TypeVar("T")

# Groups with one schema for all options, and groups whose options bring their own.
_PLAIN_GROUPS: dict[str, type] = {"shots": ShotsConfig, "split": SplitConfig, "runtime": RuntimeConfig}
OPTION_GROUPS: dict[str, tuple[str, type]] = {
    "dataset": ("ntt.datasets", DatasetConfig),
    "backbone": ("ntt.models.backbones", BackboneConfig),
    "segmenter": ("ntt.models.segmenters", SegmenterConfig),
    "matcher": ("ntt.matchers", MatcherConfig),
    "tracker": ("ntt.trackers", TrackerConfig),
}


@dataclass(frozen=True)
class ConfigSources:
    """Which configuration is composed, and from what: Hydra's --config-name, --config-path and --config-dir."""

    name: str = "config"
    path: Path = CONF_DIR
    folder: Path | None = None


_ACTIVE: ContextVar[ConfigSources | None] = ContextVar("sources", default=None)


class SearchPath(SearchPathPlugin):
    """Adds the folders of options to what Hydra searches, if it composes for this program."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        if sources := _ACTIVE.get():
            for folder in filter(None, (CONF_DIR, CONFIG_ROOT / "experiments", sources.folder)):
                search_path.append("ntt", f"file://{folder}")


def register(sources: ConfigSources | None = None) -> "Token[ConfigSources | None]":
    """Pass schemas, with the defaults of this moment, and folders of options to Hydra."""
    _register_schemas(os.environ.get(DATA_VARIABLE))
    Plugins.instance().register(SearchPath)
    return _ACTIVE.set(sources or ConfigSources())


@lru_cache(maxsize=1)
def _register_schemas(_: str | None) -> None:
    """Pass schemas to Hydra; the argument is what their defaults depend on."""
    store = ConfigStore.instance()
    store.store(name="schema", node=_writable(ExperimentConfig))
    for group, schema in _PLAIN_GROUPS.items():
        store.store(group=f"schema/{group}", name="base", node=_writable(schema))
    for group, (package, base) in OPTION_GROUPS.items():
        schemas: dict[str, type] = option_schemas(package, base)
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=_writable(schema))


def option_schemas(package_name: str, base: type[T]) -> dict[str, type[T]]:
    """Collect a config group's schemas, sorted by name: the dataclasses in its package that derive from `base`.

    Its modules are imported; third-party models are not, because adapters import those when a model is built. A
    ConfigError if one is incomplete, or if two have the same name.
    """
    package = importlib.import_module(package_name)
    schemas: dict[str, type[T]] = {}
    for info in pkgutil.iter_modules(package.__path__, prefix=f"{package_name}."):
        module = importlib.import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, base) and "SCHEMA" in vars(member):
                _require_complete(member, base)
                name = str(vars(member)["SCHEMA"])
                if schemas.setdefault(name, member) is not member:
                    first, second = schemas[name].__module__, member.__module__
                    raise ConfigError(f"{first} and {second} both have SCHEMA = {name!r}. Give one of them another.")
    return dict(sorted(schemas.items()))


def _require_complete(schema: type, base: type) -> None:
    """Refuse what Python accepts: an undecorated class, whose settings would be inherited, and a missing method."""
    name = f"{schema.__module__}.{schema.__name__}"
    for parent in schema.__mro__:
        if issubclass(parent, base) and "__dataclass_fields__" not in vars(parent):
            raise ConfigError(f"{name}: {parent.__name__} needs the decorator @dataclass(frozen=True, kw_only=True).")
    members = {key: getattr(schema, key, None) for key in dir(schema)}
    if missing := [key for key, member in members.items() if getattr(member, "__isabstractmethod__", False)]:
        raise ConfigError(f"{name} is incomplete. Define {listed(missing)}, as its base class describes.")


def _writable(schema: Any) -> DictConfig:
    """Return a schema as a configuration that can be overridden: OmegaConf makes frozen dataclasses read-only."""
    config: DictConfig = OmegaConf.structured(schema) if isinstance(schema, type) else schema
    OmegaConf.set_readonly(config, None)
    for key in config:
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            _writable(config[key])
    return config


@contextmanager
def hydra_session(sources: ConfigSources | None = None) -> Iterator[None]:
    """Let Hydra read configurations, by default the project's own, from anywhere while the block runs."""
    # Hydra may already be in use by the application that called us, or by a package such as sam2.
    state = GlobalHydra.instance()
    before, state.hydra = state.hydra, None
    outer = register(sources)
    try:
        with initialize_config_dir(str(active_sources().path), version_base="1.3"):
            yield
    finally:
        _ACTIVE.reset(outer)
        GlobalHydra.instance().hydra = before


def active_sources() -> ConfigSources:
    """Return the sources of the session."""
    return _ACTIVE.get() or ConfigSources()


def compose_lines(lines: Sequence[str]) -> DictConfig:
    """Compose the primary configuration of the session with overrides."""
    return compose(active_sources().name, overrides=list(lines))
