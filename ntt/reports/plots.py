"""Plots of summaries: AP against shots, bars per data set, classes as a heat map, time against AP."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.base.files import write_bytes
from ntt.reports import figures
from ntt.reports.content import metric_label
from ntt.reports.figures import FigureFormat
from ntt.reports.records import ALL_SHOTS, RunRecord
from ntt.reports.summary import SeriesNames, Statistic, Summary, name_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 60
"""Rows of a heat map; of more classes the best and the worst are shown."""

FORMATS: tuple[FigureFormat, ...] = ("png", "pdf")


@dataclass(frozen=True)
class Plot:
    """A plot: `name` is its file name without suffix, `description` says what it shows."""

    name: str
    description: str
    figure: "Figure"


def make_plots(summaries: Sequence[Summary], metric: str) -> list[Plot]:
    """Make every plot there is data for.

    Args:
        summaries: settings with their runs; those without the metric are left out.
        metric: flat name, such as "bbox/AP".
    """
    usable = [summary for summary in summaries if summary.statistic(metric) is not None]
    if not usable:
        return []
    names = name_series(one.setting for one in usable)
    made = [plot_shots(usable, metric, names), plot_datasets(usable, metric, names), plot_time(usable, metric, names)]
    made += [plot_classes(group, metric) for group in _by_data(usable).values()]
    return [plot for plot in made if plot is not None]


def save_plots(plots: Sequence[Plot], folder: Path) -> list[Path]:
    """Write every plot as PNG and as PDF."""
    paths = []
    for plot in plots:
        for form in FORMATS:
            paths.append(folder / f"{plot.name}.{form}")
            write_bytes(paths[-1], figures.to_bytes(plot.figure, form))
    return paths


def plot_shots(summaries: Sequence[Summary], metric: str, names: SeriesNames) -> Plot | None:
    """Draw AP against shots: a panel a data set, a line a method, a band of one standard deviation.

    None where no method was run with more than one number of shots.
    """
    counted = [one for one in summaries if one.setting.shots != ALL_SHOTS]  # the others have no place on the axis
    groups = {data: group for data, group in _by_data(counted).items() if len({one.setting.shots for one in group}) > 1}
    if not groups:
        return None
    figure, panels = figures.panels(len(groups))
    for axes, (data, group) in zip(panels, groups.items(), strict=True):
        for label, place in names.place.items():
            points = [(one.setting.shots, _statistic(one, metric)) for one in group if one.setting.label == label]
            _draw_line(axes, sorted(points, key=lambda point: point[0]), names.short[label], place)
        numbers = sorted({one.setting.shots for one in group})
        axes.set_xscale("log")
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xticks([], minor=True)
        figures.finish_axes(axes, title=data, x="References per class (shots)", y=f"{metric_label(metric)} (%)")
    figures.legend(figure, panels, common=names.common)
    return Plot("shots", f"{metric_label(metric)} against shots; band: one standard deviation over seeds.", figure)


def plot_datasets(summaries: Sequence[Summary], metric: str, names: SeriesNames) -> Plot:
    """Draw bars per data set: a panel a number of shots, a bar a method, whiskers of one standard deviation."""
    numbers = sorted({one.setting.shots for one in summaries})
    longest = max(len(one.setting.data_label) for one in summaries)
    figure, panels = figures.panels(len(numbers), longest_name=longest)
    for axes, shots in zip(panels, numbers, strict=True):
        chosen = [one for one in summaries if one.setting.shots == shots]
        _draw_bars(axes, chosen, metric, names)
        figures.finish_axes(axes, title=figures.shots_text(shots), x="", y=f"{metric_label(metric)} (%)")
    figures.legend(figure, panels, common=names.common)
    text = f"{metric_label(metric)} per data set; whiskers: one standard deviation over seeds."
    return Plot("datasets", text, figure)


def plot_classes(summaries: Sequence[Summary], metric: str) -> Plot | None:
    """Draw the classes of one data set as rows, settings as columns, the mean as colour and number.

    None without metrics per class.
    """
    summaries = sorted(summaries, key=lambda one: (one.setting.label, one.setting.shots))
    names = list(dict.fromkeys(name for one in summaries for name in one.class_names))
    values = {name: [_mean(one.statistic(f"{metric}/{name}")) for one in summaries] for name in names}
    names = [name for name in names if not all(map(math.isnan, values[name]))]
    if not names:
        return None
    names.sort(key=lambda name: -_mean_of_known(values[name]))
    data = summaries[0].setting.data_label
    title = f"{data}: {metric_label(metric)} per class (%)"
    if len(names) > MAX_CLASSES:
        title += f"\nthe {MAX_CLASSES // 2} best and the {MAX_CLASSES // 2} worst of {len(names)} classes"
        names = names[: MAX_CLASSES // 2] + names[-MAX_CLASSES // 2 :]
    figure = figures.heat_map([values[name] for name in names], names, _column_names(summaries), title=title)
    text = f"{metric_label(metric)} per class on {data}, mean over seeds."
    return Plot(f"classes_{re.sub(r'[^A-Za-z0-9_.-]+', '-', data)}", text, figure)


def plot_time(summaries: Sequence[Summary], metric: str, names: SeriesNames) -> Plot | None:
    """Draw the seconds of each run against its AP; None where no run has kept its times."""
    if not any(run.stage_seconds for one in summaries for run in one.runs):
        return None
    groups = _by_data(summaries)
    figure, panels = figures.panels(len(groups))
    for axes, (data, group) in zip(panels, groups.items(), strict=True):
        for one in group:
            seen = [run for run in one.runs if metric in run.values and run.stage_seconds]
            place = names.place[one.setting.label]
            axes.plot(
                [_seconds(run) for run in seen],
                [run.values[metric] for run in seen],
                linestyle="",
                marker=figures.marker(place),
                color=figures.colour(place),
                markersize=3.5 + 2.0 * math.log10(one.setting.shots + 1),
                alpha=0.8,
                label=names.short[one.setting.label],
            )
        timed = [_seconds(run) for one in group for run in one.runs if metric in run.values and run.stage_seconds]
        figures.log_axis(axes, timed or [1.0])
        axes.set_ylim(0, 1.1 * max(_statistic(one, metric).highest for one in group) or 1.0)
        figures.finish_axes(axes, title=data, x="Time of the run, all stages (s)", y=f"{metric_label(metric)} (%)")
    figures.legend(figure, panels, common=names.common)
    text = (
        f"Time of each run against {metric_label(metric)}; larger markers: more shots. Runs that found candidates in "
        "the store stand further left."
    )
    return Plot("time", text, figure)


def _draw_line(axes: "Axes", points: Sequence[tuple[int, Statistic]], label: str, place: int) -> None:
    if not points:
        return
    shots = [number for number, _ in points]
    means = [statistic.mean for _, statistic in points]
    spreads = [statistic.std or 0.0 for _, statistic in points]
    lower = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
    upper = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    axes.fill_between(shots, lower, upper, color=figures.colour(place), alpha=0.18, linewidth=0)
    axes.plot(
        shots,
        means,
        color=figures.colour(place),
        linestyle=figures.line(place),
        marker=figures.marker(place),
        linewidth=1.8,
        markersize=5,
        label=label,
    )


def _draw_bars(axes: "Axes", summaries: Sequence[Summary], metric: str, names: SeriesNames) -> None:
    data = list(dict.fromkeys(one.setting.data_label for one in summaries))
    present = {name: [one for one in summaries if one.setting.data_label == name] for name in data}
    width = 0.8 / max(map(len, present.values()))
    for middle, name in enumerate(data):
        ordered = sorted(present[name], key=lambda one: names.place[one.setting.label])
        for slot, one in enumerate(ordered):
            place, statistic = names.place[one.setting.label], _statistic(one, metric)
            axes.bar(
                middle + (slot - (len(ordered) - 1) / 2) * width,
                statistic.mean,
                0.92 * width,
                yerr=statistic.std,
                color=figures.colour(place),
                hatch=figures.hatch(place),
                edgecolor="white",
                linewidth=0,
                error_kw={"elinewidth": 1.2, "capsize": 3, "ecolor": "0.25"},
                label=names.short[one.setting.label],
            )
    figures.name_ticks(axes, data)
    axes.set_xlim(-0.6, len(data) - 0.4)
    axes.set_ylim(bottom=0)


def _seconds(run: RunRecord) -> float:
    return max(sum(run.stage_seconds.values()), 1e-3)


def _by_data(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(summary.setting.data_label, []).append(summary)
    return groups


def _statistic(summary: Summary, metric: str) -> Statistic:
    statistic = summary.statistic(metric)
    assert statistic is not None
    return statistic


def _mean(statistic: Statistic | None) -> float:
    return math.nan if statistic is None else statistic.mean


def _mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known)


def _column_names(summaries: Sequence[Summary]) -> list[str]:
    names = name_series(one.setting for one in summaries)
    shots = [figures.shots_text(one.setting.shots) for one in summaries]
    if len(names.place) < 2:
        return shots
    return [f"{names.short[one.setting.label]}, {text}" for one, text in zip(summaries, shots, strict=True)]
