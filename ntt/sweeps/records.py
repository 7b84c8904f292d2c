"""Records of all runs in folders, and of sweeps, including the points that have not run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from ntt.config.compose import compose_many
from ntt.config.identity import run_settings
from ntt.errors import ConfigError, DataError, raise_all
from ntt.reports.records import PLAN, RunRow, describe_run, find_run_directories, read_run
from ntt.reports.summary import runs_frame
from ntt.sweeps.plan import Plan, read_plan
from ntt.sweeps.points import Point
from ntt.sweeps.state import SweepFolder


def read_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """Read every run of some folders, each once: one row per run, from `ntt.reports.summary.runs_frame`.

    Folders may be run directories, contain some at any depth, or be those of sweeps, all of whose points are returned,
    whether they have run or not. A DataError if a folder does not exist or holds no run.
    """
    records_by_path: dict[Path, RunRow] = {}
    problems = []
    for folder in folders:
        records = list(_records(folder))
        if not folder.is_dir():
            problems.append(f"{folder} is not a folder. Give a run directory, a folder of runs, or a sweep's folder.")
        elif not records:
            problems.append(
                f"{folder} holds no run directory (a folder with config.yaml and metrics.json). Give the output folder "
                "of `python main.py`, outputs by default, or the folder of a sweep, outputs/sweeps/NAME."
            )
        for record in records:
            records_by_path.setdefault(Path(record["path"]).resolve(), record)
    raise_all(problems, DataError, summary="Some folders cannot be reported on")
    return runs_frame(list(records_by_path.values()))


def load_runs(*folders: "str | Path") -> pd.DataFrame:
    """Return runs as a pandas DataFrame, one row per run: metrics such as "bbox/AP", seconds, and all settings.

    Folders may be output folders, run directories, or those of sweeps.

    Returns:
        The columns of `ntt.reports.summary.runs_frame`, and every setting that decides a result by its dotted key, such
        as "matcher.merging". Rows where `counted` is false have no metrics or were repeated later.

    Raises:
        DataError: if a folder does not exist or holds no run.
    """
    runs = read_runs([Path(folder) for folder in folders])
    settings = pd.DataFrame([own if isinstance(own, Mapping) else {} for own in runs.settings]).drop(
        columns="seed", errors="ignore"
    )
    return runs.drop(columns=["parts", "chosen", "settings", "config"]).join(settings)


def _records(folder: Path) -> Iterable[RunRow]:
    if not (folder / PLAN).is_file():
        return (read_run(path) for path in find_run_directories(folder))
    sweep = SweepFolder(folder.absolute())
    plan = read_plan(sweep)
    seconds = {unit.id: _seconds_of_shards(sweep, unit.id) for unit in plan.units if unit.kind == "candidates"}
    return (_point(sweep, plan, point, seconds) for point in plan.points)


def _point(sweep: SweepFolder, plan: Plan, point: Point, seconds: Mapping[str, dict[str, float]]) -> RunRow:
    """Return what is known of a point; `seconds` is what `_seconds_of_shards` returns for each unit of candidates."""
    state = sweep.observed(point.id)
    metrics = point.run_dir / "metrics.json"
    begun = (point.run_dir / "config.yaml").is_file() or metrics.is_file()
    run = read_run(point.run_dir) if begun else _not_begun(point)
    if run["state"] == "finished":
        for unit in point.units:
            run["seconds"] = seconds.get(unit, {}) | run.get("seconds", {})
        outdated_s = max(0.0 if point.finished else plan.created_s, state.heartbeat_s or 0.0)
        if state.status != "done" and metrics.stat().st_mtime < outdated_s:
            run |= {"state": "unfinished", "problem": "its result is of earlier data", "values": {}, "seconds": {}}
    if run["state"] in ("unfinished", "missing") and state.status == "failed":
        return run | {"state": "failed", "problem": (state.error or "unknown error").splitlines()[0]}
    if run["state"] in ("unfinished", "missing") and state.status != "waiting":
        return run | {"problem": f"{run['problem']}; the sweep reports: {state.status}"}
    return run


def _seconds_of_shards(sweep: SweepFolder, unit: str) -> dict[str, float]:
    """Return the seconds per image of the candidates that the sweep has computed; {} if it found all."""
    states = [state for state in map(sweep.state, sweep.shards(unit)) if state.computed]
    return {"candidates": sum(s.seconds or 0.0 for s in states) / sum(s.computed for s in states)} if states else {}


def _not_begun(point: Point) -> RunRow:
    missing = {"state": "missing", "problem": "it has not begun"}
    try:
        (config,) = compose_many([point.overrides])
    except ConfigError as error:
        problem = f"it has not begun, and cannot: {point.label}: {str(error).splitlines()[0]}"
        return {"path": str(point.run_dir), **missing, "problem": problem}
    return describe_run(point.run_dir, asdict(config), config.dataset.label(), run_settings(config), **missing)
