"""Opening, planning and storing sweeps, whether the user names a file, a sweep or its folder."""

from collections.abc import Sequence
from pathlib import Path

from ntt.errors import ConfigError
from ntt.sweeps.plan import Plan, make_plan, read_plan, replan, sweep_folder, write_plan
from ntt.sweeps.points import expand
from ntt.sweeps.queue import observe
from ntt.sweeps.spec import read_spec
from ntt.sweeps.state import SweepFolder


def is_sweep_file(name: str) -> bool:
    """Return whether an argument is meant as a sweep file."""
    return name.endswith((".yaml", ".yml"))


def plan_file(path: Path, overrides: Sequence[str] = (), *, name: str | None = None) -> tuple[SweepFolder, Plan]:
    """Read a sweep file and plan it, with overrides of the command line and perhaps another name; write nothing.

    Raises:
        NttError: for anything that would keep a point from running.
    """
    spec = read_spec(path, name=name)
    points = expand(spec, overrides)
    return sweep_folder(points, spec.name), make_plan(spec, points)


def open_sweep(name: str, output_root: Path) -> SweepFolder:
    """Return the folder of a sweep planned earlier, given its name, its folder or its file.

    Raises:
        ConfigError: if there is none in `sweeps` below `output_root`.
    """
    if (Path(name) / "plan.json").is_file():
        return SweepFolder(Path(name).absolute())
    sweep = read_spec(Path(name)).name if is_sweep_file(name) else name
    folder = SweepFolder(output_root.expanduser().absolute() / "sweeps" / sweep)
    if not folder.plan.is_file():
        others = ", ".join(other.root.name for other in all_sweeps(output_root)) or "none so far"
        raise ConfigError(
            f"There is no sweep {sweep!r} below {output_root}. Sweeps there: {others}. Plan one with ntt sweep plan "
            "FILE, or name its output root with --output-root."
        )
    return folder


def all_sweeps(output_root: Path) -> list[SweepFolder]:
    """Return the folders of all sweeps of an output root, by name."""
    root = output_root.expanduser().absolute() / "sweeps"
    return [SweepFolder(path.parent) for path in sorted(root.glob("*/plan.json"))]


def refresh(folder: SweepFolder) -> Plan:
    """Read a sweep's plan, update what is done of it, and write it back."""
    plan = replan(read_plan(folder))
    _write(folder, plan)
    return plan


def keep_plan(folder: SweepFolder, plan: Plan) -> str | None:
    """Write a plan into its sweep's folder, replacing an earlier plan of the same sweep.

    Returns:
        A sentence about how the plan has changed; None if it has not, or is the first.

    Raises:
        ConfigError: if the folder belongs to another sweep (one that shares no point with this one), or if the new plan
            drops points that are being worked on.
    """
    before = {point.id for point in read_plan(folder).points} if folder.plan.is_file() else set()
    now = {point.id for point in plan.points}
    if before and not before & now:
        raise ConfigError(
            f"{folder.root} holds another sweep named {plan.name!r}: none of its points is one of these. Give this one "
            "its own name with --name, or delete that folder; results are stored elsewhere and stay."
        )
    dropped = observe(folder, sorted(before - now)).values()
    busy = sum(state.status == "running" or (state.status == "waiting" and state.job is not None) for state in dropped)
    if busy:
        raise ConfigError(
            f"{plan.name}: the new plan drops points that run or are queued ({busy}). Wait, or end them with ntt "
            f"sweep cancel {plan.name}, or give the new plan its own name with --name."
        )
    _write(folder, plan)
    if not before or before == now:
        return None
    return f"The plan has changed: {len(now - before)} of its points are new, {len(before - now)} were removed."


def _write(folder: SweepFolder, plan: Plan) -> None:
    """Write a plan; points whose results no longer hold, because their data have changed, wait again."""
    write_plan(folder, plan)
    for point in plan.points:
        if not point.finished and folder.state(point.id).status == "done":
            folder.reset(point.id)
