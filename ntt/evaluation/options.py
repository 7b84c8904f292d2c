"""The choices of the evaluation, which docs/evaluation.md explains."""

from typing import Literal, get_args

Protocol = Literal["coco", "lvis"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)

FIXED_THRESHOLD = 0.4
"""Lowest score of detections shown, if the references propose none."""

Painting = Literal["none", "correct", "reference"]
PAINTINGS: tuple[str, ...] = get_args(Painting)
