"""The work of `ntt data get`."""

from pathlib import Path

import click

from ntt.base.progress import download_bars
from ntt.cli.data_check import describe_layout, files_by_shots, how_to_get
from ntt.config.compose import compose_config
from ntt.datasets.published.details import DatasetDetails, archives, known_datasets
from ntt.datasets.published.fetch import Source, fetch_dataset
from ntt.errors import ConfigError
from ntt.models.weights import is_offline


def get_data(name: str, data_root: Path | None, *, mirror: str | None, offline: bool, keep_archives: bool) -> int:
    """Download a published data set; return 1 if it has to be fetched by hand and is missing."""
    datasets = known_datasets()
    if name not in datasets:
        raise ConfigError(
            f"There is no published data set named {name!r}. Available: {', '.join(datasets)}; of these, coco, lvis "
            "and voc can be downloaded."
        )
    details = datasets[name]
    data_root = (data_root or Path(compose_config([]).runtime.data_root).expanduser()).absolute()
    if details.get is None:
        return _describe(details, data_root)
    click.echo(f"{details.title} ({details.terms}) into {data_root}")
    megabytes = sum(archive.megabytes for archive in archives(details.get))
    click.echo(
        f"{megabytes} MB of archives at most, and about as much again once unpacked; existing files are not "
        "fetched again."
    )
    with download_bars() as progress:
        source = Source(
            mirror=mirror or None, offline=offline or is_offline(), keep_archives=keep_archives, progress=progress
        )
        sentences = fetch_dataset(details.get, data_root, source)
    click.echo("\n".join([*sentences, f"Check it with `ntt data check {details.name}`."]))
    return 0


def _describe(details: DatasetDetails, data_root: Path) -> int:
    """Say where to get a data set that may not be redistributed or has no fixed address."""
    locations = files_by_shots(details, None, data_root=data_root)
    first = next(iter(locations.values()))
    if all(path.exists() for path in (first.targets_file, first.target_images, first.reference_images)):
        click.echo(f"{details.title} is present: {first.targets_file}. Check it with `ntt data check {details.name}`.")
        return 0
    click.echo(how_to_get(details))
    click.echo(describe_layout(locations))
    return 1
