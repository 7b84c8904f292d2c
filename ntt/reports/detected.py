"""The detections of runs next to the ground truth: precision and recall per class, thresholds, confusions.

All of this uses boxes at IoU 0.5, because every data set has boxes.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ntt.config.compose import restore_data
from ntt.data.coco import CocoDataset
from ntt.drawing.quality import IN_CROWD, match_objects
from ntt.errors import DataError, NttError
from ntt.evaluation.ground_truth import GroundTruth, prepare_ground_truth
from ntt.evaluation.matching import Matches, match
from ntt.evaluation.table import DetectionTable, tabulate
from ntt.evaluation.thresholds import OperatingPoint, RankedDetections, ranked_detections
from ntt.reports.records import own_file
from ntt.reports.summary import SETTING, choice, name_series, shots_text
from ntt.reports.tables import Table
from ntt.run.artefacts import read_lowest_scores, read_predictions, read_reference_check
from ntt.run.inputs import read_inputs
from ntt.run.rundir import RunDirectory
from ntt.stages.target_pictures import drawn_instances
from ntt.types import Category, Detections, ImageRecord, IntArray

MAX_RUNS = 6
"""Per data set; of each setting, the run with the lowest seed."""

_MAX_BYTES = 2 << 30


@dataclass(frozen=True)
class Detected:
    """The targets of a data set and the detections of some runs.

    Attributes:
        detections: per run, in the order of the images.
        proposed: per run, the score threshold that its references proposed, by class name; empty without any.
        lowest_scores: per run, the score from which it counted and drew detections, by class name.
        num_settings: number of settings, of which at most `MAX_RUNS` are here.
    """

    data: str
    targets: CocoDataset
    categories: tuple[Category, ...]
    labels: list[str]
    detections: list[list[Detections]]
    proposed: list[Mapping[str, float]]
    lowest_scores: list[Mapping[str, float]]
    num_settings: int

    @cached_property
    def ranked(self) -> list[dict[str, RankedDetections]]:
        """Per run, the detections of each class that has objects and detections, by its name."""
        of_runs: list[dict[str, RankedDetections]] = [{} for _ in self.detections]
        for run, of_run in enumerate(of_runs):
            for label, category in enumerate(self._ground_truth.categories):
                ranked = self._ranked(run, [label])
                if len(ranked.scores) and ranked.num_objects:
                    of_run[category.name] = ranked
        return of_runs

    def overall_threshold(self, run: int) -> float:
        """Return the lowest score counted for the largest F1 over all ranked classes together; 0 without any."""
        categories = self._ground_truth.categories
        labels = [label for label, category in enumerate(categories) if category.name in self.ranked[run]]
        return best_point(self._ranked(run, labels)).threshold if labels else 0.0

    def _ranked(self, run: int, labels: Sequence[int]) -> RankedDetections:
        table, matches = self._matched[run]
        return ranked_detections(matches, table, self._ground_truth, labels)

    @cached_property
    def _ground_truth(self) -> GroundTruth:
        return prepare_ground_truth(self.targets, self.categories)

    @cached_property
    def _matched(self) -> list[tuple[DetectionTable, Matches]]:
        tables = [tabulate(of_run, self.categories, self._ground_truth) for of_run in self.detections]
        return [(table, match(table, self._ground_truth, "bbox")) for table in tables]


def best_point(ranked: RankedDetections) -> OperatingPoint:
    """Return the point with the largest F1; without any hit, that with the highest score."""
    return ranked.best() or ranked.at(float(ranked.scores[0]))


def read_detected(runs: pd.DataFrame) -> tuple[list[Detected], list[str]]:
    """Read the detections of every data set that can still be read, and a sentence about each that cannot."""
    sets: list[Detected] = []
    notes: list[str] = []
    lowest_seeds = runs[runs.counted].sort_values([*SETTING, "seed"]).drop_duplicates("setting")
    for data, group in lowest_seeds.groupby("data", sort=False):
        try:
            sets.append(_read_set(data, group))
        except NttError as error:
            notes.append(f"{data} is not shown: {str(error).splitlines()[0]}")
    return sets, notes


def _read_set(data: str, group: pd.DataFrame) -> Detected:
    runs = group.head(MAX_RUNS)
    config = restore_data(runs.config.iloc[0])
    with tempfile.TemporaryDirectory() as cache:  # somebody else's run must not decide where files are written
        inputs = read_inputs(replace(config, runtime=replace(config.runtime, cache_root=cache)))
    records = list(inputs.target_data.images.values())
    names = name_series(runs.assign(chosen=""))
    folders = [RunDirectory(Path(path)) for path in runs.path]
    checks = [folder.leave_one_out for folder in folders]
    scores = [folder.lowest_scores for folder in folders]
    return Detected(
        data=data,
        targets=inputs.target_data,
        categories=inputs.categories,
        labels=[
            f"{names.short[run.label]}{choice([run.chosen])}, {shots_text(run.shots)}, seed {run.seed}"
            for run in runs.itertuples()
        ],
        detections=[_read_predictions(folder.predictions, records, inputs.categories) for folder in folders],
        proposed=[read_reference_check(own_file(file)).thresholds if file.exists() else {} for file in checks],
        lowest_scores=[read_lowest_scores(own_file(file)) if file.exists() else {} for file in scores],
        num_settings=len(group),
    )


def _read_predictions(path: Path, records: Sequence[ImageRecord], categories: Sequence[Category]) -> list[Detections]:
    path = own_file(path, max_bytes=_MAX_BYTES)
    try:
        detections = read_predictions(path, records, categories)
        is_finite = all(np.isfinite(values).all() for each in detections for values in (each.boxes_xywh, each.scores))
        problem = None if is_finite else "a box or a score is no number"
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        problem = repr(error)
    if problem is not None:
        raise DataError(f"{path} does not fit the data set, which has changed since the run: {problem}.")
    return detections


def thresholds_table(detected: Sequence[Detected]) -> Table:
    """One row per run and class: the quality at the proposed threshold and at the score with the largest F1."""
    rows: list[tuple[object, ...]] = []
    for each in detected:
        for label, classes, scores in zip(each.labels, each.ranked, each.proposed, strict=True):
            if not each.targets.has_annotations:
                rows += [(each.data, label, name, None, f"{score:.2f}", *[None] * 7) for name, score in scores.items()]
                continue
            for name, ranked in classes.items():
                proposal = ranked.at(scores[name]) if name in scores else None
                cells = (*_cells(proposal), *_cells(best_point(ranked)))
                rows.append((each.data, label, name, ranked.num_objects, *cells))
    proposed, best = ("proposed score", "P", "R", "F1"), ("best score", "best P", "best R", "best F1")
    names = ["data set", "run", "class", "objects", *proposed, *best]
    notes = (
        "Precision, recall and F1 of boxes at IoU 0.5; percent. Proposed scores come from the references alone.",
        "The best score is chosen with these very targets: a bound, not a setting.",
    )
    return Table("thresholds", "Score thresholds", pd.DataFrame(rows, columns=names, dtype=object), notes)


def _cells(point: OperatingPoint | None) -> tuple[str | float | None, ...]:
    return (None,) * 4 if point is None else (f"{point.threshold:.2f}", point.precision, point.recall, point.f1)


def confusion(detected: Detected, run: int) -> tuple[IntArray, float]:
    """Count which class each object is taken for, by the detections that reach the score with the best F1.

    Each detection, by descending score, takes the object it overlaps most at IoU 0.5 or more, whatever its class. The
    counts, int64 [C + 1, C + 1], are true class by predicted class; the last row has detections of nothing, the last
    column missed objects. The score is that of all classes together.
    """
    threshold = detected.overall_threshold(run)
    counts = np.zeros((len(detected.categories) + 1,) * 2, dtype=np.int64)
    for detections in detected.detections[run]:
        record = detected.targets.images[detections.image_id]
        boxes = [replace(each, segmentation=None) for each in detected.targets.instances_of_image(record.id)]
        drawn = drawn_instances(boxes, detected.categories, record, masks={})
        true_labels = drawn.labels
        drawn = replace(drawn, labels=np.zeros_like(true_labels))
        rows = np.flatnonzero(detections.scores >= threshold)
        without_class = replace(
            detections,
            labels=np.zeros_like(rows),
            scores=detections.scores[rows],
            boxes_xywh=detections.boxes_xywh[rows],
            rles=(),
        )
        matches, _ = match_objects(drawn, without_class)
        is_missed = ~drawn.iscrowd
        is_missed[matches[matches >= 0]] = False
        # The last row is of nothing, the last column of missed objects.
        true_rows = np.append(true_labels, -1)[matches]
        np.add.at(counts, (true_rows[matches != IN_CROWD], detections.labels[rows][matches != IN_CROWD]), 1)
        np.add.at(counts[:, -1], true_labels[is_missed], 1)
    return counts, threshold
