"""What a matcher's settings may be, stated once for the matcher and for its schema."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """One setting's range.

    Attributes:
        key: the setting's name.
        allowed: the range in words; completes "allowed is".
        example: a value within it.
        holds: whether a value lies within it; false for NaN.
    """

    key: str
    allowed: str
    example: object
    holds: Callable[[Any], bool]


def one_of(key: str, options: Sequence[str]) -> Rule:
    """The setting is one of some words."""
    return Rule(key, "one of " + ", ".join(options), options[0], lambda value: value in options)


def fraction(key: str, example: float) -> Rule:
    """The setting lies in [0, 1]."""
    return Rule(key, "0 to 1", example, lambda value: 0 <= value <= 1)


def at_least_one(key: str, example: int) -> Rule:
    """The setting is 1 or more."""
    return Rule(key, "1 or more", example, lambda value: value >= 1)


def positive(key: str, example: float) -> Rule:
    """The setting is finite and above 0."""
    return Rule(key, "a finite number above 0", example, lambda value: 0 < value < math.inf)


def setting_problems(settings: object, rules: Sequence[Rule]) -> list[str]:
    """List the settings that cannot be used, one sentence each.

    Args:
        settings: a matcher or its schema; has an attribute for the key of each rule.
        rules: the rules, in the order their problems are told.
    """
    return [
        f"matcher.{rule.key}={getattr(settings, rule.key)} is not possible: allowed is {rule.allowed}. "
        f"Set matcher.{rule.key}={rule.example}, for example."
        for rule in rules
        if not rule.holds(getattr(settings, rule.key))
    ]
