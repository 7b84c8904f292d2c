"""`ntt export`: the detections of a run as files for annotation tools."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ntt.cli.options import PATH, check_output
from ntt.errors import DataError, StorageError, counted, range_text

if TYPE_CHECKING:
    from ntt.run.rundir import RunDirectory

_NAMES = {"coco": "coco.json", "cvat": "cvat.xml", "label-studio": "label-studio.json", "labelme": "labelme"}


@click.command()
@click.argument("tool", type=click.Choice(tuple(_NAMES)))
@click.argument("run", type=PATH, metavar="RUN_DIRECTORY")
@click.option(
    "--above",
    type=click.FloatRange(min=0),
    help="Lowest score of a detection; default: as the run counted, for each class.",
)
@click.option("--output", type=PATH, metavar="PATH", help="Default: coco.json, cvat.xml, ... or labelme/ in the run.")
@click.option(
    "--prefix", default="", show_default=False, help="Label Studio: what turns an image's file name into an address."
)
def export(tool: str, run: Path, above: float | None, output: Path | None, prefix: str) -> None:
    """Write a run's detections for an annotation tool.

    \b
    ntt export labelme RUN                 a file per image; correct with: labelme PHOTOS --output RUN/labelme
    ntt export labelme RUN --output PHOTOS the same next to the images, for folders in folders: labelme PHOTOS
    ntt export cvat RUN                    "CVAT for images 1.1", to be uploaded to a task with the images
    ntt export label-studio RUN            tasks with predictions, and the labelling interface
    ntt export coco RUN --above 0.5        an annotation file

    Corrected files are read back as references; see the documentation, "From detections to references".
    """
    from ntt.base.files import write_text
    from ntt.run.rundir import RunDirectory

    directory = RunDirectory(run)
    files = [directory.images, directory.predictions, *([directory.lowest_scores] if above is None else [])]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DataError(
            f"{run} has no {missing[0].name}: it is no complete run of this version. Name the folder that a run "
            "prints, or repeat its command."
        )
    output = output or run / _NAMES[tool]
    texts = _texts(tool, directory, output, above=above, prefix=prefix)
    for path in texts:
        check_output(path)
    for path, text in texts.items():
        write_text(path, text)
    click.echo(f"{counted(len(texts), 'file')} written to {output}")


def _texts(
    tool: str, directory: "RunDirectory", output: Path, *, above: float | None, prefix: str
) -> Mapping[Path, str]:
    """Return the content of the files to write."""
    from ntt.convert import detections as formats
    from ntt.run.artefacts import read_lowest_scores

    scores = read_lowest_scores(directory.lowest_scores) if above is None else above
    detected = formats.read_detections(directory.images, directory.predictions, above=scores)
    images, objects = counted(len(detected["images"]), "image"), counted(len(detected["annotations"]), "detection")
    lowest = range_text([scores] if isinstance(scores, float) else scores.values())
    click.echo(f"{objects} in {images}; lowest score: {lowest}")
    if tool == "labelme":
        labelled = formats.to_labelme(detected, output.resolve(), photos=_photos(directory))
        return {path: _json(document) for path, document in labelled.items()}
    if tool == "cvat":
        return {output: formats.to_cvat(detected)}
    if tool == "coco":
        return {output: _json(detected)}
    return {
        output: _json(formats.to_label_studio(detected, prefix=prefix)),
        output.with_suffix(".xml"): formats.label_studio_interface(formats.class_names(detected)),
    }


def _photos(directory: "RunDirectory") -> Path | None:
    """Return the folder of the images that a run has searched, if the run has noted it."""
    from ntt.base.files import read_json

    try:
        return Path(read_json(directory.facts)["data"]["targets"]["images"])
    except (StorageError, KeyError, TypeError):
        return None


def _json(document: object) -> str:
    return json.dumps(document, ensure_ascii=False) + "\n"
