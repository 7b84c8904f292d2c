"""The work of `ntt data check` and `ntt data get`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click

from ntt.config.compose import compose_config, compose_many
from ntt.config.explain import option_names
from ntt.data.coco import CocoDataset, Crowd, read_coco
from ntt.data.comparison import content_sentences, same_images_sentence
from ntt.data.images import check_images
from ntt.data.sampling import uneven_shot_indices
from ntt.datasets.base import DatasetConfig, DatasetFiles, RootedConfig
from ntt.datasets.demo import DemoConfig
from ntt.datasets.exports import find_annotation_file
from ntt.datasets.folders import CocoJsonConfig, FolderConfig, PublishedConfig
from ntt.datasets.published.check import check_published, describe_masks
from ntt.datasets.published.details import DatasetDetails, archives, known_datasets
from ntt.datasets.published.fetch import Source, fetch_dataset, fetch_kshot_lists
from ntt.errors import ConfigError, counted, printable
from ntt.evaluation.curves import MAX_DETECTIONS
from ntt.models.weights import is_offline
from ntt.run.inputs import check_agreement
from ntt.run.table import align

LISTS = "cdfsod-lists"


def check_data(name: str, root: Path | None, files: Mapping[str, Any], *, decode: bool) -> int:
    """Check a data set, given by option or folder; return 1 if something is missing or different.

    `root` is the folder of an option, by default as configured; `files` are settings of `dataset=coco_json` for a
    folder, such as "references" -> path.
    """
    options = option_names("dataset")
    if name in options and files:
        given = ", ".join(f"--{key.replace('_', '-')}" for key in files)
        raise ConfigError(f"{given} cannot be given with the data set {name}. Name a folder instead.")
    if name not in options and root is not None:
        listed = ", ".join(options)
        raise ConfigError(f"--root needs the name of a data set; {name} is a folder or unknown. Names: {listed}.")
    if name in known_datasets():
        return _check_known(known_datasets()[name], root, decode=decode)
    dataset = _option(name, root) if name in options else _folder(name, files)
    # Files that a check has to write (lists of a plain folder) go where a run would write them.
    cache_root = Path(compose_config([]).runtime.cache_root).expanduser().absolute()
    return _check_any(dataset.locate(cache_root), cast("Crowd", dataset.crowd), decode=decode)


def _option(name: str, root: Path | None) -> DatasetConfig:
    """Compose an option of the group `dataset`, in the folder `root` if that is given."""
    if root is None:
        return compose_config([f"dataset={name}"]).dataset
    if name == DemoConfig.SCHEMA:
        raise ConfigError(f"--root {root}: the demo data set is part of the program. Name a folder without {name}.")
    # The path is set afterwards: it may contain any character, and overrides have a grammar.
    return replace(cast("RootedConfig", compose_config([f"dataset={name}", "dataset.root=."]).dataset), root=str(root))


def _folder(folder: str, files: Mapping[str, Any]) -> DatasetConfig:
    if not Path(folder).is_dir():
        names = ", ".join(option_names("dataset"))
        raise ConfigError(f"{folder} is neither a folder nor a known data set. Names: {names}.")
    if not files and FolderConfig.fits(Path(folder)):
        return FolderConfig(name="folder", root=folder)
    if not files and not (Path(folder) / "annotations").is_dir() and find_annotation_file(Path(folder)) is None:
        raise ConfigError(
            f"{folder} has neither references/<class>/ and targets/ (a plain folder of images) nor annotations/ and "
            "images/ (COCO format). Arrange it in one of these ways, or name its files with --references and --targets."
        )
    return CocoJsonConfig(name="coco_json", root=folder, **files)


def files_by_shots(
    details: DatasetDetails, root: Path | None, *, data_root: Path | None = None
) -> Mapping[int | None, DatasetFiles]:
    """Return where a published data set would be stored, by number of shots if it has a references file for each.

    `root` is its own folder, by default below `data_root`, which by default is as configured.
    """
    shot_counts: tuple[int | None, ...] = details.shots or (None,)
    overrides = [[f"dataset={details.name}", *([] if k is None else [f"shots.count={k}"])] for k in shot_counts]
    locations: dict[int | None, DatasetFiles] = {}
    for shots, config in zip(shot_counts, compose_many(overrides), strict=True):
        dataset = config.dataset
        assert isinstance(dataset, PublishedConfig), details.name
        usual = Path(dataset.root) if data_root is None else data_root / Path(dataset.root).name
        locations[shots] = replace(dataset, root=str(root or usual)).places()
    return locations


def describe_layout(locations: Mapping[int | None, DatasetFiles]) -> str:
    """Return every file and folder of a data set, each once, one per line."""
    files = [path for files in locations.values() for path in (files.references_file, files.targets_file)]
    folders = [path for files in locations.values() for path in (files.reference_images, files.target_images)]
    lines = [*dict.fromkeys(map(str, files)), *dict.fromkeys(f"{folder}/" for folder in folders)]
    return "\n  ".join(["The layout:", *lines])


def how_to_get(details: DatasetDetails) -> str:
    """Return a sentence or two about where to get a data set."""
    source = f"{details.title} is published at {details.official} ({details.terms})."
    if details.get is None:
        return f"{source} Download it there and put it into the folder that `ntt data check` names."
    return f"Run `ntt data get {details.get}`, or download it yourself from {details.official} ({details.terms})."


def _check_known(details: DatasetDetails, root: Path | None, *, decode: bool) -> int:
    locations = files_by_shots(details, root)
    report = check_published(details, locations, decode=decode)
    click.echo("\n  ".join([f"{details.name}: {details.title}", *report.lines]))
    if not report.problems:
        click.echo("All files are present and as published.")
        return 0
    click.echo("\n  - ".join([f"{len(report.problems)} problem(s):", *report.problems]))
    click.echo(describe_layout(locations))
    click.echo(how_to_get(details))
    return 1


def _check_any(files: DatasetFiles, crowd: Crowd, *, decode: bool) -> int:
    """Check a folder without recorded metadata."""
    references = read_coco(files.references_file, files.reference_images, crowd=crowd)
    targets = read_coco(files.targets_file, files.target_images, annotations_required=False, crowd=crowd)
    check_images([*references.images.values(), *targets.images.values()], full=decode)
    for role, dataset in (("references", references), ("targets", targets)):
        click.echo(f"{role}: {dataset.annotation_file}")
        content = f"{counted(len(dataset.images), 'image')}, {counted(len(dataset.instances), 'annotation')}"
        click.echo(f"  {content}, {describe_masks(dataset)}")
    click.echo(_class_table(references, targets))
    check_agreement(references.categories, targets)
    usable = {instance.category_id for instance in references.instances if not instance.iscrowd}
    searched = references.searched_by_default()
    lacking = [category.name for category in searched if category.id not in usable]
    if lacking:
        others = ",".join(category.name for category in searched if category.id in usable)
        click.echo(
            f"No example in the references: {', '.join(lacking)}. A run with split=all refuses these classes: annotate "
            f"one example of each, or name the others, split.classes=[{others}]."
        )
    leakage = same_images_sentence(list(references.images.values()), list(targets.images.values()))
    with_example = [category for category in searched if category.id in usable]
    contents = content_sentences(with_example, targets, MAX_DETECTIONS["coco"][-1])
    for sentence in [leakage, uneven_shot_indices(references, searched), *contents]:
        if sentence:
            click.echo(printable(sentence))
    return 1 if lacking or (leakage and targets.has_annotations) else 0


def _class_table(references: CocoDataset, targets: CocoDataset) -> str:
    sets = (references, targets)
    counts = [Counter(instance.category_id for instance in data.instances if not instance.iscrowd) for data in sets]
    rows = [(category.name, *(str(count[category.id]) for count in counts)) for category in references.categories]
    return "\n".join(align([("class", "references", "targets"), *rows]))


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
        with_lists = [details for details in datasets.values() if details.lists]
        click.echo("\n".join(fetch_kshot_lists(with_lists, data_root, source)))
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
    sentences = fetch_dataset(details.get, folder_of, source)
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
