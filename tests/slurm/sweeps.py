"""Small sweeps for the cluster: files, waiting."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from slurm.cluster import Cluster
from tiny_data import SMALL

from ntt.sweeps.plan import Plan, plan_file, write_plan
from ntt.sweeps.state import SweepFolder


@dataclass(frozen=True)
class Sweep:
    """A planned sweep."""

    folder: SweepFolder
    plan: Plan
    store: Path

    @property
    def shards(self) -> list[str]:
        """Tasks of the shared candidates that have a state."""
        return sorted(path.stem for path in (self.folder.root / "state").glob("candidates-*.json"))

    @property
    def points(self) -> list[str]:
        """Ids of the points."""
        return [point.id for point in self.plan.points]

    def stored(self) -> dict[str, tuple[int, int]]:
        """Stored candidates: name -> (inode, time of writing). Whoever computes one again changes both."""
        entries = {}
        for path in (self.store / "candidates").rglob("*.safetensors"):
            stat = path.stat()
            entries[path.stem] = (stat.st_ino, stat.st_mtime_ns)
        return entries

    def results(self) -> dict[str, tuple[bytes, bytes]]:
        """Detections and metrics of every point, to the byte."""
        return {
            point.id: ((point.run_dir / "predictions.json").read_bytes(), (point.run_dir / "metrics.json").read_bytes())
            for point in self.plan.points
        }


def write_sweep(folder: Path, root: Path, **content: object) -> Path:
    """Write a sweep file that works on `root` and keeps everything below `folder`."""
    base = ["dataset=coco_json", f"dataset.root={root}", f"runtime.output_root={folder / 'out'}"]
    base += [f"runtime.store_root={folder / 'store'}", "runtime.dist_timeout_s=120", *SMALL]
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"name": "test", "cluster": "local_test", "base": base, **content}))
    return path


def planned(path: Path) -> Sweep:
    """Plan a sweep file and write the plan."""
    folder, plan = plan_file(path)
    write_plan(folder, plan)
    return Sweep(folder, plan, path.parent / "store")


def wait_for(holds: Callable[[], bool], what: str, *, cluster: Cluster, timeout_s: float = 240.0) -> None:
    """Wait until something holds; say how the cluster is where it does not."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s.\n{cluster.run('squeue')}")
        time.sleep(0.05)
