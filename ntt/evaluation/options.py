"""What can be chosen about the evaluation; docs/evaluation.md explains the choices."""

from typing import Literal, get_args

Protocol = Literal["coco", "lvis"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)

Painting = Literal["none", "correct", "reference"]
PAINTINGS: tuple[str, ...] = get_args(Painting)
