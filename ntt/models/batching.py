"""Prompts or images in batches, over several threads on a CPU, and in smaller batches when memory runs out."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
_OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device's or the machine's memory is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch.OutOfMemoryError is CUDA's; on a CPU and on MPS, and from cuBLAS, only the message identifies it.
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)


class BatchRunner:
    """Divides items into batches; halves `batch_size` whenever memory runs out."""

    def __init__(self, batch_size: int, *, unit: str = "prompts", setting: str = "segmenter.prompt_batch_size") -> None:
        """Start with `batch_size` items at a time; the warning names them `unit`, and the size `setting`."""
        self.batch_size = batch_size
        self._unit, self._setting = unit, setting
        self._lock = threading.Lock()
        self._warned = False

    def run(self, function: Callable[[int, int], Result], count: int, *, workers: int = 1) -> list[Result]:
        """Call `function(start, stop)` for all of `count` items, and return the results per batch, in order.

        The results must not depend on how items are grouped. Each of `workers` threads flushes denormals and computes
        with a single thread, because threads within small operations mostly wait for one another. A RuntimeError if
        memory does not suffice even for one item.
        """
        spans = [(start, min(start + self.batch_size, count)) for start in range(0, count, self.batch_size)]
        if workers == 1 or len(spans) < 2:
            return [result for span in spans for result in self._span(function, *span)]
        with _single_threaded_pool(min(workers, len(spans))) as pool:
            parts = pool.map(lambda span: list(self._span(function, *span)), spans)
            return [result for part in parts for result in part]

    def _span(self, function: Callable[[int, int], Result], start: int, stop: int) -> Iterator[Result]:
        """Process one span, in as many pieces as memory requires."""
        while start < stop:
            end = min(start + self.batch_size, stop)
            try:
                result = function(start, end)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or end - start == 1:
                    raise
                failed = True
            else:
                failed = False
            # Outside the handler: while the error is being handled, its traceback keeps the batch's tensors alive.
            if failed:
                self._shrink(end - start)
            else:
                yield result
                start = end

    def _shrink(self, failed_size: int) -> None:
        with self._lock:
            self.batch_size = min(self.batch_size, failed_size // 2)
            if not self._warned:
                logger.warning(
                    "Memory ran out with %d %s at a time; continuing with %d. Set %s to that to avoid failed attempts.",
                    failed_size,
                    self._unit,
                    self.batch_size,
                    self._setting,
                )
                self._warned = True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _single_threaded_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads compute with one thread each; the caller's setting is restored afterwards."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=_start_worker) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _start_worker() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
