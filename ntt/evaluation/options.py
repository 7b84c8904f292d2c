"""What can be chosen about the evaluation; docs/evaluation.md explains the choices."""

from typing import Literal, get_args

Protocol = Literal["coco", "lvis"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)

FIXED_THRESHOLD = 0.4
"""Score from which on detections are shown where the references propose none."""

Painting = Literal["none", "correct", "reference"]
PAINTINGS: tuple[str, ...] = get_args(Painting)
