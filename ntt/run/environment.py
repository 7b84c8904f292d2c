"""What a run executes on: device, threads, determinism; and the details of it that go with the results."""

import ctypes
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ntt.base.project import PROJECT_DIR
from ntt.config.schema import RuntimeConfig
from ntt.models.device import check_compiler, check_precision, resolve_device
from ntt.types import Placement

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_PACKAGES = (
    *("ntt-seg", "torch", "torchvision", "timm", "sam2", "numba", "numpy", "scipy", "scikit-image", "higra", "pillow"),
    *("pycocotools", "hydra-core", "omegaconf"),
)


def apply_runtime(runtime: RuntimeConfig, *, local_rank: int) -> Placement:
    """Set threads and determinism for this process, and decide where models run.

    Each process of a node gets the GPU of its number, `local_rank`, unless the settings name one. A ConfigError for a
    device, a precision or a compiler that is not available here.
    """
    device = resolve_device(runtime.device)
    check_precision(runtime.precision, device)
    torch.set_num_threads(runtime.threads)
    _keep_freed_memory()
    if runtime.deterministic:
        # cuBLAS reads this when it starts; without it, matrix products may differ from call to call.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if runtime.compile:
        check_compiler(device)
        torch.use_deterministic_algorithms(runtime.deterministic, warn_only=True)
    else:  # the same, without loading the compiler, which takes seconds
        torch.set_deterministic_debug_mode("warn" if runtime.deterministic else "default")
    # Nothing here reads memory before it is written, so new tensors need not be filled with NaN.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not runtime.deterministic
    if device.type == "cuda":
        index = local_rank % torch.cuda.device_count() if device.index is None else device.index
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return Placement(str(device), runtime.precision, runtime.compile, Path(runtime.weights_root).expanduser())


def _keep_freed_memory() -> None:
    """Let the C library use freed memory again, not return large blocks to the system, which clears them page by page.

    That took a fifth of the processor time. Only glibc has these settings.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Older versions refuse more than 32 MiB.
        if mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25):
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def environment_details(placement: Placement, *, num_processes: int) -> dict[str, Any]:
    """Return the details of machine and software that readers of the results need."""
    on_cuda = placement.device.startswith("cuda")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(),
        "git": _git_revision(),
        "device": placement.device,
        "device_name": torch.cuda.get_device_name(placement.device) if on_cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "processes": num_processes,
    }


def peak_memory_mb(placement: Placement) -> dict[str, float]:
    """Return the largest memory use since the process began, in MiB: of the process and, on CUDA, of its tensors."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if placement.device.startswith("cuda"):
        peak["cuda"] = torch.cuda.max_memory_allocated(placement.device) / 2**20
    return {name: round(value, 1) for name, value in peak.items()}


@cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


@cache
def _git_revision() -> str | None:
    """Return the checkout's revision, ending in "-dirty" if files of it have changed; None outside a checkout."""
    command = ["git", "-C", str(PROJECT_DIR), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        if (PROJECT_DIR / ".git").exists():
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return None
