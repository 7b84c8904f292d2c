"""Small sweeps for the cluster: data, files, waiting."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from slurm.cluster import Cluster
from tiny_data import SMALL, make_split

from ntt.sweeps.plan import Plan, write_plan
from ntt.sweeps.service import plan_file, refresh
from ntt.sweeps.state import SweepFolder

# Some tenths of a second for an image, so that a job can be stopped between two of them.
UNHURRIED = ("segmenter.canvas_side=256", "segmenter.mask_side=160", "segmenter.leaves=200")


def make_data(folder: Path, *, num_targets: int) -> Path:
    """A tiny data set with as many target images as asked for, no two of them alike."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    references = [[(3, 20, 20, 40)], [(7, 70, 30, 40)], [(3, 60, 40, 36), (7, 12, 15, 34)]]
    targets = [[(3, 10 + place % 30, 10, 40), (7, 70, 20 + place % 30, 36)] for place in range(num_targets)]
    make_split(folder, "references", references, first_id=1)
    make_split(folder, "targets", targets, first_id=101)
    return folder


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

    def replanned(self) -> Plan:
        """Look again what is there, as the command line does."""
        return refresh(self.folder)

    def stored(self) -> dict[str, tuple[int, int]]:
        """Stored candidates: name -> (inode, time of writing). Whoever computes one again changes both."""
        found = {}
        for path in (self.store / "candidates").rglob("*.safetensors"):
            stat = path.stat()
            found[path.stem] = (stat.st_ino, stat.st_mtime_ns)
        return found

    def results(self) -> dict[str, tuple[bytes, bytes]]:
        """Detections and metrics of every point, to the byte."""
        return {
            point.id: ((point.run_dir / "predictions.json").read_bytes(), (point.run_dir / "metrics.json").read_bytes())
            for point in self.plan.points
        }


def write_sweep(place: Path, root: Path, models: Sequence[str] = SMALL, **content: object) -> Path:
    """Write a sweep file that works on `root` and keeps everything below `place`."""
    place.mkdir(parents=True, exist_ok=True)
    base = ["dataset=coco_json", f"dataset.root={root}", f"runtime.output_root={place / 'out'}"]
    base += [f"runtime.store_root={place / 'store'}", "runtime.dist_timeout_s=120", *models]
    path = place / "sweep.yaml"
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
