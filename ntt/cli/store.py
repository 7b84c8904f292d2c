"""`ntt store`: inspect, check and clean up the store of candidates and reference features."""

import re
import time
from functools import partial
from pathlib import Path

import click

from ntt.base.project import OUTPUT_ROOT, STORE_ROOT
from ntt.cli.options import PATH
from ntt.errors import ConfigError, DataError, counted

_SHOWN = 10
_DAY_S = 24 * 3600.0
_KEEP_HOURS = 24.0
_KEEP_HOURS_UNUSED = 14 * 24.0

_store_option = click.option(
    "--store", "root", type=PATH, default=STORE_ROOT, metavar="FOLDER", help="Folder of the store."
)


@click.group()
def store() -> None:
    """Inspect, check and clean up the store."""


@store.command()
@_store_option
def info(root: Path) -> None:
    """Print the content of the store, its size and its age."""
    from ntt.base.files import stale_temporaries
    from ntt.run.table import align
    from ntt.store.maintenance import stored_files

    entries = stored_files(root)
    rows = [("kind", "entries", "size", "mean", "last used")]
    for kind in [*sorted({entry.kind for entry in entries}), "all"]:
        group = [entry for entry in entries if kind in (entry.kind, "all")]
        size = sum(entry.num_bytes for entry in group)
        ages = f"{_age(group[0].used_at)} to {_age(group[-1].used_at)} ago" if group else ""
        rows.append((kind, str(len(group)), _size(size), _size(size / max(1, len(group))), ages))
    click.echo("\n".join([str(root), *align(rows)]))
    abandoned = stale_temporaries(root)
    if abandoned:
        click.echo(f"{len(abandoned)} temporary files of ended processes; `ntt store prune` removes them.")


@store.command()
@_store_option
@click.option("--remove", "removes", is_flag=True, help="Remove damaged entries; they are computed again.")
def verify(root: Path, removes: bool) -> int:
    """Read every entry and compare it with its checksum."""
    from ntt.base.progress import track
    from ntt.store.maintenance import damage, remove, stored_files

    entries = stored_files(root)
    damaged: list[Path] = []
    for entry in track(entries, "verify", unit="entry", visible=True):
        problem = damage(entry)
        if problem is not None and entry.path.exists():
            damaged.append(entry.path)
            click.echo(f"{entry.path}: {problem}")
    click.echo(f"{counted(len(entries), 'entry', 'entries')} read, {len(damaged)} damaged.")
    if damaged and removes:
        click.echo(f"{remove(damaged)} removed; they are computed again when a run needs them.")
        return 0
    if damaged:
        click.echo("A run reports them and computes them again. --remove takes them out now.")
    return 1 if damaged else 0


@store.command()
@_store_option
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Entries not used for so many days.")
@click.option("--max-size", metavar="SIZE", help="The least recently used, until the rest is below 500M, 20G, ...")
@click.option("--unused", is_flag=True, help="Entries that no run below --runs has used.")
@click.option(
    "--runs",
    type=PATH,
    multiple=True,
    default=(OUTPUT_ROOT,),
    metavar="FOLDER",
    help="Folder of run directories, for --unused; may be repeated.",
)
@click.option(
    "--keep-hours",
    type=click.FloatRange(min=0),
    metavar="HOURS",
    help=f"Never remove entries used within so many hours. Default: {_KEEP_HOURS:g}; with --unused, which does not "
    f"know what current or future runs need, {_KEEP_HOURS_UNUSED:g}, two weeks.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
def prune(
    root: Path,
    older_than: float | None,
    max_size: str | None,
    unused: bool,
    runs: tuple[Path, ...],
    keep_hours: float | None,
    dry_run: bool,
) -> None:
    """Remove entries, and temporary files of ended processes."""
    from ntt.base.files import stale_temporaries
    from ntt.store.maintenance import choose, remove, stored_files

    entries, abandoned = stored_files(root), stale_temporaries(root)
    if keep_hours is None:
        keep_hours = _KEEP_HOURS_UNUSED if unused else _KEEP_HOURS
    max_bytes = None if max_size is None else parse_size(max_size)
    known_keys = _used_keys(runs) if unused else None
    select = partial(choose, entries, unused_days=older_than, known_keys=known_keys)
    selected = select(max_bytes=max_bytes, keep_hours=keep_hours)
    verb = "would be removed" if dry_run else "removed"
    if not dry_run:
        remove(abandoned)
        remove(entry.path for entry in selected)
    for entry in selected[:_SHOWN]:
        click.echo(f"{entry.kind:<14}{_size(entry.num_bytes):>10}  used {_age(entry.used_at)} ago  {entry.path}")
    if len(selected) > _SHOWN:
        click.echo(f"... and {len(selected) - _SHOWN} more")
    size = sum(entry.num_bytes for entry in selected)
    rest = sum(entry.num_bytes for entry in entries) - size
    click.echo(f"{len(selected)} of {len(entries)} entries ({_size(size)}) {verb}; {_size(rest)} stay.")
    if abandoned:
        click.echo(f"{len(abandoned)} temporary files of ended processes {verb}.")
    if unused:
        spared = len(select(keep_hours=0.0)) - len(selected)
        if spared > 0:
            click.echo(f"{spared} unused ones are kept for now: --keep-hours {keep_hours:g}.")
    if max_bytes is not None and rest > max_bytes:
        click.echo(f"The rest was used within the last {keep_hours:g} hours; --keep-hours 0 removes that, too.")


def _used_keys(runs: tuple[Path, ...]) -> set[tuple[str, str]]:
    """Return the keys of the entries that runs have used."""
    from ntt.store.maintenance import keys_of_runs

    keys, count = keys_of_runs(runs)
    if count == 0:
        raise DataError(
            f"No run directory below {', '.join(map(str, runs))} says what it has used, so every entry would count as "
            "unused. Name the folders of your runs with --runs, or remove entries with --older-than or --max-size."
        )
    click.echo(f"{count} run directories and shards of sweeps have used {len(keys)} entries.")
    return keys


def parse_size(text: str) -> int:
    """Return the bytes that 500M, 1.5G or 2000000 stand for, in powers of 1000; a ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d*)?)([KMGT]?)", text.upper())
    if match is None:
        raise ConfigError(f"--max-size {text} is not a size. Write a number and K, M, G or T, for example 20G.")
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    return round(float(match[1]) * units[match[2]])


def _size(num_bytes: float) -> str:
    from tqdm import tqdm

    return str(tqdm.format_sizeof(num_bytes, "B"))


def _age(when: float) -> str:
    days = max(0.0, time.time() - when) / _DAY_S
    return "less than a day" if days < 1 else f"{days:.0f} days"
