"""How certain a difference is: AP of images drawn with replacement."""

from dataclasses import replace

import numpy as np

from ntt.evaluation.curves import FloatArray, averages
from ntt.evaluation.ground_truth import GroundTruth
from ntt.evaluation.matching import Matches
from ntt.evaluation.precision_recall import precision_recall
from ntt.evaluation.table import DetectionTable


def bootstrap_ap(
    matches: Matches, table: DetectionTable, ground_truth: GroundTruth, *, draws: int, seed: int = 0
) -> FloatArray:
    """Return the AP of each draw of images, float64 [draws], percent; the same images for the same ground truth."""
    generator = np.random.default_rng(seed)
    count = len(ground_truth.sizes)
    repeats = [np.bincount(generator.integers(0, count, count), minlength=count) for _ in range(draws)]
    image_of_row = table.images[matches.rows]
    image_of_object = np.array(
        [ground_truth.image_indices[instance.image_id] for instance in ground_truth.instances], dtype=np.int64
    )
    values = []
    for repeat in repeats:
        rows = np.repeat(np.arange(len(image_of_row)), repeat[image_of_row])
        objects = np.repeat(np.arange(len(image_of_object)), repeat[image_of_object])
        drawn = Matches(
            matches.rows[rows], matches.ranks[rows], matches.is_match[..., rows], matches.is_ignored[..., rows]
        )
        drawn_truth = replace(
            ground_truth,
            instances=tuple(ground_truth.instances[index] for index in objects.tolist()),
            is_ignored=ground_truth.is_ignored[:, objects],
        )
        values.append(averages(precision_recall(drawn, table, drawn_truth)).get("AP", 0.0))
    return np.array(values)
