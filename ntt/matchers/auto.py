"""Leaves the choice among other matchers to the references (method.md §9.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, ClassVar

from ntt.base.settings import setting
from ntt.errors import ConfigError
from ntt.matchers.base import MatcherConfig
from ntt.matchers.scoring import DetectingMatcher


@dataclass(frozen=True, kw_only=True)
class AutoMatcher(MatcherConfig):
    """Is replaced, before matching, by the matcher that finds left-out references best."""

    SCHEMA: ClassVar[str] = "auto"

    choices: dict[str, Any] = field(default_factory=dict)
    """Matchers to choose from, by name. The first one is used unless another is better."""

    min_shots: int = setting(3, ge=2)
    """With fewer references per class (median), or in images that are not fully annotated, the first one is used."""

    certainty: float = setting(0.95, ge=0.5, le=1)
    """Share of the draws in which another matcher must be better than the first."""

    draws: int = setting(40, ge=10)
    """Bootstrap draws of reference images."""

    max_detections: int | None = setting(None, ge=1)
    """Detections an image can have, whichever is used; null: as each of them says."""

    on_empty: str | None = setting(None, one_of=("empty", "raise"))
    """Result for an image with no candidate left, whichever is used; null: as each of them says."""

    @property
    def reads_full_images(self) -> bool:
        """Whether one of the choices reads vectors of full images."""
        return any(matcher.reads_full_images for matcher in self.choices.values())

    @property
    def reads_clear_surroundings(self) -> bool:
        """Whether one of the choices reads surroundings without other objects."""
        return any(matcher.reads_clear_surroundings for matcher in self.choices.values())

    def problems(self) -> list[str]:
        """Return a sentence if there is nothing to choose from, or something that is no matcher."""
        unfit = [name for name, choice in self.choices.items() if not isinstance(choice, DetectingMatcher)]
        if self.choices and not unfit:
            return []
        what = f"{', '.join(unfit)} cannot be chosen" if unfit else "there is nothing to choose from"
        return [f"matcher.choices: {what}. Name other matchers, as conf/matcher/auto.yaml does."]

    def obstacle(self, counts: Sequence[int], *, is_complete: bool) -> str:
        """Return why references, `counts` per class, may not choose; "" if they may."""
        if not is_complete:
            return "their images are not annotated in full"
        return f"there are fewer than {self.min_shots} per class" if median(counts) < self.min_shots else ""

    def choose(self, expected: Mapping[str, float], better: Mapping[str, float]) -> str:
        """Return the matcher to use: of those that are better than the first one with certainty, the best.

        `expected` is the AP of each, percent; `better` the share of draws in which another is better than the first.
        """
        convincing = [name for name, share in better.items() if share >= self.certainty]
        return max([next(iter(self.choices)), *convincing], key=lambda name: expected.get(name, 0.0))


def scorings(matcher: MatcherConfig) -> Mapping[str, DetectingMatcher]:
    """Return the matchers that a run may use, by name: the choices, or the matcher itself. Raises ConfigError."""
    if isinstance(matcher, AutoMatcher):
        common = {"max_detections": matcher.max_detections, "on_empty": matcher.on_empty}
        common = {name: value for name, value in common.items() if value is not None}
        return {name: replace(choice, **common) for name, choice in matcher.choices.items()}
    if not isinstance(matcher, DetectingMatcher):
        remedy = f"{type(matcher).__name__} must derive from DetectingMatcher (ntt/matchers/scoring.py)."
        raise ConfigError(f"matcher={matcher.name}: {remedy}")
    return {matcher.name: matcher}
