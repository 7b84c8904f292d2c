"""The work of `ntt data get`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from ntt.base.progress import download_bars
from ntt.cli.data_check import describe_layout, files_by_shots, how_to_get
from ntt.config.compose import compose_config
from ntt.datasets.base import DatasetFiles
from ntt.datasets.published.details import DatasetDetails, archives, known_datasets
from ntt.datasets.published.fetch import Source, fetch_dataset, fetch_kshot_lists
from ntt.errors import ConfigError
from ntt.models.weights import is_offline

LISTS = "cdfsod-lists"


def get_data(name: str, data_root: Path | None, root: Path | None, *, mirror: str | None, offline: bool) -> int:
    """Download a published data set, or cdfsod-lists; return 1 if it must be fetched by hand and is missing.

    `data_root` is the folder of all published data sets, by default next to `root` or as configured; `root` is the
    folder of this one, by default below `data_root`.
    """
    datasets = known_datasets()
    if name not in datasets and name != LISTS:
        raise ConfigError(
            f"There is no published data set named {name!r}. Available: {', '.join(datasets)}; of these, coco, lvis "
            f"and voc can be downloaded, and {LISTS}, the references of cdfsod_*."
        )
    if name == LISTS and root is not None:
        raise ConfigError(f"--root {root}: {LISTS} serves six data sets. Name the folder they are in with --data-root.")
    configured = root.parent if root is not None else Path(compose_config([]).runtime.data_root).expanduser()
    data_root = (data_root or configured).absolute()
    source = Source(mirror=mirror or None, offline=offline or is_offline())
    if name == LISTS:
        with download_bars() as progress:
            listed = [details for details in datasets.values() if details.lists]
            sentences = fetch_kshot_lists(listed, data_root, replace(source, progress=progress))
        click.echo("\n".join(sentences))
        return 0
    details = datasets[name]
    if details.get is None:
        return _describe(details, files_by_shots(details, root, data_root=data_root))
    return _get(details, data_root, root, source)


def _get(details: DatasetDetails, data_root: Path, root: Path | None, source: Source) -> int:
    assert details.get is not None, details.name

    def folder_of(name: str) -> Path:
        return root.absolute() if root is not None and name == details.get else data_root / name

    click.echo(f"{details.title} ({details.terms}) into {folder_of(details.get)}")
    megabytes = sum(archive.megabytes for archive in archives(details.get))
    click.echo(
        f"{megabytes} MB of archives at most, and about as much again once unpacked; existing files are not "
        "fetched again."
    )
    with download_bars() as progress:
        sentences = fetch_dataset(details.get, folder_of, replace(source, progress=progress))
    click.echo("\n".join([*sentences, f"Check it with `ntt data check {details.name}`."]))
    return 0


def _describe(details: DatasetDetails, locations: Mapping[int | None, DatasetFiles]) -> int:
    """Print where to get a data set that may not be redistributed or has no fixed address."""
    first = next(iter(locations.values()))
    if all(path.exists() for path in (first.targets_file, first.target_images, first.reference_images)):
        click.echo(f"{details.title} is present: {first.targets_file}. Check it with `ntt data check {details.name}`.")
        return 0
    click.echo(how_to_get(details))
    click.echo(f"`ntt data get {LISTS}` fetches the references and writes K_shot.json.")
    click.echo(describe_layout(locations))
    return 1
