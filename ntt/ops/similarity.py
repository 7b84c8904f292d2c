"""Cosine similarity of candidates and prototypes. Suffixes: N candidates, P prototypes, C classes, D channels."""

import numpy as np

from ntt.types import FloatArray, IntArray


def cosine_similarity(features_ND: FloatArray, vectors_PD: FloatArray) -> FloatArray:
    """Compute max(0, cosine) between unit vectors (METHOD 5).

    Args:
        features_ND: float32 [N, D], L2-normalised.
        vectors_PD: float32 [P, D], L2-normalised.

    Returns:
        float32 [N, P] in [0, 1]; rounding above 1 is cut.
    """
    cosine_NP: FloatArray = features_ND @ vectors_PD.T
    return cosine_NP.clip(0.0, 1.0)


def best_per_class(similarity_NP: FloatArray, labels_P: IntArray, *, num_classes: int) -> FloatArray:
    """Take each class's highest similarity over its prototypes.

    Args:
        similarity_NP: float32 [N, P], not negative.
        labels_P: int64 [P], class index of each prototype; -1 (background) is left out.
        num_classes: C.

    Returns:
        float32 [N, C]; 0 for a class without prototypes.
    """
    if np.array_equal(labels_P, np.arange(num_classes)):
        return similarity_NP
    scores_NC = np.zeros((len(similarity_NP), num_classes), dtype=np.float32)
    for label in np.unique(labels_P[labels_P >= 0]).tolist():
        scores_NC[:, label] = similarity_NP[:, labels_P == label].max(axis=1)
    return scores_NC
