"""`ntt data check`: look for everything in a data set that would stop a run or make its result wrong."""

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.cli.output import echo
from ntt.config.compose import compose_config, compose_many
from ntt.config.explain import group_options
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.images import check_images
from ntt.datasets.base import DATA_VARIABLE, DatasetConfig, DatasetFiles
from ntt.datasets.coco_json import CocoJsonConfig
from ntt.datasets.demo import DemoConfig
from ntt.datasets.folder import FolderConfig
from ntt.datasets.published.check import check_published, describe_masks
from ntt.datasets.published.dataset import PublishedConfig
from ntt.datasets.published.details import DatasetFacts, known_datasets
from ntt.datasets.published.leakage import identical_images, leakage_sentence
from ntt.errors import ConfigError
from ntt.run.inputs import check_agreement

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_PLACES = ("references", "targets", "reference_images", "target_images")


def add_check_command(actions: "Subparsers") -> None:
    """Add `check` to the actions of `ntt data`."""
    layout = CocoJsonConfig()
    check = actions.add_parser(
        "check",
        help="look for everything in a data set that would stop a run",
        description="Checks a published data set by the name of its option, such as coco or cdfsod_dior, or a folder "
        "in COCO format. Exit status: 0 all is right, 1 something is missing or different.",
    )
    check.add_argument("place", metavar="NAME|FOLDER", help="an option of the group `dataset`, or a folder")
    check.add_argument(
        "--root",
        type=Path,
        help=f"folder of the data set NAME, which is only read (default: its own folder below ${DATA_VARIABLE}, else "
        "below data/)",
    )
    for place in _PLACES:
        help_text = f"of a FOLDER; default: {getattr(layout, place)}"
        check.add_argument(f"--{place.replace('_', '-')}", help=help_text)
    check.add_argument("--decode", action="store_true", help="decode every image completely")
    check.set_defaults(handler=_check)


def _check(args: argparse.Namespace) -> int:
    is_option = args.place in group_options("dataset")
    _refuse_surplus(args, is_option=is_option)
    if is_option and args.place in known_datasets():
        return _check_known(known_datasets()[args.place], args.root, decode=args.decode)
    dataset = _option(args.place, args.root) if is_option else _folder(args)
    # What a check has to write (lists of a plain folder) goes where a run would write it.
    cache_root = Path(compose_config([]).runtime.cache_root).expanduser().absolute()
    return _check_any(dataset.locate(cache_root), decode=args.decode)


def _refuse_surplus(args: argparse.Namespace, *, is_option: bool) -> None:
    given = [f"--{place.replace('_', '-')}" for place in _PLACES if getattr(args, place) is not None]
    if is_option and given:
        raise ConfigError(
            f"{', '.join(given)} cannot be given with the data set {args.place}, which has its own places. Leave it "
            f"out, or name a folder instead: ntt data check FOLDER {given[0]} PLACE."
        )
    if not is_option and args.root is not None:
        raise ConfigError(
            f"--root {args.root} goes with the name of a data set, and {args.place} is a folder or unknown. Leave one "
            f"of the two out. Known are {', '.join(group_options('dataset'))}."
        )


def _option(name: str, root: Path | None) -> DatasetConfig:
    """Compose an option of the group `dataset`, at the place the user names if any."""
    if root is None:
        return compose_config([f"dataset={name}"]).dataset
    if name == DemoConfig.SCHEMA:
        raise ConfigError(f"--root {root}: the demo data set is part of the program. Name a folder without {name}.")
    # A path is set afterwards: it may hold anything, and an override has a grammar.
    dataset = compose_config([f"dataset={name}", "dataset.root=."]).dataset
    vars(dataset)["root"] = str(root)
    return dataset


def _folder(args: argparse.Namespace) -> DatasetConfig:
    if not Path(args.place).is_dir():
        raise ConfigError(
            f"{args.place} is neither a folder nor a data set this program knows. Known are "
            f"{', '.join(group_options('dataset'))}."
        )
    given = {place: getattr(args, place) for place in _PLACES if getattr(args, place) is not None}
    if not given and FolderConfig.fits(Path(args.place)):
        return FolderConfig(name="folder", root=args.place)
    if not given and not (Path(args.place) / "annotations").is_dir():
        raise ConfigError(
            f"{args.place} has neither references/<class>/ and targets/ (a plain folder of images) nor annotations/ "
            "and images/ (COCO format), so it is no data set yet. Arrange it in one of these ways, or name its files "
            "with --references and --targets."
        )
    return CocoJsonConfig(name="coco_json", root=args.place, **given)


def places_by_shots(
    facts: DatasetFacts, root: Path | None, *, data_root: Path | None = None
) -> Mapping[int | None, DatasetFiles]:
    """Say where a published data set would lie, by number of shots where it has a references file for each.

    Args:
        facts: of the data set.
        root: its own folder; None: below the data root.
        data_root: folder of all published data sets; None: as the configuration says.
    """
    numbers: tuple[int | None, ...] = facts.shots or (None,)
    chosen = [[f"dataset={facts.name}", *([] if k is None else [f"shots.count={k}"])] for k in numbers]
    places: dict[int | None, DatasetFiles] = {}
    for shots, config in zip(numbers, compose_many(chosen), strict=True):
        dataset = config.dataset
        assert isinstance(dataset, PublishedConfig), facts.name
        usual = Path(dataset.root) if data_root is None else data_root / Path(dataset.root).name
        places[shots] = replace(dataset, root=str(root or usual)).places()
    return places


def describe_layout(places: Mapping[int | None, DatasetFiles]) -> list[str]:
    """Name every file and folder of a data set, each once."""
    files = [path for place in places.values() for path in (place.references_file, place.targets_file)]
    folders = [path for place in places.values() for path in (place.reference_images, place.target_images)]
    return [*dict.fromkeys(map(str, files)), *dict.fromkeys(f"{folder}/" for folder in folders)]


def how_to_get(facts: DatasetFacts) -> str:
    """Say in a sentence or two where a data set is to be had."""
    source = f"{facts.title} is published at {facts.official} ({facts.terms})."
    if facts.get is None:
        return f"{source} Download it there and put it into the folder that `ntt data check` names."
    return f"Run `ntt data get {facts.get}`, or take it from {facts.official} yourself ({facts.terms})."


def _check_known(facts: DatasetFacts, root: Path | None, *, decode: bool) -> int:
    places = places_by_shots(facts, root)
    report = check_published(facts, places, decode=decode)
    echo(f"{facts.name}: {facts.title}")
    for line in report.lines:
        echo(f"  {line}")
    if not report.problems:
        echo("All is there, nothing is different.")
        return 0
    echo(f"{len(report.problems)} problem(s):")
    for problem in report.problems:
        echo(f"  - {problem}")
    echo("The layout:")
    for line in describe_layout(places):
        echo(f"  {line}")
    echo(how_to_get(facts))
    return 1


def _check_any(files: DatasetFiles, *, decode: bool) -> int:
    """Check a folder of which nothing is known beforehand."""
    references = read_coco(files.references_file, files.reference_images)
    targets = read_coco(files.targets_file, files.target_images, annotations_required=False)
    check_images([*references.images.values(), *targets.images.values()], full=decode)
    for role, dataset in (("references", references), ("targets", targets)):
        echo(f"{role}: {dataset.annotation_file}")
        echo(f"  {len(dataset.images)} images, {len(dataset.instances)} annotations, {describe_masks(dataset)}")
    echo(_class_table(references, targets))
    check_agreement(references.categories, targets)
    usable = {one.category_id for one in references.instances if not one.iscrowd}
    lacking = [category.name for category in references.categories if category.id not in usable]
    if lacking:
        echo(
            f"No example in the references: {', '.join(lacking)}. A run with split=all refuses these classes: annotate "
            "one each, or name the others in split.classes."
        )
    shared = identical_images(list(references.images.values()), list(targets.images.values()))
    if shared:
        echo(leakage_sentence(shared, len(targets.images)))
    return 1 if lacking or (shared and targets.has_annotations) else 0


def _class_table(references: CocoDataset, targets: CocoDataset) -> str:
    counts = [Counter(one.category_id for one in data.instances if not one.iscrowd) for data in (references, targets)]
    width = max(len("class"), *(len(category.name) for category in references.categories))
    lines = [f"{'class':<{width}}  references  targets"]
    for category in references.categories:
        lines.append(f"{category.name:<{width}}  {counts[0][category.id]:>10}  {counts[1][category.id]:>7}")
    return "\n".join(lines)
