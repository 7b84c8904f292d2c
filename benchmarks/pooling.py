"""Measure mask pooling: the dense way of the reference against the adjoint form of `ntt.ops.pooling`.

Dense means: upsample the feature map to the mask grid, D x 256 x 256 floats, and multiply the masks, N x 65536, with
it in one matrix product; nothing about it is slowed down on purpose. Each way runs in its own process. Seconds are
the best of several repeats, wall clock and CPU; memory is the peak of the process beyond what the inputs take.

Run from the project's root: python -m benchmarks.pooling --help
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F

from ntt.ops.pooling import pool_masks

WAYS = ("dense", "adjoint")
MIB = 1 << 20


def main() -> None:
    """Compare the two ways and print a table, or run one of them when called by itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=1000, help="number of masks")
    parser.add_argument("--channels", type=int, default=1024, help="channels of the feature map")
    parser.add_argument("--grid", type=int, default=256, help="side of the masks, pixels")
    parser.add_argument("--cells", type=int, default=37, help="side of the feature map, cells")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--repeats", type=int, default=3, help="repeats; the best counts")
    parser.add_argument("--way", choices=WAYS, help="run only this way, and print JSON")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return
    results = {way: run_in_process(way) for way in WAYS}
    print(f"{arguments.masks} masks of {arguments.grid}x{arguments.grid}, {arguments.channels} channels, ", end="")
    print(f"{arguments.cells}x{arguments.cells} cells, {arguments.threads} threads, float32")
    for quantity, unit in (("wall", "s"), ("cpu", "s"), ("memory", "MiB")):
        dense, adjoint = (results[way][quantity] for way in WAYS)
        print(f"{quantity:>7}: dense {dense:9.3f} {unit}, adjoint {adjoint:9.3f} {unit}, ratio {dense / adjoint:6.1f}")
    difference = max(abs(a - b) for a, b in zip(results["dense"]["sample"], results["adjoint"]["sample"], strict=True))
    print(f"largest difference of 64 compared averages: {difference:.1e}")


def run_in_process(way: str) -> dict[str, Any]:
    """Run one way in a process of its own, with this call's arguments."""
    command = [sys.executable, "-m", "benchmarks.pooling", *sys.argv[1:], "--way", way]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Time one way and report its peak memory and some of its results."""
    torch.set_num_threads(arguments.threads)
    feature_map_Dhw, foreground_NHW = make_inputs(arguments)
    before = peak_bytes()
    wall, cpu = float("inf"), float("inf")
    for _ in range(arguments.repeats):
        start_wall, start_cpu = time.perf_counter(), time.process_time()
        if arguments.way == "dense":
            averages_ND = pool_dense(feature_map_Dhw, foreground_NHW)
        else:
            averages_ND = pool_masks(feature_map_Dhw, foreground_NHW)[0]
        wall, cpu = min(wall, time.perf_counter() - start_wall), min(cpu, time.process_time() - start_cpu)
    memory = (peak_bytes() - before) / MIB
    return {"wall": wall, "cpu": cpu, "memory": memory, "sample": averages_ND[:8, :8].flatten().tolist()}


def make_inputs(arguments: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a random feature map and discs of random place and size."""
    random = torch.Generator().manual_seed(0)
    feature_map_Dhw = torch.randn(arguments.channels, arguments.cells, arguments.cells, generator=random)
    places_N3 = torch.rand(arguments.masks, 3, generator=random) * arguments.grid
    pixels = torch.arange(arguments.grid)
    foreground_NHW = torch.empty(arguments.masks, arguments.grid, arguments.grid, dtype=torch.bool)
    for index, (row, column, diameter) in enumerate(places_N3.tolist()):
        squared = (pixels[:, None] - row) ** 2 + (pixels - column) ** 2
        foreground_NHW[index] = squared <= (diameter / 2 + 1) ** 2
    return feature_map_Dhw, foreground_NHW


def pool_dense(feature_map_Dhw: torch.Tensor, foreground_NHW: torch.Tensor) -> torch.Tensor:
    """Average the upsampled map over each mask, the straightforward way."""
    upsampled = F.interpolate(feature_map_Dhw[None], foreground_NHW.shape[1:], mode="bilinear", align_corners=False)
    masks_NP = foreground_NHW.flatten(1).float()
    return masks_NP @ upsampled[0].flatten(1).T / masks_NP.sum(dim=1, keepdim=True)


def peak_bytes() -> int:
    """Return the largest resident size this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
