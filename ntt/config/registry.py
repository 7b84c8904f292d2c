"""Finds the options of a config group: one module an option, one schema a module.

A backbone, segmenter, matcher, data set or tracker is added by putting one module into the group's package and one
YAML file into `conf/<group>/`. The module declares a dataclass derived from the group's base schema, with a class
variable `SCHEMA` that names it; nothing has to be registered anywhere else.
"""

import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass
from typing import TypeVar

T = TypeVar("T")


def option_schemas(package_name: str, base: type[T]) -> dict[str, type[T]]:
    """Collect the schemas of one config group.

    Args:
        package_name: the group's package, such as "ntt.models.backbones". Its modules and sub-packages are
            imported; model packages are not, because adapters import those when a model is built.
        base: the dataclass every schema of the group derives from.

    Returns:
        Schema name -> dataclass, sorted by name.
    """
    package = importlib.import_module(package_name)
    schemas: dict[str, type[T]] = {}
    for info in pkgutil.iter_modules(package.__path__, prefix=f"{package_name}."):
        module = importlib.import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            if is_dataclass(member) and issubclass(member, base) and "SCHEMA" in vars(member):
                name = str(vars(member)["SCHEMA"])
                if schemas.setdefault(name, member) is not member:
                    raise AssertionError(f"two schemas named {name!r} in {package_name}")
    return dict(sorted(schemas.items()))
