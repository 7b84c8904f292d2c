"""Metrics as plain-text tables."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ntt.config.identity import run_directory, run_settings
from ntt.config.schema import ExperimentConfig
from ntt.data.coco import FREQUENCIES
from ntt.errors import StorageError, counted
from ntt.evaluation.thresholds import OperatingPoints
from ntt.matchers.auto import AutoMatcher
from ntt.run.artefacts import flat_metrics, read_metrics, read_scoring
from ntt.run.rundir import RunDirectory
from ntt.types import Category, Detections, FloatArray, Metrics, ProposalRecall, ReferenceCheck

_COLUMNS = {
    "bbox": {"box AP": "AP", "box AP50": "AP50", "box AP75": "AP75", "box AR": "AR100"},
    "segm": {"mask AP": "AP", "mask AP50": "AP50", "mask AP75": "AP75", "mask AR": "AR100"},
    "semantic": {"IoU": "IoU"},
}
_OVER_ALL_CLASSES, _BY_LVIS = {"IoU": "mIoU"}, {"AR100": "AR300"}
"""What a column's metric is called over all classes, and by LVIS' own protocol."""
_DIFFICULT = {
    "crowd": "crowd regions (evaluation.difficult=crowd)",
    "ordinary": "ordinary objects (evaluation.difficult=ordinary)",
}
_COMPARED = {"bbox/AP": "box AP", "segm/AP": "mask AP", "semantic/mIoU": "mIoU"}
_KINDS = {"bbox": "boxes", "segm": "masks"}


def metrics_table(metrics: Metrics, recall: ProposalRecall | None = None) -> str:
    """Return the metrics over all classes and per class, in percent, and false positives on negative images.

    `recall` is that of the candidates, an upper bound for any matcher.
    """
    kinds = [kind for kind in _COLUMNS if kind in metrics.overall]
    if not kinds:
        return "The target images have no annotations, so there is nothing to compare the predictions with."
    heading = ["class", *(title for kind in kinds for title in _COLUMNS[kind])]
    classes = list(metrics.per_class[kinds[0]])
    rows = [[name, *_cells(metrics, kinds, name)] for name in classes]
    rows.append(["all classes", *_cells(metrics, kinds, None)])
    head = [] if metrics.difficult is None else [f"Difficult objects count as {_DIFFICULT[metrics.difficult]}."]
    table = [*head, *_ruled([heading, *rows])]
    if "segm" not in kinds:
        table.append(_why_no_masks(metrics))
    if recall:
        table.append(f"{recall_text(recall)}. No matcher can find more.")
    if _is_by_lvis(metrics):
        table += _frequency_groups(metrics)
    if "rejection" in metrics.overall:
        table += _rejection(metrics.overall["rejection"], len(classes))
    return "\n".join(table)


def recall_text(recall: ProposalRecall) -> str:
    """Return the recall of the candidates in words; "" if no object is annotated."""
    if not recall:
        return ""
    limits = ", ".join(f"{int(name.removeprefix('AR')):,}" for name in next(iter(recall.values())))
    values = (f"{_KINDS[kind]} {', '.join(f'{value:.1f}' for value in each.values())}" for kind, each in recall.items())
    return f"AR of the first {limits} candidates of an image: {'; '.join(values)}"


def thresholds_table(points: OperatingPoints) -> str:
    """Return precision, recall and F1 of boxes at each kind of threshold, over all classes and per class."""
    kinds = list(points.get("", {}))
    titles = {"fixed": "fixed", "proposed": "proposed", "best": "best possible"}
    heading = ["class", *(text for kind in kinds for text in (f"{titles[kind]} score", "precision", "recall", "F1"))]
    rows = [[name or "mean"] for name in points]
    for row, of_class in zip(rows, points.values(), strict=True):
        for point in (of_class[kind] for kind in kinds):
            row += [f"{point.threshold:.2f}", *(f"{value:.1f}" for value in (point.precision, point.recall, point.f1))]
    proposed = "; proposed scores are those of left-out references" if "proposed" in kinds else ""
    return "\n".join([f"Boxes from a score on, at IoU 0.5{proposed}:", *_ruled([heading, *rows])])


def counts_table(detections: Sequence[Detections], categories: Sequence[Category], thresholds_C: FloatArray) -> str:
    """Return a table of each class's threshold and best score, its detections that reach it, and images with any."""
    totals_C, images_C = np.zeros((2, len(categories)), dtype=np.int64)
    best_C = np.zeros(len(categories), dtype=np.float32)
    for image in detections:
        np.maximum.at(best_C, image.labels, image.scores)
        counts_C = np.bincount(image.labels[image.reaching(thresholds_C)], minlength=len(categories))
        totals_C += counts_C
        images_C += counts_C > 0
    columns = (thresholds_C.tolist(), best_C.tolist(), totals_C.tolist(), images_C.tolist())
    rows = [
        [category.name, f"{threshold:.2f}", f"{best:.2f}", str(total), str(images)]
        for category, threshold, best, total, images in zip(categories, *columns, strict=True)
    ]
    lines = align([["class", "score from", "best score", "detections", "images with any"], *rows])
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def choice_text(check: ReferenceCheck) -> str:
    """Return which matcher the references have chosen, and how certain the choice is."""
    first = next(iter(check.expected))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in check.better.items())
    text = f"Matcher chosen by the references: {check.scoring}. Better than {first} in so many draws: {shares or '-'}."
    return f"{text} They may not choose: {check.obstacle}." if check.obstacle else text


def _why_no_masks(metrics: Metrics) -> str:
    if metrics.num_objects is None or metrics.num_masks is None:
        return "Masks are not evaluated: not every object of the ground truth has one."
    if not metrics.num_objects:
        return "All annotations of the targets are crowd regions: there is nothing to find, and no AP."
    without = metrics.num_objects - metrics.num_masks
    return f"Masks are not evaluated: {without} of the {metrics.num_objects} objects of the ground truth have none."


def _cells(metrics: Metrics, kinds: Sequence[str], label: str | None) -> list[str]:
    cells = []
    names = (_OVER_ALL_CLASSES if label is None else {}) | (_BY_LVIS if _is_by_lvis(metrics) else {})
    for kind in kinds:
        values = metrics.overall[kind] if label is None else metrics.per_class[kind].get(label, {})
        for name in _COLUMNS[kind].values():
            value = values.get(names.get(name, name))
            cells.append("-" if value is None else f"{value:.1f}")
    return cells


def _is_by_lvis(metrics: Metrics) -> bool:
    return any("AR300" in metrics.overall.get(kind, {}) for kind in _KINDS)


def _frequency_groups(metrics: Metrics) -> list[str]:
    """Return what LVIS' protocol adds."""
    lines = ["By LVIS' own protocol: 300 detections per image; classes not searched for there are left out."]
    for kind, what in _KINDS.items():
        names = [f"AP{letter}" for letter in FREQUENCIES if f"AP{letter}" in metrics.overall.get(kind, {})]
        if names:
            values = ", ".join(f"{name} {metrics.overall[kind][name]:.1f}" for name in names)
            lines.append(f"Rare, common and frequent classes, {what}: {values}.")
    return lines


def _rejection(values: Mapping[str, float], num_classes: int) -> list[str]:
    """Return how much is detected on images without any class, and on those without one class."""
    lines = []
    if "FPPI@R50" in values:
        lines.append(
            f"At 50 % recall, false positives per image without any of the classes: {values['FPPI@R50']:.2f} "
            f"({counted(int(values['negative_images']), 'image')}, score {values['score@R50']:.3f})."
        )
    if "mFPPI@R50" in values:
        lines.append(
            f"At 50 % recall, false positives per image without the class: {values['mFPPI@R50']:.2f} "
            f"(mean of {values['classes@R50']:.0f} of {num_classes} classes)."
        )
    return lines


def _ruled(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with rules below its heading and above its last row."""
    heading, *lines = align(rows)
    rule = "-" * max(map(len, (heading, *lines)))
    return [heading, rule, *lines[:-1], rule, lines[-1]]


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column flush left, the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def multirun_table(configs: Sequence[ExperimentConfig], failed: Collection[ExperimentConfig] = ()) -> str:
    """Return one line per point, with the settings that differ between points, and how to compare them further.

    A point that failed has no values, not even those of an earlier run with other data.
    """
    settings = [run_settings(config) for config in configs]
    all_keys = dict.fromkeys(key for own in settings for key in own)
    keys = [key for key in all_keys if any(own.get(key) != settings[0].get(key) for own in settings)]
    keys = [key for key in keys if not _follows_from_name(key, settings)]
    results = [{} if config in failed else _results(config) for config in configs]
    columns = {name: title for name, title in _COMPARED.items() if any(name in values for values in results)}
    columns = columns or {"bbox/AP": _COMPARED["bbox/AP"]}
    keys += ["chosen"] if any("chosen" in values for values in results) else []
    rows = [(*keys, *columns.values(), "directory")]
    for config, own, values in zip(configs, settings, results, strict=True):
        absent = "failed" if config in failed else "-"
        cells = [f"{values[name]:.1f}" if name in values else absent for name in columns]
        named = own | values
        rows.append((*(str(named.get(key, "-")) for key in keys), *cells, str(run_directory(config))))
    roots = dict.fromkeys(config.runtime.output_root for config in configs)
    return "\n".join(
        [*align(rows), "", *(f"Means over seeds, comparisons, plots: ntt report {root}" for root in roots)]
    )


def _results(config: ExperimentConfig) -> dict[str, Any]:
    """Return the metrics of a run as far as they can be read; "chosen": the matcher that its references chose."""
    directory, results = RunDirectory(run_directory(config)), dict[str, Any]()
    with suppress(StorageError):
        results |= flat_metrics(read_metrics(directory.metrics))
        if isinstance(config.matcher, AutoMatcher):
            results["chosen"] = read_scoring(directory.leave_one_out, config.matcher.choices)
    return results


def _follows_from_name(key: str, settings: Sequence[dict[str, object]]) -> bool:
    """Return whether a setting of an option, such as `matcher.ridge`, is the same wherever the option's name is."""
    name = f"{key.partition('.')[0]}.name"
    pairs = {(repr(own.get(name)), repr(own.get(key))) for own in settings}
    options = {option for option, _ in pairs}
    return key != name and len(options) > 1 and len(pairs) == len(options)
