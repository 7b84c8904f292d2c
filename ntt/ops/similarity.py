"""Cosines with prototypes, and ridge regression. Suffixes: N candidates, P prototypes, C classes, D channels."""

import numpy as np

from ntt.types import DoubleArray, FloatArray, IntArray


def cosine_similarity(features_ND: FloatArray, vectors_PD: FloatArray) -> FloatArray:
    """Compute max(0, cosine) between unit vectors (method.md §5): float32 [N, P], clipped to [0, 1]."""
    cosine_NP: FloatArray = features_ND @ vectors_PD.T
    return np.clip(cosine_NP, 0.0, 1.0, out=cosine_NP)


def best_per_class(similarity_NP: FloatArray, labels_P: IntArray, *, num_classes: int) -> FloatArray:
    """Take each class's highest similarity, 0 or more: float32 [N, C]; 0 without prototypes; no labels below 0."""
    if np.array_equal(labels_P, np.arange(num_classes)):
        return similarity_NP
    return mean_of_best(similarity_NP, labels_P, num_classes=num_classes, count=1)


def mean_of_best(similarity_NP: FloatArray, labels_P: IntArray, *, num_classes: int, count: int) -> FloatArray:
    """Average the `count` highest similarities of each class, all if it has fewer; otherwise as `best_per_class`."""
    scores_NC = np.zeros((len(similarity_NP), num_classes), dtype=np.float32)
    for label in np.unique(labels_P[labels_P >= 0]).tolist():
        of_class = similarity_NP[:, labels_P == label]
        best = of_class if of_class.shape[1] <= count else np.partition(of_class, -count, axis=1)[:, -count:]
        scores_NC[:, label] = best.mean(axis=1)
    return scores_NC


def best_of_others(scores_NC: FloatArray) -> FloatArray:
    """Take for each class the highest score among all other classes: float32 [N, C]; 0 if there is no other class."""
    if scores_NC.shape[1] < 2:
        return np.zeros_like(scores_NC)
    winners_N = scores_NC.argmax(axis=1)
    second_N, first_N = np.partition(scores_NC, -2, axis=1)[:, -2:].T
    others_NC: FloatArray = np.repeat(first_N[:, None], scores_NC.shape[1], axis=1)
    others_NC[np.arange(len(scores_NC)), winners_N] = second_N
    return others_NC


def damp(scores_NC: FloatArray, against_NC: FloatArray, *, sigma: float) -> FloatArray:
    """Lower scores against which there is stronger evidence: score * exp(-max(0, against - score) / sigma).

    All are float32 in [0, 1], [N, C]. A lead of `sigma` leaves 37 % of the score.
    """
    lead_NC = (against_NC - scores_NC).clip(min=0.0)
    damped: FloatArray = (scores_NC * np.exp(-lead_NC / sigma)).astype(np.float32)
    return damped


def ridge_directions(
    rows_ND: DoubleArray, weights_N: DoubleArray, targets_NC: DoubleArray, *, ridge: float
) -> DoubleArray:
    """Solve (H + ridge * trace(H) / D * I) v_c = g_c (docs/method.md, equation 3): float64 [D, C].

    H is sum_i w_i a_i a_i^T and g_c is sum_i w_i y_ic a_i over rows a_i with weights w_i, not negative, and targets
    y_ic; `ridge` is relative to the mean eigenvalue of H. With fewer rows than channels, v_c comes from the dual
    problem, A^T W^1/2 (W^1/2 A A^T W^1/2 + ridge * trace(H) / D * I)^-1 W^1/2 y_c. Zeros if all rows are zero.
    """
    root_N1 = np.sqrt(weights_N)[:, None]
    scaled_ND, scaled_targets_NC = rows_ND * root_N1, targets_NC * root_N1
    count, channels = rows_ND.shape
    penalty = ridge * float(np.square(scaled_ND).sum()) / channels
    if penalty == 0.0:
        return np.zeros((channels, targets_NC.shape[1]))
    if count < channels:
        gram_NN = scaled_ND @ scaled_ND.T + penalty * np.eye(count)
        return np.asarray(scaled_ND.T @ np.linalg.solve(gram_NN, scaled_targets_NC))
    moments_DD = scaled_ND.T @ scaled_ND + penalty * np.eye(channels)
    return np.asarray(np.linalg.solve(moments_DD, scaled_ND.T @ scaled_targets_NC))
