"""The parts of the work on a row of items side by side: loading runs ahead, finishing follows behind."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
Loaded = TypeVar("Loaded")
Computed = TypeVar("Computed")
Result = TypeVar("Result")
# Threads that load and that finish; items loaded ahead of, and waiting behind, those being computed.
_LOADING, _FINISHING, _AHEAD = 2, 2, 3


def overlap(
    items: Iterable[T],
    *,
    load: Callable[[T], Loaded],
    compute: Callable[[Loaded], Computed],
    finish: Callable[[Computed], Result],
    computing: int = 0,
) -> Iterator[Result]:
    """Yield `finish(compute(load(item)))` of each item, in order, while others are loaded, computed and finished.

    The first item is processed alone, in the caller's thread, so that what is built at the first call is built once.
    The number of items under way is bounded.

    Args:
        items: what is worked on.
        load: called in separate threads.
        compute: called in `computing` threads.
        finish: called in separate threads.
        computing: 0: the caller's thread computes, which an interrupt stops at once.

    Raises:
        Exception: the first error in the order of the items, as it is. Nothing is begun after it.
    """
    remaining = iter(items)
    for item in islice(remaining, 1):
        yield finish(compute(load(item)))
    with ExitStack() as stack:
        loading, finishing = (stack.enter_context(_Pool(threads)) for threads in (_LOADING, _FINISHING))
        workers = stack.enter_context(_Pool(computing)) if computing else None
        loads: deque[Future[Loaded]] = deque()
        results: deque[Future[Result]] = deque()
        while True:
            upcoming = list(islice(remaining, _AHEAD + computing - len(loads)))
            loads.extend(loading.submit(load, item) for item in upcoming)
            if not loads:
                break
            loaded = loads.popleft()
            if workers is None:
                results.append(finishing.submit(finish, compute(loaded.result())))
            else:
                results.append(finishing.submit(_after, workers.submit(_after, loaded, compute), finish))
            while len(results) > _AHEAD + computing:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()


def _after(earlier: "Future[T]", function: Callable[[T], Result]) -> Result:
    return function(earlier.result())


class _Pool(ThreadPoolExecutor):
    """Threads that are given up at the end of a `with` block: what has begun ends, what is waiting is dropped."""

    def __exit__(self, *exception: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)
