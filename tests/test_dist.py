"""Several processes give one result, and so do parts of the work on items side by side; losses, errors, interrupts."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PROJECT_DIR, cases
from PIL import Image

from ntt.base.distributed import ProcessGroup, barrier, compute_on_main, gather, join_process_group, share
from ntt.base.overlap import overlap
from ntt.errors import DataError, DistributedError
from ntt.stages.candidates import CandidateSource, find_candidates
from ntt.store.store import Store
from ntt.types import ImageRecord, Proposals

ALONE = ProcessGroup()


def test_without_environment_one_process_deals_everything_to_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_process_group(timeout_s=5) as group:
        assert group == ALONE
        assert group.is_main
    assert share("abc", ALONE) == [(0, "a"), (1, "b"), (2, "c")]
    assert gather([(1, "b"), (0, "a")], 2, ALONE) == ["a", "b"]
    assert compute_on_main(lambda: 5, ALONE) == 5
    barrier(ALONE)
    with pytest.raises(DistributedError, match="1 of 3 results are missing, the first at position 1"):
        gather([(0, "a"), (2, "c")], 3, ALONE)


@cases("size")(1, 2, 3, 7)
@cases("count")(0, 1, 2, 5)
def test_every_item_is_dealt_out_once(size, count):
    dealt = [pair for rank in range(size) for pair in share(range(count), ProcessGroup(rank=rank, size=size))]
    assert sorted(dealt) == [(item, item) for item in range(count)]


def meeting(rank: int, size: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


PROGRAM = """
import os, signal
from ntt.base.distributed import barrier, compute_on_main, gather, join_process_group, share
from ntt.errors import DistributedError
with join_process_group(timeout_s=600) as joined, join_process_group(timeout_s=1) as group:
    assert group == joined
    squares = gather([(index, item * item) for index, item in share(list(range(5)), group)], 5, group)
    barrier(group)
    nothing = gather([], 0, group)
    print(group.rank, squares, nothing, compute_on_main(lambda: f"said by {group.rank}", group), flush=True)
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        gather([(0, "x")], 3, group)
    except DistributedError as error:
        print(error, flush=True)
        os._exit(3)
"""


def test_processes_agree_and_a_killed_one_stops_those_that_wait_for_it():
    env = {**os.environ, "MASTER_PORT": free_port(), "PYTHONPATH": str(PROJECT_DIR), "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", PROGRAM]
    processes = [subprocess.Popen(command, env=env | meeting(rank, 3), **pipes) for rank in range(3)]
    for rank, process in enumerate(processes):
        out, err = process.communicate(timeout=240)  # far less than the timeout of the group
        agreed, *rest = out.splitlines()
        assert agreed == f"{rank} [0, 1, 4, 9, 16] [] said by 0", err
        assert process.returncode == (-signal.SIGKILL if rank == 1 else 3), err
        assert ["Another process of this run has stopped" in line for line in rest] == [True] * (rank != 1), (out, err)


def test_processes_that_do_not_meet_are_a_clear_error(monkeypatch):
    for key, value in {**meeting(1, 2), "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(key, value)
    with (
        pytest.raises(DistributedError, match="Process 1 of 2 could not join the others"),
        join_process_group(timeout_s=2),
    ):
        pass


def test_processes_join_again_and_again(tmp_path):
    """Under torchrun one store serves all groups of a multirun: the address of an earlier group must not be used."""
    (tmp_path / "join.py").write_text("""
import os, time
from ntt.base.distributed import gather, join_process_group
for number in range(3):
    time.sleep(number * int(os.environ["RANK"]))
    with join_process_group(timeout_s=60) as group:
        assert gather([(group.rank, number)], 2, group) == [number, number]
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "join.py"]
    env = {**os.environ, "PYTHONPATH": str(PROJECT_DIR)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


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
    input_size, patch_size = 28, 14
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
