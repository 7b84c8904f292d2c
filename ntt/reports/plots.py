"""Plots of runs: AP against shots, bars per data set, classes as a heat map, time against AP, curves, confusions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ntt.base.digests import content_key
from ntt.base.files import write_bytes
from ntt.errors import counted
from ntt.reports import figures
from ntt.reports.content import metric_label
from ntt.reports.detected import Detected, best_point, confusion
from ntt.reports.records import ALL_SHOTS
from ntt.reports.summary import SETTING, SeriesNames, name_series, settings_with, shots_text, statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 60
"""Rows of a heat map; of more classes, the best and the worst are shown."""

_SECONDS = ("seconds/candidates", "seconds/matching")
_DECIDE_CANDIDATES = ("dataset.", "backbone.", "segmenter.", "candidates.", "runtime.")
MAX_CURVES, MAX_CONFUSED = 9, 24
"""Classes with curves, and with rows in a table of confusions: those with the most objects."""


@dataclass(frozen=True)
class Plot:
    """A plot; `name` is its file name without suffix."""

    name: str
    description: str
    figure: "Figure"


def make_plots(runs: pd.DataFrame, metric: str, detected: Sequence[Detected] = ()) -> list[Plot]:
    """Make every plot that has data, of a metric and of detections; settings without the metric are left out."""
    settings = settings_with(runs, metric)
    if settings.empty:
        return []
    runs = runs[runs.setting.isin(settings.setting)]
    names = name_series(runs)
    plots = [
        plot_shots(settings, metric, names),
        plot_datasets(settings, metric, names),
        plot_time(runs, metric, names),
    ]
    plots += [plot_classes(runs[runs.data == data], metric) for data in settings.data.unique()]
    plots += [plot_precision_recall(each) for each in detected]
    plots += [plot_confusion(each, run) for each in detected for run in range(len(each.labels))]
    drawn = [plot for plot in plots if plot is not None]
    # Different data sets may have the same name once it is made fit for files.
    files = [plot.name for plot in drawn]
    repeats = [files[:index].count(name) for index, name in enumerate(files)]
    return [replace(plot, name=f"{plot.name}_{n + 1}") if n else plot for plot, n in zip(drawn, repeats, strict=True)]


def save_plots(plots: Sequence[Plot], folder: Path) -> list[Path]:
    """Write every plot as PNG and as PDF."""
    paths = []
    for plot in plots:
        for form in ("png", "pdf"):
            paths.append(folder / f"{plot.name}.{form}")
            write_bytes(paths[-1], figures.to_bytes(plot.figure, form))
    return paths


def plot_shots(settings: pd.DataFrame, metric: str, names: SeriesNames) -> Plot | None:
    """Draw AP against shots: a panel per data set, a line per method, a band of one standard deviation.

    None if no method was run with more than one number of shots.
    """
    counted = settings[settings.shots != ALL_SHOTS]  # shots=all is not a number and has no tick on the axis
    counted = counted[counted.groupby("data").shots.transform("nunique") > 1]
    if counted.empty:
        return None
    groups = counted.groupby("data", sort=False)
    figure, panels = figures.panels(groups.ngroups)
    for axes, (data, group) in zip(panels, groups, strict=True):
        for label, line in group.groupby("label"):
            line = line.sort_values("shots")
            shots, mean, spread = (line[name].to_numpy(float) for name in ("shots", "mean", "std"))
            spread = np.nan_to_num(spread)
            style = figures.line_style(names.index[label])
            axes.fill_between(shots, mean - spread, mean + spread, color=style["color"], alpha=0.18, linewidth=0)
            axes.plot(shots, mean, **style, linewidth=1.8, markersize=5, label=names.short[label])
        numbers = sorted(group.shots.unique())
        axes.set_xscale("log")
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xticks([], minor=True)
        axes.set_ylim(0, 1.1 * (counted["mean"] + counted["std"].fillna(0)).max() or 1.0)
        figures.finish_axes(axes, title=data, x="References per class (shots)", y=f"{metric_label(metric)} (%)")
    figures.legend(figure, panels, common=names.common)
    return Plot("shots", f"{metric_label(metric)} against shots; band: one standard deviation over seeds.", figure)


def plot_datasets(settings: pd.DataFrame, metric: str, names: SeriesNames) -> Plot:
    """Draw bars per data set: a panel per number of shots, a bar per method, whiskers of one standard deviation."""
    groups = settings.groupby("shots")
    figure, panels = figures.panels(groups.ngroups, longest_name=int(settings.data.str.len().max()))
    for axes, (shots, group) in zip(panels, groups, strict=True):
        _draw_bars(axes, group, names)
        figures.finish_axes(axes, title=shots_text(shots), x="", y=f"{metric_label(metric)} (%)")
    figures.legend(figure, panels, common=names.common)
    text = f"{metric_label(metric)} per data set; whiskers: one standard deviation over seeds."
    return Plot("datasets", text, figure)


def _draw_bars(axes: "Axes", settings: pd.DataFrame, names: SeriesNames) -> None:
    groups = settings.groupby("data", sort=False)
    width = 0.8 / groups.size().max()
    for middle, (_, group) in enumerate(groups):
        ordered = group.assign(index=group.label.map(names.index)).sort_values("index")
        for slot, bar in enumerate(ordered.itertuples(index=False)):
            axes.bar(
                middle + (slot - (len(ordered) - 1) / 2) * width,
                bar.mean,
                0.92 * width,
                yerr=None if pd.isna(bar.std) else bar.std,
                error_kw={"elinewidth": 1.2, "capsize": 3, "ecolor": "0.25"},
                label=names.short[bar.label],
                **figures.bar_style(bar.index),
            )
    figures.name_ticks(axes, list(groups.groups))
    axes.set_xlim(-0.6, groups.ngroups - 0.4)
    axes.set_ylim(bottom=0)


def plot_classes(runs: pd.DataFrame, metric: str) -> Plot | None:
    """Draw the classes of one data set as rows, settings as columns, the mean as colour and number.

    None without metrics per class.
    """
    columns = [name for name in runs if name.startswith(f"{metric}/") and runs[name].notna().any()]
    if not columns:
        return None
    means = statistics(runs, columns).xs("mean", axis=1, level=1).sort_index(level=["label", "shots"])
    classes = means.T.rename(index=lambda name: name.removeprefix(f"{metric}/"))
    order = classes.mean(axis=1).sort_values(ascending=False, kind="stable").index
    data = means.index.get_level_values("data")[0]
    title = f"{data}: {metric_label(metric)} per class (%)"
    if len(order) > MAX_CLASSES:
        title += f"\nthe {MAX_CLASSES // 2} best and the {MAX_CLASSES // 2} worst of {len(order)} classes"
        order = [*order[: MAX_CLASSES // 2], *order[-MAX_CLASSES // 2 :]]
    names = name_series(runs)
    headings = [
        f"{names.short[label]}, {shots_text(shots)}" if len(names.index) > 1 else shots_text(shots)
        for label, shots in means.reset_index()[["label", "shots"]].to_numpy()
    ]
    figure = figures.heat_map(classes.loc[order].to_numpy(), list(order), headings, title=title)
    text = f"{metric_label(metric)} per class on {data}, mean over seeds."
    return Plot(f"classes_{_file_name(data)}", text, figure)


def plot_precision_recall(detected: Detected) -> Plot | None:
    """Draw precision against recall of boxes at IoU 0.5: a panel per class, a line per run; None without objects.

    Of many classes, those with the most objects are drawn. A dot marks the score with the best F1.
    """
    objects = {name: ranked.num_objects for of_run in detected.ranked for name, ranked in of_run.items()}
    classes = sorted(objects, key=lambda name: -objects[name])[:MAX_CURVES]
    if not classes:
        return None
    figure, panels = figures.panels(len(classes))
    for axes, name in zip(panels, classes, strict=True):
        for index, (label, of_run) in enumerate(zip(detected.labels, detected.ranked, strict=True)):
            if name in of_run:
                ranked, style = of_run[name], figures.line_style(index)
                hits, counts = np.cumsum(ranked.is_true), np.arange(1, len(ranked.scores) + 1)
                recall, precision = 100 * hits / ranked.num_objects, 100 * hits / counts
                axes.plot(recall, precision, **style | {"marker": ""}, label=label)
                best = best_point(ranked)
                axes.plot(best.recall, best.precision, color=style["color"], marker=style["marker"])
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        figures.finish_axes(
            axes, title=f"{name} ({counted(objects[name], 'object')})", x="Recall (%)", y="Precision (%)"
        )
    figures.legend(figure, panels, common="")
    text = f"{detected.data}: precision and recall of boxes at IoU 0.5; a dot marks the score with the best F1."
    return Plot(f"precision_recall_{_file_name(detected.data)}", text, figure)


def plot_confusion(detected: Detected, run: int) -> Plot | None:
    """Draw what the objects of each class are taken for, in percent of the row; None without objects.

    Of many classes, those with the most objects have rows and columns of their own.
    """
    counts, threshold = confusion(detected, run)
    if not counts[:-1].any():
        return None
    names = np.array([category.name for category in detected.categories])
    order = np.argsort(-counts[:-1].sum(axis=1), kind="stable")
    own, others = np.sort(order[:MAX_CONFUSED]), order[MAX_CONFUSED:]
    # Each class's row and column in the table: its own, or that of all others.
    target = np.full(len(names) + 1, len(own))
    target[own] = np.arange(len(own))
    target[-1] = len(own) + 1 if len(others) else len(own)
    grouped = np.zeros((target[-1] + 1,) * 2)
    np.add.at(grouped, (target[:, None], target[None, :]), counts)
    totals = grouped.sum(axis=1, keepdims=True)
    shares = np.divide(100 * grouped, totals, out=np.full_like(grouped, np.nan), where=totals > 0)
    labels = [*names[own], *(["other classes"] if len(others) else [])]
    title = f"{detected.data}: what objects are taken for\n{detected.labels[run]}, score from {threshold:.2f}"
    figure = figures.heat_map(shares, [*labels, "nothing there"], [*labels, "missed"], title=title)
    text = (
        f"{detected.data}, {detected.labels[run]}: confusions of boxes at IoU 0.5, from the score with the best F1 on."
    )
    return Plot(f"confusion_{_file_name(detected.data)}", text, figure)


def _file_name(data: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", data)[:80]


def plot_time(runs: pd.DataFrame, metric: str, names: SeriesNames) -> Plot | None:
    """Draw the seconds that each run's candidates and matching take per image against its AP; None if unknown."""
    timed = runs[runs.counted & runs[metric].notna()].sort_values(SETTING)
    timed = timed.reindex(columns=timed.columns.union(_SECONDS, sort=False))
    # Candidates come from the store in most runs: they took the time of the run that computed them.
    models = [
        content_key({key: value for key, value in settings.items() if key.startswith(_DECIDE_CANDIDATES)})
        for settings in timed.settings
    ]
    candidates, matching = (timed[name] for name in _SECONDS)
    timed["seconds"] = candidates.fillna(candidates.groupby(models).transform("median")) + matching
    num_runs, timed = len(timed), timed.dropna(subset="seconds")
    if timed.empty:
        return None
    groups = timed.groupby("data", sort=False)
    figure, panels = figures.panels(groups.ngroups)
    for axes, (data, group) in zip(panels, groups, strict=True):
        for (shots, label), own in group.groupby(["shots", "label"], sort=False):
            style = figures.line_style(names.index[label]) | {"linestyle": "", "alpha": 0.8}
            size = 3.5 + 2.0 * np.log10(shots + 1)
            seconds, values = own.seconds.to_numpy(), own[metric].to_numpy()
            axes.plot(seconds, values, **style, markersize=size, label=names.short[label])
        figures.log_axis(axes, group.seconds.tolist())
        axes.set_ylim(0, 1.1 * timed[metric].max() or 1.0)
        figures.finish_axes(axes, title=data, x="Time per image (s)", y=f"{metric_label(metric)} (%)")
    figures.legend(figure, panels, common=names.common)
    text = (
        f"Seconds per image for candidates and matching against {metric_label(metric)}; larger markers: more shots. "
        "Candidates from the store count with the time of the run or sweep that computed them. Left out, because that "
        f"is not in this report: {num_runs - len(timed)} of {num_runs} runs."
    )
    return Plot("time", text, figure)
