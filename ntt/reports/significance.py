"""Is the difference between two settings more than luck of the seeds?

Each seed draws the same references for both settings, so their runs are pairs. Two tests of the differences, both
two-sided: the paired t-test (Student 1908) and the sign-flip permutation test (Fisher 1935), see docs/evaluation.md.
p-values are not corrected for the number of comparisons in a table.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntt.base.digests import content_key
from ntt.errors import ConfigError, DataError
from ntt.reports.content import metric_label
from ntt.reports.records import METHOD_GROUPS
from ntt.reports.summary import choice, differing_settings, shots_cell, value_text
from ntt.reports.tables import Table
from ntt.types import DoubleArray

MIN_PAIRS = 3
_MAX_EXACT_PAIRS = 12


def paired_test(differences: DoubleArray) -> tuple[float | None, float | None]:
    """Test whether differences are centred on 0: the p-values of the t-test and of the sign flips.

    None means no test: with fewer than three pairs, with equal differences, as of seeds that draw the same references,
    and sign flips of more than twelve.
    """
    from scipy import stats

    if len(differences) < MIN_PAIRS or np.ptp(differences) == 0:
        return None, None
    with warnings.catch_warnings():
        # SciPy warns of differences that are nearly equal; the p-value is then 0 in all digits shown.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        p_t = float(stats.ttest_1samp(differences, 0.0).pvalue)
    p_flips = None
    if len(differences) <= _MAX_EXACT_PAIRS:
        flips = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
        )
        p_flips = float(flips.pvalue)
    return p_t, p_flips


def comparison_table(runs: pd.DataFrame, first: str, second: str, metric: str) -> Table:
    """Compare any two settings that differ exactly as two texts state: one row per pair of settings.

    `first` is A, such as "matcher.merging=hard", or several terms with commas between; `second` is B. A config group
    alone ("matcher=ntt") matches its option and every setting below it. A ConfigError if a text is not a setting, or
    matches none or more than one; a DataError if no pair of runs differs only in this.
    """
    terms = [_parse(first), _parse(second)]
    keys = sorted({*terms[0], *terms[1]})
    usable = runs[runs.counted & runs.reindex(columns=[metric])[metric].notna()]
    sides = []
    for text, side_terms in zip((first, second), terms, strict=True):
        side = usable[[_fits(settings, side_terms) for settings in usable.settings]]
        if side.empty:
            raise ConfigError(
                f"--compare {text}: no finished run with {metric} has it. {_values_of(usable, side_terms)}"
            )
        sides.append(_with_rest(text, side, keys))
    runs = sides[0].merge(sides[1], how="outer", on=["rest", "seed"], suffixes=("_a", "_b"), indicator="side")
    pairs = runs[runs.side == "both"]
    unpaired = sorted(set(runs.seed[runs.rest.isin(pairs.rest) & (runs.side != "both")]))
    names = _rest_names(sides[0][sides[0].rest.isin(sides[1].rest)], keys)
    rows = [
        {
            "data set": data,
            "shots": " / ".join(dict.fromkeys(str(shots_cell(count)) for count in shots)),
            "common": names[rest],
            **_cells(*(group[f"{metric}_{side}"].to_numpy(np.float64) for side in "ab")),
            **{f"chosen in {side.upper()}": choice(group[f"chosen_{side}"])[2:] or None for side in "ab"},
        }
        for (data, *shots, rest), group in pairs.groupby(["data_a", "shots_a", "shots_b", "rest"])
    ]
    if not rows:
        raise DataError(
            f"--compare {first} {second}: no two runs with the same seed differ in just this. Run both settings with "
            "the same data set, shots and seeds."
        )
    notes = [
        "Paired over seeds: each seed draws the same references for both. p-values are two-sided and not corrected for "
        "the number of rows; with n pairs the sign-flip test cannot fall below 2 / 2^n.",
    ]
    if any(row["p (t-test)"] is None for row in rows):
        notes.append(f"There is no test of fewer than {MIN_PAIRS} pairs, nor if all seeds have the same difference.")
    if unpaired:
        notes.append(f"Seeds that only one side has, left out of its row: {', '.join(map(str, unpaired))}.")
    title = f"{metric_label(metric)}: A is {first}, B is {second}"
    return Table("comparison", title, pd.DataFrame(rows, dtype=object), tuple(notes))


def _cells(a: DoubleArray, b: DoubleArray) -> dict[str, Any]:
    """Return the cells of a row that come from the values of its pairs of runs."""
    p_t, p_flips = paired_test(b - a)
    return {
        "pairs n": len(a),
        "A": round(float(a.mean()), 3),
        "B": round(float(b.mean()), 3),
        "B − A": f"{(b - a).mean():+.2f}".replace("-", "−"),
        "std": f"{(b - a).std(ddof=1):.2f}" if len(a) > 1 else None,
        "p (t-test)": _p_text(p_t),
        "p (sign flips)": _p_text(p_flips),
    }


def _p_text(value: float | None) -> str | None:
    if value is None:
        return None
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _parse(text: str) -> dict[str, str]:
    terms = dict(part.partition("=")[::2] for part in text.split(","))
    if not all(key.strip() and value for key, value in terms.items()):
        raise ConfigError(
            f"--compare {text}: this is not a setting. Write KEY=VALUE, such as matcher.merging=soft, or several with "
            "commas between."
        )
    return {key.strip(): value.strip() for key, value in terms.items()}


def _value(settings: Mapping[str, Any], key: str) -> str | None:
    """Return a setting as text; a config group is represented by its name."""
    for name in (key, f"{key}.name"):
        if name in settings:
            return value_text(settings[name])
    return None


def _fits(settings: Mapping[str, Any], terms: Mapping[str, str]) -> bool:
    # Command lines write true, YAML reads True.
    return all((_value(settings, key) or "").lower() == value.lower() for key, value in terms.items())


def _values_of(runs: pd.DataFrame, keys: Iterable[str]) -> str:
    parts = []
    for key in keys:
        values = sorted({value for settings in runs.settings if (value := _value(settings, key)) is not None})
        parts.append(f"{key} is {' or '.join(values)} there." if values else f"There is no setting {key}.")
    return " ".join(parts)


def _with_rest(text: str, side: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Add the column `rest`, equal for runs that agree in all but seed and keys; each must be a single setting."""
    rests = [
        content_key({"data set": dataset, **{key: value for key, value in settings.items() if not _covers(keys, key)}})
        for dataset, settings in zip(side.dataset, side.settings, strict=True)
    ]
    side = side.assign(rest=rests)
    for _, group in side.groupby("rest"):
        if group.setting.nunique() > 1:
            differing = differing_settings(list(group.settings))
            raise ConfigError(
                f"--compare {text}: this matches several settings, which differ in {', '.join(differing)}. Add the "
                f"value that is meant, for example {text},{differing[0]}=VALUE."
            )
    return side


def _covers(keys: Sequence[str], name: str) -> bool:
    """Return whether a setting is the seed, one of some keys, or below one of them."""
    return name == "seed" or any(name == key or name.startswith(f"{key}.") for key in keys)


def _rest_names(runs: pd.DataFrame, keys: Sequence[str]) -> dict[str, str]:
    """Name what the sides of each comparison have in common: the method's other parts, and what varies between rows."""
    firsts = runs.drop_duplicates("rest")
    named = (*keys, "dataset", "split", "shots", *(f"{group}.name" for group in METHOD_GROUPS))
    differing = [key for key in differing_settings(list(firsts.settings)) if not _covers(named, key)]
    names = {}
    for rest, settings in zip(firsts.rest, firsts.settings, strict=True):
        method = " + ".join(str(settings[f"{group}.name"]) for group in METHOD_GROUPS if group not in keys)
        names[rest] = ", ".join([method, *(f"{key}={_value(settings, key)}" for key in differing)])
    return names
