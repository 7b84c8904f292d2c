"""Settings carry their range, their choices and whether they decide a result."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ntt.base.settings import deciding_settings, setting, setting_problems
from ntt.errors import ConfigError, raise_all


@dataclass(frozen=True)
class Inner:
    share: float = setting(0.5, ge=0, le=1)
    label: str = setting("a", decides=False)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    way: str = setting("fast", one_of=("fast", "slow"))
    count: int | None = setting(1, ge=1)
    weight: float = setting(0.5, gt=0, lt=1)


def test_defaults_and_none_pass():
    assert setting_problems(Outer()) == []
    assert setting_problems(Outer(count=None)) == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (Outer(inner=Inner(share=1.5)), "inner.share=1.5 is invalid. Allowed: 0 to 1."),
        (Outer(inner=Inner(share=float("nan"))), "inner.share=nan is invalid. Allowed: 0 to 1."),
        (Outer(way="swift"), "way=swift is invalid. Allowed: one of fast, slow."),
        (Outer(count=0), "count=0 is invalid. Allowed: 1 or more."),
        (Outer(count=10**30), f"count={10**30} is invalid. Allowed: at most 9,223,372,036,854,775,807."),
        (Outer(weight=float("inf")), "weight=inf is invalid. Allowed: more than 0 to less than 1."),
        (Outer(weight=0.0), "weight=0.0 is invalid. Allowed: more than 0 to less than 1."),
        (Outer(weight=1.0), "weight=1.0 is invalid. Allowed: more than 0 to less than 1."),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(settings: Outer, problem: str):
    assert setting_problems(settings) == [problem]
    assert setting_problems(settings, "group") == [f"group.{problem}"]


def test_values_with_one_range_are_reported_together_and_once():
    lowest = {"shots.count": "1", "matcher.temperature": "0.1", "num_workers": "1"}
    problems = [f"{name}=0 is invalid. Allowed: {low} or more." for name, low in lowest.items()]
    with pytest.raises(ConfigError) as caught:
        raise_all(problems * 2, ConfigError, summary="Some settings are wrong")
    assert str(caught.value).splitlines() == [
        "Some settings are wrong (2 problems):",
        f"  - {problems[0]} The same holds for 1 more (num_workers=0).",
        f"  - {problems[1]}",
    ]


def test_paths_are_absolute_in_digests():
    @dataclass(frozen=True)
    class Files:
        root: str | None = setting("data", path=True)

    assert deciding_settings(Files()) == {"root": str(Path("data").absolute())}
    assert deciding_settings(Files(root=None)) == {"root": None}


def test_settings_that_decide_nothing_are_left_out_of_digests():
    assert deciding_settings(Outer()) == {"inner": {"share": 0.5}, "way": "fast", "count": 1, "weight": 0.5}
