"""`ntt data get`: download a published data set, or say where it is to be had."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.base.download import Progress
from ntt.cli.bar import Bar
from ntt.cli.data_check import describe_layout, how_to_get, places_by_shots
from ntt.cli.output import echo
from ntt.config.compose import compose_config
from ntt.datasets.base import DATA_VARIABLE
from ntt.datasets.published.details import DatasetFacts, archives, known_datasets
from ntt.datasets.published.fetch import Source, fetch_dataset
from ntt.errors import ConfigError
from ntt.models.weights import OFFLINE_VARIABLE, is_offline

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

MIRROR_VARIABLE = "NTT_DATA_MIRROR"


def add_get_command(actions: "Subparsers") -> None:
    """Add `get` to the actions of `ntt data`."""
    get = actions.add_parser(
        "get",
        help="download a published data set, continuing what was interrupted",
        description="Downloads, verifies and unpacks COCO, LVIS or Pascal VOC. For other data sets, says where they "
        "are published and how they must lie; exit status 1 then, unless they are there.",
    )
    get.add_argument("name", metavar="NAME", help="coco, lvis, voc, or another option of the group `dataset`")
    get.add_argument(
        "--data-root", type=Path, help=f"folder of all published data sets (default: ${DATA_VARIABLE}, else data/)"
    )
    get.add_argument("--mirror", help=f"base URL to use instead of the official hosts (default: ${MIRROR_VARIABLE})")
    get.add_argument(
        "--offline", action="store_true", help=f"download nothing, use what is there (also with {OFFLINE_VARIABLE}=1)"
    )
    get.add_argument("--keep-archives", action="store_true", help="do not delete archives once they are unpacked")
    get.set_defaults(handler=_get)


def _get(args: argparse.Namespace) -> int:
    known = known_datasets()
    if args.name not in known:
        raise ConfigError(
            f"There is no published data set named {args.name!r}. Known are {', '.join(known)}; of these, "
            "coco, lvis and voc can be downloaded."
        )
    facts = known[args.name]
    data_root = args.data_root or Path(compose_config([]).runtime.data_root)
    data_root = data_root.expanduser().absolute()
    if facts.get is None:
        return _tell(facts, data_root)
    echo(f"{facts.title} ({facts.terms}) into {data_root}")
    megabytes = sum(archive.megabytes for archive in archives(facts.get))
    echo(
        f"{megabytes} MB of archives at most, and about as much again once unpacked; what is there already is not "
        "fetched again."
    )
    bars: list[Bar] = []

    def progress(what: str) -> Progress:
        for bar in bars:
            bar.close()
        bars[:] = [Bar(what)]
        return bars[0].show

    source = Source(
        mirror=args.mirror or os.environ.get(MIRROR_VARIABLE) or None,
        offline=args.offline or is_offline(),
        keep_archives=args.keep_archives,
        progress=progress,
    )
    try:
        told = fetch_dataset(facts.get, data_root, source)
    finally:
        for bar in bars:
            bar.close()
    for sentence in told:
        echo(sentence)
    echo(f"Look it over with `ntt data check {facts.name}`.")
    return 0


def _tell(facts: DatasetFacts, data_root: Path) -> int:
    """Say where a data set is to be had that nobody may pass on, or that has no fixed address."""
    places = places_by_shots(facts, None, data_root=data_root)
    first = next(iter(places.values()))
    if all(path.exists() for path in (first.targets_file, first.target_images, first.reference_images)):
        echo(f"{facts.title} is there: {first.targets_file}. Look it over with `ntt data check {facts.name}`.")
        return 0
    echo(how_to_get(facts))
    echo("The layout:")
    for line in describe_layout(places):
        echo(f"  {line}")
    return 1
