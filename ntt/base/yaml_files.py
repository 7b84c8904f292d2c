"""YAML without surprises: unquoted scalars keep their text; repeated keys and aliases are refused."""

import re
from collections import Counter
from typing import Any, ClassVar

import yaml

from ntt.errors import ConfigError

_MAX_BYTES = 1_000_000


class Plain(str):
    """A scalar written without quotes: text, or a number, true or false where the setting is one.

    YAML would make 20240115 of the folder 2024_01_15, 8 of 010 and false of the class `no`.
    """

    __slots__ = ()


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Resolves scalars as YAML does."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            # A few lines of aliases can stand for 10^9 values, or for a value that holds itself.
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read: write the value out", mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        counts = Counter(key.value for key in keys)
        repeated = next((key for key in reversed(keys) if counts[key.value] > 1), None)
        if repeated is not None:  # YAML would keep the last one silently
            raise yaml.composer.ComposerError(None, None, f"{repeated.value} is given twice", repeated.start_mark)
        return node


class _TextLoader(_Loader):
    """Resolves null only; every other scalar is text, and `Plain` where it has no quotes."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def _construct_text(loader: _TextLoader, node: Any) -> str:
    return str(node.value) if node.style else Plain(node.value)


_TextLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_TextLoader.add_constructor("tag:yaml.org,2002:str", _construct_text)


def read_yaml(text: str | bytes, *, where: str, resolved: bool = False) -> Any:
    """Parse YAML; `where` is its file or line, for messages. `resolved`: scalars are what YAML makes of them.

    A ConfigError if it cannot be read, is longer than 1 MB, has an alias, or a mapping has a key twice.
    """
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{where} has more than {_MAX_BYTES:,} bytes. Divide it.")
    try:
        loader = (_Loader if resolved else _TextLoader)(text)
        loader.name = where
        return loader.get_single_data()
    except RecursionError as error:
        raise ConfigError(f"{where} is not readable as YAML: it is nested too deeply.") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}," if error.problem_mark else ""
        raise ConfigError(f"{where}{line} is not readable as YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where} is not readable as YAML: {' '.join(str(error).split())}.") from error
