"""Loading, computing and finishing of many items side by side: loading runs ahead, finishing follows behind."""

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

    `load` and `finish` run in threads of their own, `compute` in `computing` threads, or with 0 in the caller's, which
    an interrupt stops at once. The first item is processed alone, in the caller's thread, so that what the first call
    builds is built once. The number of items under way is bounded. The first error in the order of the items is raised
    unchanged, and nothing is started after it.
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
    """Threads that, at the end of a `with` block, complete what has begun and drop what is waiting."""

    def __exit__(self, *exception: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)
