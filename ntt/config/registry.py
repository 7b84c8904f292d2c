"""Finds the options of each config group and passes their schemas to Hydra.

A backbone, segmenter, matcher, data set or tracker is one module in the group's package and one YAML file in
`conf/<group>/`. The module declares a dataclass derived from the group's base schema, with a class variable `SCHEMA`
that names it; nothing has to be registered.
"""

import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass
from functools import cache
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ntt.config.schema import ExperimentConfig, RuntimeConfig, ShotsConfig, SplitConfig
from ntt.datasets.base import DatasetConfig
from ntt.errors import ConfigError
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


def register_schemas() -> None:
    """Put every schema into Hydra's config store, with the defaults of this moment: NTT_DATA may change."""
    store = ConfigStore.instance()
    store.store(name="schema", node=_writable(ExperimentConfig))
    for group, schema in _PLAIN_GROUPS.items():
        store.store(group=f"schema/{group}", name="base", node=_writable(schema))
    _register_options()


@cache
def _register_options() -> None:
    store = ConfigStore.instance()
    for group, (package, base) in OPTION_GROUPS.items():
        schemas: dict[str, type] = option_schemas(package, base)
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=_writable(schema))


def option_schemas(package_name: str, base: type[T]) -> dict[str, type[T]]:
    """Collect a config group's schemas, sorted by name: the dataclasses in its package that derive from `base`.

    Its modules are imported; third-party models are not, because adapters import those when a model is built.

    Raises:
        ConfigError: if two of them have the same name.
    """
    package = importlib.import_module(package_name)
    schemas: dict[str, type[T]] = {}
    for info in pkgutil.iter_modules(package.__path__, prefix=f"{package_name}."):
        module = importlib.import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            if is_dataclass(member) and issubclass(member, base) and "SCHEMA" in vars(member):
                name = str(vars(member)["SCHEMA"])
                if schemas.setdefault(name, member) is not member:
                    first, second = schemas[name].__module__, member.__module__
                    raise ConfigError(f"{first} and {second} both have SCHEMA = {name!r}. Give one of them another.")
    return dict(sorted(schemas.items()))


def _writable(schema: Any) -> DictConfig:
    """Return a schema as a configuration that can be overridden: OmegaConf makes frozen dataclasses read-only."""
    config: DictConfig = OmegaConf.structured(schema) if isinstance(schema, type) else schema
    OmegaConf.set_readonly(config, None)
    for key in config:
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            _writable(config[key])
    return config
