"""Objectness: an estimate of a region's IoU with the object it fits best, from its descriptors alone.

A generalised linear model: descriptors are standardised, clipped, and enter linearly and squared into a logistic
function. It was fitted to the reference images of the development sets; see docs/models.md.
"""

from collections.abc import Mapping

import numpy as np

from ntt.types import DoubleArray, FloatArray

# Per descriptor: mean and standard deviation over the fitted regions, coefficient of the value and of its square.
COEFFICIENTS: Mapping[str, tuple[float, float, float, float]] = {
    "log_area": (-6.1395, 1.5473, 0.6848, -0.0712),
    "compactness": (0.2956, 0.1402, 0.0978, -0.0157),
    "extent": (0.5831, 0.1807, 0.1731, -0.0121),
    "ellipse_fit": (0.7948, 0.1396, -0.0178, 0.0191),
    "log_aspect": (0.7382, 0.6936, -0.1181, -0.0506),
    "frame_share": (0.0379, 0.0907, -0.2197, 0.0344),
    "gradient_fine": (0.3513, 0.2476, -0.1374, 0.0091),
    "gradient_coarse": (0.3706, 0.2684, 0.5460, -0.0752),
    "colour_step": (0.7268, 0.5484, 0.3588, -0.0556),
    "feature_step": (0.3260, 0.1286, 0.1180, -0.1192),
    "colour_contrast": (0.4885, 0.5048, 0.0254, 0.0014),
    "feature_contrast": (0.1834, 0.1139, 0.1207, 0.0226),
    "colour_spread": (0.4480, 0.3301, 0.3553, -0.0890),
    "feature_spread": (0.2507, 0.1568, 0.3199, 0.0056),
    "inner_gradient": (0.2743, 0.2667, 0.2382, -0.0586),
    "gradient_ratio": (0.6382, 1.2016, 0.1241, 0.0072),
    "feature_from_frame": (0.9604, 0.3117, 0.3692, -0.2079),
    "colour_from_frame": (1.1003, 0.8006, 0.2161, -0.0422),
    "feature_norm": (0.8573, 0.2696, 0.1282, 0.0952),
    "log_parent_area": (0.7451, 0.6861, -0.0800, 0.0196),
    "log_parent_cost": (1.3486, 1.0001, -0.0532, 0.0420),
    "centre_distance": (0.3669, 0.1441, 0.0233, -0.0156),
    "texture": (0.8810, 0.6458, -0.0869, -0.0127),
    "gradient_relative": (-0.0171, 0.6065, -0.4296, -0.1072),
}
DESCRIPTORS = tuple(COEFFICIENTS)
INTERCEPT = -4.0874
CLIP = 3.0


def objectness(descriptors_NF: DoubleArray) -> FloatArray:
    """Estimate each region's IoU with the object it fits best: float32 [N] in (0, 1)."""
    mean, deviation, plain, squared = np.array(list(COEFFICIENTS.values())).T
    standard = np.clip((descriptors_NF - mean) / deviation, -CLIP, CLIP)
    # A plain sum: the last digits of a matrix product may depend on the number of threads.
    logit = np.sum(standard * plain + standard**2 * squared, axis=1) + INTERCEPT
    guess: FloatArray = (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
    return guess
