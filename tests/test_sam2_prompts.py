"""Grids of points, their embedding, and batches that shrink when memory runs out."""

import logging
import threading

import pytest
import torch

from ntt.errors import ConfigError
from ntt.models.batching import BatchRunner, is_out_of_memory
from ntt.models.segmenters.sam2.prompts import point_grid


def test_grid_runs_down_the_columns():
    grid = point_grid(3)
    assert grid.dtype == torch.float32
    assert grid.tolist() == [[x, y] for x in (0.5, 512.0, 1023.5) for y in (0.5, 512.0, 1023.5)]


def test_grid_of_one_point():
    assert point_grid(1).tolist() == [[0.5, 0.5]]


def test_remainder_is_dropped_only_on_request():
    assert len(point_grid(20)) == 400
    assert torch.equal(point_grid(20, drop_remainder_of=256), point_grid(20)[:256])
    assert len(point_grid(32, drop_remainder_of=256)) == 1024


def test_dropping_everything_is_refused():
    with pytest.raises(ConfigError, match="more than the 225 points of a 15 x 15 grid: no point would be left"):
        point_grid(15, drop_remainder_of=256)


@pytest.mark.parametrize(("count", "workers"), [(0, 1), (1, 1), (7, 1), (7, 2), (8, 3), (2, 4)])
def test_batches_cover_everything_in_order(count: int, workers: int):
    parts = BatchRunner(3).run(lambda start, stop: list(range(start, stop)), count, workers=workers)
    assert [index for part in parts for index in part] == list(range(count))
    assert all(len(part) <= 3 for part in parts)


def test_workers_compute_with_one_thread_and_leave_the_setting():
    torch.set_num_threads(2)
    inside = BatchRunner(1).run(lambda start, stop: torch.get_num_threads(), 4, workers=2)
    assert inside == [1, 1, 1, 1]
    assert torch.get_num_threads() == 2
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2]


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_running_out_halves_the_batch(workers: int, caplog):
    def work(start: int, stop: int) -> list[int]:
        if stop - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(start, stop))

    runner = BatchRunner(16)
    with caplog.at_level(logging.WARNING):
        parts = runner.run(work, 40, workers=workers)
    assert [index for part in parts for index in part] == list(range(40))
    assert runner.batch_size == 2
    assert len(caplog.records) == 1
    assert "Memory ran out with 16 prompts at a time; continuing with 8" in caplog.text
    runner.run(work, 40, workers=workers)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 1),
        (RuntimeError("shapes do not match"), 4),
    ],
)
def test_what_smaller_batches_do_not_cure_is_an_error(error: Exception, size: int):
    sizes: list[int] = []

    def work(start: int, stop: int) -> None:
        sizes.append(stop - start)
        raise error

    with pytest.raises(RuntimeError, match=str(error)[-20:]):
        BatchRunner(4).run(work, 4)
    assert sizes[-1] == size


def test_which_errors_mean_that_memory_ran_out():
    assert not is_out_of_memory(ValueError("not enough memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
