"""The detections of runs beside the ground truth: precision and recall per class, thresholds, confusions.

All of it is of boxes at IoU 0.5, because every data set has boxes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ntt.config.compose import restore_data
from ntt.data.coco import CocoDataset
from ntt.drawing.instances import DrawnInstances
from ntt.drawing.quality import IN_CROWD, match_objects
from ntt.errors import DataError, NttError
from ntt.evaluation.curves import FloatArray
from ntt.evaluation.ground_truth import GroundTruth, prepare_ground_truth
from ntt.evaluation.matching import match
from ntt.evaluation.table import tabulate
from ntt.reports.records import own_file
from ntt.reports.summary import SETTING, name_series, shots_text
from ntt.reports.tables import Table
from ntt.run.artefacts import read_predictions
from ntt.run.inputs import read_inputs
from ntt.run.rundir import RunDirectory
from ntt.types import Category, Detections, ImageRecord, IntArray

MAX_RUNS = 6
"""Per data set; of each setting the run with the lowest seed is taken."""

_MAX_BYTES = 2 << 30


@dataclass(frozen=True)
class Detected:
    """The targets of a data set and what some runs found in them.

    Attributes:
        data: the data set's label.
        labels: of the runs.
        detections: per run, in the order of the images.
        num_settings: how many settings there are; at most `MAX_RUNS` of them are here.
    """

    data: str
    targets: CocoDataset
    categories: tuple[Category, ...]
    labels: list[str]
    detections: list[list[Detections]]
    num_settings: int

    @property
    def ground_truth(self) -> GroundTruth:
        """The objects of the searched classes."""
        return prepare_ground_truth(self.targets, self.categories)


@dataclass(frozen=True)
class ClassCurve:
    """Precision and recall of one class from each detection on, by descending score; float64 in [0, 1]."""

    name: str
    num_objects: int
    scores: FloatArray
    precision: FloatArray
    recall: FloatArray

    @property
    def best(self) -> tuple[float, float, float, float]:
        """Return the score from which F1 is largest, with precision, recall and F1 there; the highest of equals."""
        f1 = 2 * self.precision * self.recall / np.maximum(self.precision + self.recall, 1e-12)
        index = int(f1.argmax())
        return float(self.scores[index]), float(self.precision[index]), float(self.recall[index]), float(f1[index])


def read_detected(runs: pd.DataFrame) -> tuple[list[Detected], list[str]]:
    """Read the detections of every data set that can still be read.

    Returns:
        The data sets, and a sentence about each one that cannot be read: it does not stop the report.
    """
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
    with tempfile.TemporaryDirectory() as cache:  # somebody else's run must not say where files are written
        inputs = read_inputs(replace(config, runtime=replace(config.runtime, cache_root=cache)))
    records = list(inputs.target_data.images.values())
    names = name_series(runs)
    return Detected(
        data=data,
        targets=inputs.target_data,
        categories=inputs.categories,
        labels=[f"{names.short[run.label]}, {shots_text(run.shots)}, seed {run.seed}" for run in runs.itertuples()],
        detections=[_read_predictions(Path(path), records, inputs.categories) for path in runs.path],
        num_settings=len(group),
    )


def _read_predictions(folder: Path, records: Sequence[ImageRecord], categories: Sequence[Category]) -> list[Detections]:
    path = own_file(RunDirectory(folder).predictions, max_bytes=_MAX_BYTES)
    try:
        detections = read_predictions(path, records, categories)
        problem = next((problem for each in detections if (problem := _problem(each))), None)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        problem = repr(error)
    if problem is not None:
        raise DataError(f"{path} does not fit the data set, which has changed since the run: {problem}.")
    return detections


def _problem(detections: Detections) -> str | None:
    """Return what no detection of this program can be; masks are checked where they are drawn."""
    is_finite = np.isfinite(detections.boxes_xywh).all() and np.isfinite(detections.scores).all()
    return None if is_finite else "a box or a score is no number"


def class_curves(detected: Detected, run: int) -> list[ClassCurve]:
    """Follow precision and recall of each class that has objects and detections, in the order of the classes."""
    ground_truth = detected.ground_truth
    table = tabulate(detected.detections[run], detected.categories, ground_truth)
    matches = match(table, ground_truth, "bbox")
    labels, scores = table.labels[matches.rows], table.scores[matches.rows]
    is_true, is_ignored = matches.is_match[0, 0], matches.is_ignored[0, 0]
    curves = []
    for label, category in enumerate(ground_truth.categories):
        rows = np.flatnonzero((labels == label) & ~is_ignored)
        count = int(ground_truth.num_counted[0, label])
        if count and len(rows):
            rows = rows[np.argsort(-scores[rows], kind="stable")]
            found = np.cumsum(is_true[rows])
            precision = found / np.arange(1, len(rows) + 1)
            curves.append(ClassCurve(category.name, count, scores[rows], precision, found / count))
    return curves


def thresholds_table(detected: Sequence[Detected]) -> Table:
    """One row per run and class: the score from which F1 is largest, which needs the ground truth to be known."""
    rows = [
        (each.data, label, curve.name, curve.num_objects, f"{score:.2f}", 100 * precision, 100 * recall, 100 * f1)
        for each in detected
        for run, label in enumerate(each.labels)
        for curve in class_curves(each, run)
        for score, precision, recall, f1 in [curve.best]
    ]
    names = ["data set", "run", "class", "objects", "best score", "precision", "recall", "F1"]
    notes = ("Boxes at IoU 0.5; percent. The best score is chosen with these very targets: a bound, not a setting.",)
    return Table("thresholds", "Thresholds with the best F1", pd.DataFrame(rows, columns=names, dtype=object), notes)


def confusion(detected: Detected, run: int) -> tuple[IntArray, float]:
    """Count which class each object is taken for, over the detections from the score of best F1 on.

    Each detection, by descending score, takes the object it overlaps most at IoU 0.5 or more, whatever its class.

    Returns:
        int64 [C + 1, C + 1]: true class by predicted class; the last row has detections of nothing, the last column
        missed objects. And the score, of all classes together.
    """
    threshold = _overall_threshold(class_curves(detected, run))
    class_indices = {category.id: index for index, category in enumerate(detected.categories)}
    counts = np.zeros((len(class_indices) + 1,) * 2, dtype=np.int64)
    for detections in detected.detections[run]:
        instances = detected.targets.instances_of_image(detections.image_id)
        objects = [instance for instance in instances if instance.category_id in class_indices]
        true_labels = np.array([class_indices[instance.category_id] for instance in objects], dtype=np.int64)
        drawn = DrawnInstances(
            labels=np.zeros_like(true_labels),
            boxes_xywh=np.array([instance.bbox_xywh for instance in objects], dtype=np.float32).reshape(-1, 4),
            rles=[None] * len(objects),
            iscrowd=np.array([instance.iscrowd for instance in objects], dtype=bool),
        )
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
        # The last row is that of nothing, the last column that of missed objects.
        true_rows = np.append(true_labels, -1)[matches]
        np.add.at(counts, (true_rows[matches != IN_CROWD], detections.labels[rows][matches != IN_CROWD]), 1)
        np.add.at(counts[:, -1], true_labels[is_missed], 1)
    return counts, threshold


def _overall_threshold(curves: Sequence[ClassCurve]) -> float:
    """Return the score from which F1 over all classes together is largest; 0 where nothing was found."""
    if not curves:
        return 0.0
    scores = np.concatenate([curve.scores for curve in curves])
    found = [np.diff(np.round(curve.recall * curve.num_objects), prepend=0.0) for curve in curves]
    order = np.argsort(-scores, kind="stable")
    true_positives = np.cumsum(np.concatenate(found)[order])
    f1 = 2 * true_positives / (np.arange(1, len(scores) + 1) + sum(curve.num_objects for curve in curves))
    return float(scores[order][f1.argmax()])
