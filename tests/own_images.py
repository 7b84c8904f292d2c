"""A plain folder of own images: coloured discs and squares, one example of each in one of several forms."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_data import CLASSES, make_tiny, shape_mask

EXAMPLES = {"disc": ("references_0", (3, 20, 20, 40)), "square": ("references_1", (7, 70, 30, 40))}
"""Class -> image of the tiny data set, and its object: category id, x, y, size."""


def make_folder(folder: Path, *, masks: bool = True) -> Path:
    """Write references/<class>/<image> and targets/<image> into `folder` and return it."""
    tiny = make_tiny(folder / "tiny")
    for name, (stem, scene) in EXAMPLES.items():
        (folder / "references" / name).mkdir(parents=True)
        shutil.copy(tiny / f"images/{stem}.png", folder / "references" / name)
        if masks:
            assert CLASSES[scene[0]] == name
            mask = shape_mask(*scene).astype(np.uint8) * 255
            Image.fromarray(mask).save(folder / "references" / name / f"{stem}_mask.png")
    (folder / "targets").mkdir()
    for place in range(2):
        shutil.copy(tiny / f"images/targets_{place}.png", folder / "targets")
    shutil.rmtree(tiny)
    return folder
