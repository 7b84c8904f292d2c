"""Stage `memory` with an encoder whose features are the mean colours of patches."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ntt.base.distributed import ProcessGroup
from ntt.matchers.prototype import PrototypeMatcher
from ntt.models.box_masks import ReferenceMasks
from ntt.stages.memory import ReferenceEncoder, fill_memory
from ntt.store.store import Store
from ntt.types import Category, ImageRecord, Instance, MemoryBank, ReferenceSet

RED, BLUE = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]


@dataclass(frozen=True)
class Colours:
    """8 x 8 cells of 4 pixels; the feature of a cell is its mean colour."""

    name: str = "colours"
    input_size: int = 32
    patch_size: int = 4
    broken: bool = False

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"kind": "colours"}

    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        assert not self.broken, "everything is stored"
        return F.avg_pool2d(images_B3HW, self.patch_size)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def instance(number: int, category_id: int, right: float) -> Instance:
    """An object in the left part of the box (16, 16, 32, 32)."""
    outline = rectangle(16, 16, right, 48)
    return Instance(number, 1, category_id, (16.0, 16.0, 32.0, 32.0), outline, area_px=32 * (right - 16))


@pytest.fixture
def references(tmp_path: Path) -> ReferenceSet:
    """A picture, red up to column 32 and blue from there on; objects that cover half of their box or all of it."""
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, :32, 0] = 255
    pixels[:, 32:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return ReferenceSet(
        categories=(Category(2, "half"), Category(5, "full")),
        instances=((instance(1, 2, 32.0), instance(2, 2, 48.0)), (instance(3, 5, 48.0),)),
        images={1: ImageRecord(1, "picture.png", tmp_path / "picture.png", 64, 64)},
        shots=2,
        seed=0,
        digest="references",
    )


def fill(references: ReferenceSet, folder: Path, backbone: Colours, *, clear: bool = False) -> MemoryBank:
    encoder = ReferenceEncoder(backbone, ReferenceMasks(maker=None), context_ratio=0.0, store=Store(folder))
    if clear:
        encoder = replace(encoder, objects_of_image=references.instances_of_image)
    return fill_memory(references=references, encoder=encoder, group=ProcessGroup())


def test_features_of_instances_and_of_what_surrounds_them(references: ReferenceSet, tmp_path: Path):
    memory = fill(references, tmp_path / "store", Colours())
    torch.testing.assert_close(memory.features[0], torch.tensor([RED, [0.5, 0.0, 0.5]]))
    torch.testing.assert_close(memory.features[1], torch.tensor([[0.5, 0.0, 0.5]]))
    # A mask that fills its crop has no surroundings.
    torch.testing.assert_close(memory.backgrounds[0], torch.tensor([BLUE, [0.0, 0.0, 0.0]]))
    assert memory.backgrounds[1].tolist() == [[0, 0, 0]]
    assert [len(vectors) for vectors in PrototypeMatcher().select(memory).backgrounds] == [1, 0]


def test_the_store_keeps_both(references: ReferenceSet, tmp_path: Path):
    first = fill(references, tmp_path / "store", Colours())
    again = fill(references, tmp_path / "store", Colours(broken=True))
    for found, known in zip(first.features + first.backgrounds, again.features + again.backgrounds, strict=True):
        assert torch.equal(found, known)


def test_other_objects_are_left_out_of_clear_surroundings(references: ReferenceSet, tmp_path: Path):
    """The first object covers the red half of its crop; another one, the upper half of the blue one."""
    upper = Instance(4, 1, 5, (32.0, 8.0, 16.0, 24.0), rectangle(32, 8, 48, 32), area_px=16 * 24)
    alone = replace(references, categories=references.categories[:1], instances=(references.instances[0][:1],))
    beside = replace(references, instances=(alone.instances[0], (upper,)))
    folder = tmp_path / "store"
    for clear in (False, True):
        memory = fill(beside, folder, Colours(), clear=clear)
        torch.testing.assert_close(memory.backgrounds[0], torch.tensor([BLUE]))
        assert len(memory.clear_backgrounds) == (2 if clear else 0)
    torch.testing.assert_close(memory.clear_backgrounds[0], torch.tensor([BLUE]))
    stored = fill(beside, folder, Colours(broken=True), clear=True)
    assert torch.equal(stored.clear_backgrounds[0], memory.clear_backgrounds[0])
    # An object that fills the rest leaves nothing; without other objects both surroundings are the same.
    rest = replace(upper, bbox_xywh=(32.0, 8.0, 16.0, 48.0), segmentation=rectangle(32, 8, 48, 56))
    covered = fill(replace(beside, instances=(alone.instances[0], (rest,))), folder, Colours(), clear=True)
    assert (bool(covered.clear_backgrounds[0].any()), bool(covered.backgrounds[0].any())) == (False, True)
    single = fill(alone, folder, Colours(), clear=True)
    assert torch.equal(single.clear_backgrounds[0], single.backgrounds[0])
