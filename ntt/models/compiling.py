"""Faster networks for `runtime.compile`: recorded and replayed on CUDA, `torch.compile` elsewhere."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_map

Result = TypeVar("Result")


def compiled(function: Callable[[torch.Tensor], Result], device: torch.device) -> Callable[[torch.Tensor], Result]:
    """Return a faster version of a function.

    On CUDA the kernels of a call are recorded once per shape of the input and replayed as one graph, so that the CPU
    need not launch them one by one; results are the same to the last bit. The function takes one tensor, does not
    synchronise, and launches the same kernels at every call.
    """
    return _Recorded(function) if device.type == "cuda" else torch.compile(function)


class _Recorded:
    """A function and its recordings by shape and type of the input."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        self._function = function
        self._recordings: dict[Any, tuple[torch.cuda.CUDAGraph, torch.Tensor, Any]] = {}
        self._lock, self._done = threading.Lock(), torch.cuda.Event()

    def __call__(self, values: torch.Tensor) -> Any:
        key, stream = (values.shape, values.dtype), torch.cuda.current_stream()
        # Replays share memory: the last one, perhaps on another stream, must have had its results copied.
        with self._lock:
            stream.wait_event(self._done)
            if key not in self._recordings:
                self._recordings[key] = self._record(values.clone())
            graph, inputs, outputs = self._recordings[key]
            inputs.copy_(values)
            graph.replay()
            copies = tree_map(lambda output: output.clone() if isinstance(output, torch.Tensor) else output, outputs)
            self._done.record(stream)
        return copies

    def _record(self, inputs: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, Any]:
        # Autocast must cast weights within the recording: its cache is emptied at the end of a block.
        autocast = torch.autocast(
            "cuda",
            dtype=torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            cache_enabled=False,
        )
        with autocast:
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):  # CUDA graphs need a few warm-up calls
                for _ in range(3):
                    self._function(inputs)
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self._function(inputs)
        return graph, inputs, outputs
