"""Is the difference between two settings more than the luck of the seeds?

Both settings are run with the same seeds, and each seed draws the same references for both, so the runs are pairs.
Two tests look at the differences within the pairs, both two-sided:

- the paired t-test (Student 1908), which supposes that the differences are normally distributed;
- the sign-flip permutation test (Fisher 1935), which supposes only that a difference would be as likely with the
  other sign if the settings were equally good. It tries all 2^n sign patterns, so its smallest p-value is 2 / 2^n:
  with 5 seeds it cannot fall below 0.0625.

The p-values are not corrected for the number of comparisons in a table.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ntt.errors import ConfigError, DataError
from ntt.reports.records import RunRecord
from ntt.reports.summary import METHOD_GROUPS, Summary, differing_settings, setting_key, summarise

MIN_PAIRS = 3
"""With fewer pairs there is no test."""

MAX_EXACT_PAIRS = 12
"""Up to so many pairs every sign pattern is tried; beyond, only the t-test is given."""


@dataclass(frozen=True)
class PairedTest:
    """Differences B - A over pairs.

    Attributes:
        std: sample standard deviation of the differences; None of a single pair.
        p_t: p-value of the t-test; None with fewer than three pairs or without any spread.
        p_permutation: p-value of the sign-flip test; None with fewer than three pairs or more than twelve.
    """

    n: int
    mean: float
    std: float | None
    p_t: float | None
    p_permutation: float | None


@dataclass(frozen=True)
class Comparison:
    """Two settings that differ in nothing but what was asked for.

    Attributes:
        data_label: data set and split.
        shots: of A and of B; they differ if shots are what is compared.
        rest: method, and what else distinguishes this pair of settings from other pairs.
        mean_a: mean of A over the paired seeds.
        mean_b: mean of B over the paired seeds.
        unpaired: seeds that only one of the two has; they are left out.
    """

    data_label: str
    shots: tuple[int, int]
    rest: str
    mean_a: float
    mean_b: float
    test: PairedTest
    unpaired: tuple[int, ...]


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Test whether differences B - A are centred on 0."""
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("no pairs")
    std = float(values.std(ddof=1)) if n > 1 else None
    enough = n >= MIN_PAIRS
    p_t = _t_test(values) if enough else None
    p_permutation = _sign_flips(values) if enough and n <= MAX_EXACT_PAIRS else None
    return PairedTest(n, float(values.mean()), std, p_t, p_permutation)


def compare(records: Sequence[RunRecord], first: str, second: str, *, metric: str) -> list[Comparison]:
    """Compare two settings wherever they occur with everything else equal.

    Args:
        records: runs; those without metrics are left out.
        first: setting A as "KEY=VALUE", or several with commas: "matcher.merging=hard", "backbone=dinov2_vitl14". A
            config group stands for its `name`; then nothing else of that group needs to be equal.
        second: setting B likewise.
        metric: flat name, such as "bbox/AP".

    Raises:
        ConfigError: if a setting is not written so, or no run has it.
        DataError: if no two runs with the same seed differ in just this.
    """
    chosen = [_parse(text) for text in (first, second)]
    keys = sorted({key.removesuffix(".name") for terms in chosen for key in terms})
    finished = [record for record in records if record.state == "finished" and metric in record.values]
    sides = [[record for record in finished if _matches(record, terms)] for terms in chosen]
    for text, terms, side in zip((first, second), chosen, sides, strict=True):
        if not side:
            raise ConfigError(f"--compare {text}: no finished run with {metric} has it. {_values_of(finished, terms)}")
    groups_a, groups_b = (_by_rest(text, side, keys) for text, side in zip((first, second), sides, strict=True))
    shared = [rest for rest in groups_a if rest in groups_b]
    names = _rest_names({rest: groups_a[rest].runs[0] for rest in shared}, keys)
    found = [_comparison(groups_a[rest], groups_b[rest], names[rest], metric) for rest in shared]
    pairs = [one for one in found if one is not None]
    if not pairs:
        raise DataError(
            f"--compare {first} {second}: no two runs with the same seed differ in just this. Run both settings with "
            "the same data set, shots and seeds."
        )
    return sorted(pairs, key=lambda one: (one.data_label, one.shots, one.rest))


def _comparison(side_a: Summary, side_b: Summary, rest: str, metric: str) -> Comparison | None:
    a, b = side_a.statistic(metric), side_b.statistic(metric)
    assert a is not None
    assert b is not None
    seeds = sorted(set(a.by_seed) & set(b.by_seed))
    if not seeds:
        return None
    return Comparison(
        data_label=side_a.setting.data_label,
        shots=(side_a.setting.shots, side_b.setting.shots),
        rest=rest,
        mean_a=float(np.mean([a.by_seed[seed] for seed in seeds])),
        mean_b=float(np.mean([b.by_seed[seed] for seed in seeds])),
        test=paired_test([b.by_seed[seed] - a.by_seed[seed] for seed in seeds]),
        unpaired=tuple(sorted(set(a.by_seed) ^ set(b.by_seed))),
    )


def _parse(text: str) -> dict[str, str]:
    terms = dict(part.partition("=")[::2] for part in text.split(","))
    if not all(key.strip() and value for key, value in terms.items()):
        raise ConfigError(
            f"--compare {text}: this is not a setting. Write KEY=VALUE, such as matcher.merging=soft, or several with "
            "commas between."
        )
    return {key.strip(): value.strip() for key, value in terms.items()}


def _value(record: RunRecord, key: str) -> str | None:
    """Return a setting as text; a config group stands for its name."""
    for name in (key, f"{key}.name"):
        if name in record.settings:
            value = record.settings[name]
            return "null" if value is None else str(value)
    return None


def _matches(record: RunRecord, terms: Mapping[str, str]) -> bool:
    # Command lines write true, YAML reads True.
    return all((_value(record, key) or "").lower() == value.lower() for key, value in terms.items())


def _values_of(records: Sequence[RunRecord], keys: Iterable[str]) -> str:
    parts = []
    for key in keys:
        values = sorted({value for record in records if (value := _value(record, key)) is not None})
        parts.append(f"{key} is {' or '.join(values)} there." if values else f"There is no setting {key}.")
    return " ".join(parts)


def _by_rest(text: str, side: Sequence[RunRecord], keys: Sequence[str]) -> dict[str, Summary]:
    """Group the runs of one side by everything but the compared keys; each group must be a single setting."""
    groups: dict[str, list[RunRecord]] = {}
    for record in side:
        groups.setdefault(setting_key(record, without=keys), []).append(record)
    found = {}
    for rest, group in groups.items():
        summaries = summarise(group)
        if len(summaries) > 1:
            differing = differing_settings([summary.runs[0].settings for summary in summaries])
            raise ConfigError(
                f"--compare {text}: this stands for several settings, which differ in {', '.join(differing)}. Add the "
                f"value that is meant, for example {text},{differing[0]}=VALUE."
            )
        found[rest] = summaries[0]
    return found


def _rest_names(runs: Mapping[str, RunRecord], keys: Sequence[str]) -> dict[str, str]:
    """Name what both sides of each comparison have in common: the method's other parts, and what tells rests apart."""
    named = (*keys, "dataset", "split", "shots", *(f"{group}.name" for group in METHOD_GROUPS))
    differing = [
        key
        for key in differing_settings([run.settings for run in runs.values()])
        if not any(key == one or key.startswith(f"{one}.") for one in named)
    ]
    names = {}
    for rest, run in runs.items():
        parts = [str(run.config[group]["name"]) for group in METHOD_GROUPS if group not in keys]
        names[rest] = ", ".join([" + ".join(parts), *(f"{key}={_value(run, key)}" for key in differing)])
    return names


def _t_test(values: npt.NDArray[np.float64]) -> float | None:
    from scipy.special import stdtr

    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0:
        return None
    return float(2 * stdtr(len(values) - 1, -abs(float(values.mean())) / error))


def _sign_flips(values: npt.NDArray[np.float64]) -> float:
    """Return the share of sign patterns whose mean is at least as far from 0 as the one observed."""
    n = len(values)
    patterns = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    sums = np.abs(patterns @ values)
    # The observed pattern is among them; rounding must not exclude it or its mirror image.
    return float(np.mean(sums >= abs(values.sum()) - 1e-9 * np.abs(values).sum()))
