"""Devices, precisions, and their valid combinations."""

import ctypes
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from ntt.errors import ConfigError

_LOG = logging.getLogger(__name__)
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
_DEVICES = "auto, cpu, cuda, cuda:N, mps"
AUTOCAST_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_AMPERE = (8, 0)
_MOST_BYTES_OF_FENV = 256
_LOCK = threading.Lock()
_STREAMS: dict[torch.device, list[Any]] = {}
# TensorFloat-32 settings of the active blocks, and those outside all blocks.
_ACTIVE: list[bool] = []
_OUTSIDE = [False, False]


def resolve_device(name: str) -> torch.device:
    """Resolve "auto" (CUDA if available, else the CPU), "cpu", "cuda", "cuda:N" or "mps"; else a ConfigError.

    "auto" and "cuda" give a device without index, so that a process launched for one of several GPUs uses that one.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    is_known = device is not None and (device.type == "cuda" or name in ("cpu", "mps"))
    if device is None or not is_known or str(device) != name:  # torch takes cuda:256 for cuda:0
        raise ConfigError(f"runtime.device={name} is not known. Use one of: {_DEVICES}.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            f"runtime.device={name}: this computer has no usable Metal device. Use runtime.device=cpu or auto."
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (the installed torch is built without CUDA)"
        raise ConfigError(f"runtime.device={name}: no CUDA device is available{built}. Use runtime.device=cpu or auto.")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(
            f"runtime.device={name}: this computer has {count} CUDA device(s), numbered 0 to {count - 1}. "
            "Use one of these numbers, or runtime.device=auto."
        )
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse, with a ConfigError, a precision that the device cannot compute in.

    "tf32" is float32 with TensorFloat-32 matrix products.
    """
    if precision == "float16" and device.type == "cpu":
        raise ConfigError(
            "runtime.precision=float16 is not available on the CPU. Use runtime.precision=float32 or bfloat16, or "
            "runtime.device=cuda."
        )
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError(
            f"runtime.precision=tf32 exists on CUDA devices only, and runtime.device={device}. "
            "Use runtime.precision=float32."
        )
    if precision in ("tf32", "bfloat16") and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < _AMPERE:
            raise ConfigError(
                f"runtime.precision={precision} needs a CUDA device of compute capability 8.0 or more; "
                f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}. "
                "Use runtime.precision=float32 or float16."
            )


def has_tensor_float(device: torch.device) -> bool:
    """Return whether the device multiplies in TensorFloat-32: CUDA from compute capability 8.0 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE


def check_compiler(device: torch.device) -> None:
    """Refuse `torch.compile`, with a ConfigError, if its compiler is missing: C++ on the CPU, `triton` on CUDA."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            raise ConfigError(
                f"runtime.compile=true needs a C++ compiler on the CPU, and {compiler} is not found. Install one, name "
                "yours in the environment variable CXX, or set runtime.compile=false."
            )
    if device.type == "cuda" and find_spec("triton") is None:
        raise ConfigError(
            "runtime.compile=true needs the package triton on CUDA, which is not installed. Install it with "
            "`pip install triton`, or set runtime.compile=false."
        )


def effective_precision(precision: str, device: torch.device) -> str:
    """Return the precision that a device computes in when asked for `precision`; a ConfigError as `check_precision`.

    A CPU without instructions for bfloat16 emulates them, an order of magnitude slower than float32; there bfloat16
    becomes float32, with a warning.
    """
    check_precision(precision, device)
    if precision != "bfloat16" or device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return precision
    _LOG.warning(
        "precision=bfloat16: this CPU has no instructions for it and would emulate them slowly; computing in float32."
    )
    return "float32"


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision inside a `with` block, and restore torch's settings after it.

    Torch rounds the inputs of convolutions to TensorFloat-32 by default; inside the block "float32" means float32
    throughout. "bfloat16" and "float16" leave weights as they are and cast in the operations that gain from it; sums,
    softmax and normalisations stay in float32. TensorFloat-32 settings are the process's: do not run two precisions in
    two threads. On a CPU, denormals are flushed (`flushed_denormals`). A ConfigError as `check_precision`.
    """
    check_precision(precision, device)
    cast = AUTOCAST_TYPES.get(precision)
    with (
        flushed_denormals() if device.type == "cpu" else nullcontext(),
        _tensor_float(allowed=precision == "tf32"),
        torch.autocast(device.type, dtype=cast or torch.bfloat16, enabled=cast is not None),
    ):
        yield


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat denormal numbers, for which a CPU takes up to a hundred times as long, as 0 inside a `with` block.

    The setting is per thread: it holds in this one and in those that torch computes with when called from it; threads
    started inside the block inherit it.
    """
    # Torch has no function that reads the setting.
    before = denormals_are_flushed()
    _flush_denormals(flush=True)
    try:
        yield
    finally:
        _flush_denormals(flush=before)


def _flush_denormals(*, flush: bool) -> None:
    """Set whether denormals are flushed in this thread and in torch's that compute for it."""
    torch.set_flush_denormal(flush)
    if torch.get_num_threads() == 1:
        return
    # Each of torch's threads (OpenMP's) takes over this thread's floating-point environment of <fenv.h>.
    with suppress(AttributeError, OSError):
        library, environment = _torch_library(), ctypes.create_string_buffer(_MOST_BYTES_OF_FENV)
        library.fegetenv(environment)
        library.GOMP_parallel(library.fesetenv, environment, torch.get_num_threads(), 0)


@cache
def _torch_library() -> ctypes.CDLL:
    """Return torch's library, in which the functions of those it is linked with are found too."""
    return ctypes.CDLL(torch._C.__file__)


def denormals_are_flushed() -> bool:
    """Return whether this thread treats denormal numbers as 0."""
    return sys.float_info.min / 2 == 0


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Let a thread other than the main one use a CUDA stream of its own, so that neither waits for the other."""
    if device.type != "cuda" or threading.current_thread() is threading.main_thread():
        yield
        return
    # Streams are reused, since each keeps its own memory.
    with _LOCK:
        free = _STREAMS.setdefault(device, [])
        stream = free.pop() if free else torch.cuda.Stream(device)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        free.append(stream)


@contextmanager
def _tensor_float(*, allowed: bool) -> Iterator[None]:
    """Set TensorFloat-32 for the process; the last of several threads to leave restores what the first one found."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    with _LOCK:
        if not _ACTIVE:
            _OUTSIDE[:] = [matmul.allow_tf32, convolution.allow_tf32]
        _ACTIVE.append(allowed)
        matmul.allow_tf32 = convolution.allow_tf32 = allowed
    try:
        yield
    finally:
        with _LOCK:
            del _ACTIVE[len(_ACTIVE) - 1 - _ACTIVE[::-1].index(allowed)]
            matmul.allow_tf32, convolution.allow_tf32 = [_ACTIVE[-1]] * 2 if _ACTIVE else _OUTSIDE
