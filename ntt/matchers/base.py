"""The base schema of all matchers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ntt.base.settings import Option, deciding_settings


@dataclass(frozen=True, kw_only=True)
class MatcherConfig(Option):
    """Base of the config group `matcher`: the matcher itself, whose fields are the settings."""

    SCHEMA: ClassVar[str]

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Kind of matcher and every setting that decides the output, as JSON values."""
        return {"kind": self.SCHEMA, **deciding_settings(self)}

    @property
    def reads_full_images(self) -> bool:
        """Whether the memory must contain vectors of full images."""
        return False

    @property
    def reads_clear_surroundings(self) -> bool:
        """Whether the memory must contain surroundings without other objects."""
        return False

    def problems(self) -> list[str]:
        """Return one sentence per problem of the settings besides their ranges."""
        return []
