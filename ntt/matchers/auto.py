"""Leaves the choice among other matchers to the references (method.md §9.4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ntt.base.settings import setting
from ntt.matchers.base import MatcherConfig


@dataclass(frozen=True, kw_only=True)
class AutoMatcher(MatcherConfig):
    """Is replaced, before matching, by the matcher that finds left-out references best."""

    SCHEMA: ClassVar[str] = "auto"

    choices: dict[str, Any] = field(default_factory=dict)
    """Matchers to choose from, by name. The first one is used unless another is better."""

    min_shots: int = setting(3, ge=2)
    """With fewer references per class, or in images that are not fully annotated, the first one is used."""

    certainty: float = setting(0.95, ge=0.5, le=1)
    """Share of the draws in which another matcher must be better than the first."""

    draws: int = setting(40, ge=10)
    """Bootstrap draws of reference images."""

    @property
    def reads_full_images(self) -> bool:
        """Whether one of the choices reads vectors of full images."""
        return any(matcher.reads_full_images for matcher in self.choices.values())

    @property
    def reads_clear_surroundings(self) -> bool:
        """Whether one of the choices reads surroundings without other objects."""
        return any(matcher.reads_clear_surroundings for matcher in self.choices.values())


def scorings(matcher: MatcherConfig) -> Mapping[str, MatcherConfig]:
    """Return the matchers that a run may use, by name: the choices, or the matcher itself."""
    return matcher.choices if isinstance(matcher, AutoMatcher) else {matcher.name: matcher}
