"""Work on a row of items with its parts side by side: order, bounds, errors, interrupts; and the stage built on it."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import cases
from PIL import Image

from ntt.base.distributed import ProcessGroup
from ntt.base.overlap import overlap
from ntt.errors import DataError
from ntt.stages.candidates import CandidateSource, find_candidates
from ntt.store.store import Store
from ntt.types import ImageRecord, Proposals


def run(count: int, *, computing: int = 0, **parts: Callable[[Any], Any]) -> list[Any]:
    same = {name: (lambda value: value) for name in ("load", "compute", "finish")}
    return list(overlap(range(count), **{**same, **parts}, computing=computing))


@cases("computing")(0, 1, 2)
@cases("count")(0, 1, 2, 50)
def test_results_come_in_order(count, computing):
    def late(value: int) -> int:
        time.sleep(0.002 * (value % 3))
        return value + 1

    assert run(count, computing=computing, load=late, compute=late, finish=late) == [k + 3 for k in range(count)]


@cases("computing")(0, 2)
@cases("part")("load", "compute", "finish")
def test_an_error_in_any_part_comes_out_as_it_is_and_nothing_is_begun_after_it(part, computing):
    begun: list[int] = []
    before = threading.active_count()

    def load(value: int) -> int:
        begun.append(value)
        return value

    def fail(value: int) -> int:
        if value == 5:
            raise DataError("image 5 is damaged")
        return value

    parts: dict[str, Callable[[int], int]] = {"load": load}
    parts[part] = (lambda value: fail(load(value))) if part == "load" else fail
    with pytest.raises(DataError, match="^image 5 is damaged$"):
        run(1000, computing=computing, **parts)
    assert max(begun) < 25
    assert threading.active_count() == before


@cases("computing")(0, 2)
def test_few_items_are_under_way(computing):
    loaded: list[int] = []
    for done, _ in enumerate(overlap(range(60), load=loaded.append, compute=str, finish=str, computing=computing)):
        assert len(loaded) - done < 15


def test_the_first_item_is_done_before_the_second_and_an_interrupt_ends_it():
    order: list[str] = []
    run(2, load=lambda k: order.append(f"load {k}"), finish=lambda _: order.append("finish"), computing=2)
    assert order[:2] == ["load 0", "finish"]

    def interrupted(value: int) -> int:
        if value == 3:
            raise KeyboardInterrupt
        return value

    with pytest.raises(KeyboardInterrupt):
        run(1000, compute=interrupted)


@cases("computing")(0, 2)
def test_loading_runs_ahead_and_finishing_follows_behind(computing):
    loading, calculating = ([threading.Event() for _ in range(6)] for _ in range(2))

    def load(number: int) -> int:
        loading[number].set()
        return number

    def compute(number: int) -> int:
        calculating[number].set()
        return number if number in (0, 5) or loading[number + 1].wait(30) else -1

    def finish(number: int) -> int:
        return number if number in (0, 5) or calculating[number + 1].wait(30) else -1

    assert run(6, computing=computing, load=load, compute=compute, finish=finish) == list(range(6))


class Fixed:
    """A backbone and a segmenter whose answers depend on the image alone."""

    name = "fixed"
    input_size = 28
    fingerprint = {"kind": "fixed"}  # noqa: RUF012

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        return 32, 32

    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images_B3HW, 14)

    def propose(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor) -> Proposals:
        return Proposals(canvas_3hw - canvas_3hw.mean(), torch.ones(3))


@cases("threads")(1, 2)
def test_the_stage_gives_the_same_entries_however_it_runs(threads, tmp_path):
    images = []
    for number in range(8):
        # The first and the last are the same.
        path = tmp_path / f"{number % 7}.png"
        if number < 7:
            Image.effect_noise((40 + number % 7, 30), 20 + number % 7).convert("RGB").save(path)
        images.append(ImageRecord(number, path.name, path, 30, 40 + number % 7))
    plain = source(tmp_path / "plain")
    expected = [plain.finish(plain.key(image), plain.compute(image, plain.load(image))) for image in images]
    tested = source(tmp_path / "tested")
    torch.set_num_threads(threads)
    counts = find_candidates(images=images, source=tested, group=ProcessGroup())
    assert counts == tuple(len(candidates) for candidates in expected)
    for image in images:
        key = plain.key(image)
        assert tested.store.path("candidates", key).read_bytes() == plain.store.path("candidates", key).read_bytes()
    assert len(tested.store.written) == 7


def test_the_same_image_in_another_size_has_other_candidates(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "0.png")
    image, tested = ImageRecord(0, "0.png", tmp_path / "0.png", 30, 40), source(tmp_path / "store")
    keys = [tested.key(each) for each in (image, replace(image, height=40, width=30))]
    assert keys[0] == source(tmp_path / "store").key(image) != keys[1]


def source(root: Path) -> CandidateSource:
    return CandidateSource(segmenter=Fixed(), backbone=Fixed(), feature_dtype="float16", store=Store(root))
