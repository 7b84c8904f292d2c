"""Faster functions for `runtime.compile`: recorded and replayed on CUDA, `torch.compile` elsewhere."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ntt.models.device import AUTOCAST_TYPES, autocast, has_tensor_float

Result = TypeVar("Result")
COMPILED_VERSION = 3
"""Part of what decides a network's output with `runtime.compile`; to be raised when the arithmetic changes."""


def in_precision(function: Callable[..., Result], precision: str, device: torch.device) -> Callable[..., Result]:
    """Return a function that computes in a precision (`autocast`)."""
    return autocast(precision, device)(function)


def compiled(function: Callable[..., Result], precision: str, device: torch.device) -> Callable[..., Result]:
    """Return a faster version of `in_precision`'s function, of tensors.

    On CUDA the kernels of a call are recorded once per shape of the inputs and replayed as one graph, so that the CPU
    need not launch them one by one. The function does not synchronise, and launches the same kernels at every call.
    """
    if device.type != "cuda":
        return in_precision(torch.compile(function), precision, device)
    if has_tensor_float(device):
        function = _FastProducts(precision, device).around(function)
    return _Recorded(in_precision(function, precision, device))


def round_weights(network: nn.Module, precision: str, device: torch.device) -> None:
    """Round the weights that `autocast` would round at every call, for the same results in less time and memory."""
    if device.type == "cuda" and precision in AUTOCAST_TYPES:
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(AUTOCAST_TYPES[precision])


class _FastProducts(TorchFunctionMode):
    """Attention and linear layers in the fastest arithmetic of about a precision's accuracy.

    With TensorFloat-32, attention is computed in float16, which has a mantissa of the same length. In float32, a linear
    layer is three products in TensorFloat-32: of the leading bits of both factors, and of each's with the remaining
    bits of the other.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        super().__init__()
        self._precision, self._device = precision, device

    def around(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """Return the function computing in this arithmetic."""

        def call(*tensors: torch.Tensor) -> Result:
            with self:
                return function(*tensors)

        return call

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._precision == "tf32" and function is F.scaled_dot_product_attention:
            halves = (tensor.half() for tensor in args[:3])
            return function(*halves, *args[3:], **kwargs).to(args[0].dtype)
        if self._precision == "float32" and function is F.linear and args[0].dtype == torch.float32:
            return self._linear(*args, **kwargs)
        return function(*args, **kwargs)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        from ntt.models.splitting import split

        (high, low), (weight_high, weight_low) = split(x.flatten(0, -2)), split(weight)
        with autocast("tf32", self._device):
            result = low @ weight_high.T if bias is None else torch.addmm(bias, low, weight_high.T)
            result.addmm_(high, weight_low.T).addmm_(high, weight_high.T)
        return result.view(*x.shape[:-1], -1)


class _Recorded:
    """A function and its recordings by shape and type of the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._recordings: dict[Any, tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...], Any]] = {}
        self._lock, self._done = threading.Lock(), torch.cuda.Event()

    def __call__(self, *values: torch.Tensor) -> Any:
        key, stream = tuple((tensor.shape, tensor.dtype) for tensor in values), torch.cuda.current_stream()
        # Replays share memory: the last one, perhaps on another stream, must have had its results copied.
        with self._lock:
            stream.wait_event(self._done)
            if key not in self._recordings:
                self._recordings[key] = self._record(tuple(tensor.clone() for tensor in values))
            graph, inputs, outputs = self._recordings[key]
            for tensor, value in zip(inputs, values, strict=True):
                tensor.copy_(value)
            graph.replay()
            copies = tree_map(lambda output: output.clone() if isinstance(output, torch.Tensor) else output, outputs)
            self._done.record(stream)
        return copies

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...], Any]:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # CUDA graphs need a few warm-up calls
            for _ in range(3):
                self._function(*inputs)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(*inputs)
        return graph, inputs, outputs
