"""`ntt store`: look into the store of candidates and reference features, check it, and clear it up."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.base.progress import track
from ntt.cli.output import echo
from ntt.config.schema import RuntimeConfig
from ntt.errors import ConfigError, DataError
from ntt.store.maintenance import (
    Selection,
    StoredFile,
    abandoned_files,
    choose,
    damage,
    keys_of_runs,
    remove,
    stored_files,
    summarise,
)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_SHOWN = 10
_DAY_S = 24 * 3600.0
_KEEP_HOURS = 24.0
_KEEP_HOURS_UNUSED = 14 * 24.0


def add_store_commands(subparsers: "Subparsers") -> None:
    """Add `store info|verify|prune` to the commands of a parser."""
    store = subparsers.add_parser("store", help="inspect, check and clear up the store", description=__doc__)
    actions = store.add_subparsers(required=True, metavar="ACTION")
    info = actions.add_parser("info", help="what the store holds, and how large and how old it is")
    info.set_defaults(handler=_info)
    verify = actions.add_parser("verify", help="read every entry and compare it with its checksum")
    verify.add_argument("--remove", action="store_true", help="remove damaged entries; they are computed again")
    verify.set_defaults(handler=_verify)
    prune = actions.add_parser("prune", help="remove entries, and temporary files of processes that are gone")
    _add_prune_options(prune)
    prune.set_defaults(handler=_prune)
    for action in (info, verify, prune):
        action.add_argument(
            "--store", type=Path, default=Path(RuntimeConfig.store_root), metavar="FOLDER", help="default: %(default)s"
        )


def _add_prune_options(prune: argparse.ArgumentParser) -> None:
    prune.add_argument("--older-than", type=float, metavar="DAYS", help="entries not used for so many days")
    prune.add_argument("--max-size", metavar="SIZE", help="the least recently used, until the rest is below 500M, 20G")
    prune.add_argument("--unused", action="store_true", help="entries that no run below --runs has used")
    prune.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[Path(RuntimeConfig.output_root)],
        metavar="FOLDER",
        help="folders of run directories, for --unused (default: outputs)",
    )
    prune.add_argument(
        "--keep-hours",
        type=float,
        metavar="HOURS",
        help=f"never remove what was used within so many hours (default: {_KEEP_HOURS:g}; with --unused, which does "
        f"not know what runs to come or under way need, {_KEEP_HOURS_UNUSED:g}, two weeks)",
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")


def _info(args: argparse.Namespace) -> int:
    root, entries = _root(args), stored_files(args.store)
    echo(f"{root}")
    kinds = summarise(entries)
    echo(f"{'kind':<14}{'entries':>9}{'size':>12}{'mean':>12}   last used")
    for kind in kinds:
        mean = size_text(kind.num_bytes / kind.count)
        ages = f"{_age(kind.least_recent_use)} to {_age(kind.most_recent_use)} ago"
        echo(f"{kind.kind:<14}{kind.count:>9}{size_text(kind.num_bytes):>12}{mean:>12}   {ages}")
    total = sum(kind.num_bytes for kind in kinds)
    echo(f"{'all':<14}{len(entries):>9}{size_text(total):>12}")
    abandoned = abandoned_files(root)
    if abandoned:
        echo(f"{len(abandoned)} temporary files of processes that are gone; `ntt store prune` removes them.")
    return 0


def _verify(args: argparse.Namespace) -> int:
    _root(args)
    entries = stored_files(args.store)
    damaged: list[Path] = []
    for entry in track(entries, "verify", unit="entry", visible=True):
        problem = damage(entry)
        if problem is not None and entry.path.exists():
            damaged.append(entry.path)
            echo(f"{entry.path}: {problem}")
    echo(f"{len(entries)} entries read, {len(damaged)} damaged.")
    if damaged and args.remove:
        echo(f"{remove(damaged)} removed; they are computed again when a run needs them.")
        return 0
    if damaged:
        echo("A run reports them and computes them again. --remove takes them out now.")
    return 1 if damaged else 0


def _prune(args: argparse.Namespace) -> int:
    root = _root(args)
    entries, abandoned = stored_files(root), abandoned_files(root)
    selection = _selection(args)
    chosen = choose(entries, selection)
    verb = "would be removed" if args.dry_run else "removed"
    if not args.dry_run:
        remove(abandoned)
        remove(entry.path for entry in chosen)
    _list(chosen)
    kept = sum(entry.num_bytes for entry in entries) - sum(entry.num_bytes for entry in chosen)
    echo(f"{len(chosen)} of {len(entries)} entries ({size_text(_bytes(chosen))}) {verb}; {size_text(kept)} stay.")
    if abandoned:
        echo(f"{len(abandoned)} temporary files of processes that are gone {verb}.")
    if selection.known_keys is not None:
        spared = len(choose(entries, replace(selection, keep_hours=0.0, max_bytes=None))) - len(chosen)
        if spared > 0:
            echo(f"{spared} unused ones stay for a time: --keep-hours {selection.keep_hours:g}.")
    if selection.max_bytes is not None and kept > selection.max_bytes:
        echo(f"The rest was used within the last {selection.keep_hours:g} hours; --keep-hours 0 removes that, too.")
    return 0


def _selection(args: argparse.Namespace) -> Selection:
    for name, value in (("--older-than", args.older_than), ("--keep-hours", args.keep_hours)):
        if value is not None and value < 0:
            raise ConfigError(f"{name} {value:g} is not possible: 0 or more is allowed. Give a length of time.")
    known = None
    if args.unused:
        known, count = keys_of_runs(args.runs)
        if count == 0:
            places = ", ".join(map(str, args.runs))
            raise DataError(
                f"No run directory below {places} says what it has used, so every entry would count as unused. Name "
                "the folders of your runs with --runs, or remove entries with --older-than or --max-size."
            )
        echo(f"{count} run directories and shards of sweeps have used {len(known)} entries.")
    return Selection(
        unused_days=args.older_than,
        max_bytes=None if args.max_size is None else parse_size(args.max_size),
        known_keys=known,
        keep_hours=_keep_hours(args),
    )


def _keep_hours(args: argparse.Namespace) -> float:
    if args.keep_hours is None:
        return _KEEP_HOURS_UNUSED if args.unused else _KEEP_HOURS
    return float(args.keep_hours)


def parse_size(text: str) -> int:
    """Return the number of bytes that 500M, 1.5G or 2000000 stand for; units are powers of 1000.

    Raises:
        ConfigError: for anything else.
    """
    units = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"--max-size {text} is not a size. Write a number and K, M, G or T, for example 20G.")
    return round(value * unit)


def size_text(num_bytes: float) -> str:
    """Write a number of bytes with a unit, powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} GB"


def _root(args: argparse.Namespace) -> Path:
    root: Path = args.store
    if not root.is_dir():
        raise DataError(
            f"There is no store {root}. Name its folder with --store; it is `runtime.store_root` of the runs that "
            "filled it."
        )
    return root


def _list(entries: Sequence[StoredFile]) -> None:
    for entry in entries[:_SHOWN]:
        echo(f"{entry.kind:<14}{size_text(entry.num_bytes):>10}  used {_age(entry.used_at)} ago  {entry.path}")
    if len(entries) > _SHOWN:
        echo(f"... and {len(entries) - _SHOWN} more")


def _bytes(entries: Sequence[StoredFile]) -> int:
    return sum(entry.num_bytes for entry in entries)


def _age(when: float) -> str:
    days = max(0.0, time.time() - when) / _DAY_S
    return "less than a day" if days < 1 else f"{days:.0f} days"
