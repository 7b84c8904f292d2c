"""The published data sets: counts, classes and where to get them (`datasets.json`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ntt.data.splits import split_classes


@dataclass(frozen=True)
class Counts:
    """Expected content of an annotation file; None if unknown.

    Attributes:
        annotations: crowd regions included.
        crowd: crowd regions; for VOC the difficult objects.
        per_class: class name -> annotations.
    """

    images: int | None = None
    annotations: int | None = None
    crowd: int | None = None
    per_class: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Archive:
    """One file to download and unpack.

    Attributes:
        into: folder below the data root that its members' names are relative to.
        provides: what is there once it is unpacked: path below `into` -> minimum number of entries; 1 for a file.
    """

    url: str
    md5: str
    megabytes: int
    into: str
    provides: Mapping[str, int]

    @property
    def file_name(self) -> str:
        """Return the last part of the URL."""
        return self.url.rsplit("/", maxsplit=1)[-1]


@dataclass(frozen=True)
class KshotList:
    """One of the k-shot lists of CD-FSOD.

    Attributes:
        url: of the file, at a fixed commit.
        sha256: of the file's bytes.
        references: `ntt.datasets.published.cdfsod.references_key` of its content.
    """

    url: str
    sha256: str
    references: str


@dataclass(frozen=True)
class DatasetDetails:
    """Details of one data set option.

    Attributes:
        official: page of its authors.
        get: name of its downloads (`archives`); None if it has no fixed address or must not be redistributed.
        class_names: the classes; empty if only their number is known.
        shots: numbers of shots for which it has a references file; empty if references are drawn.
        references: of the file that references are drawn from.
        shot_images: shots -> images of that references file.
        folder: its name below the data root; None if it is the option's.
        lists: shots -> published list of references.
    """

    name: str
    title: str
    official: str
    terms: str
    class_names: tuple[str, ...]
    num_classes: int
    targets: Counts
    references: Counts = field(default_factory=Counts)
    get: str | None = None
    shots: tuple[int, ...] = ()
    shot_images: Mapping[int, int] = field(default_factory=dict)
    folder: str | None = None
    lists: Mapping[int, KshotList] = field(default_factory=dict)

    def of_shots(self, shots: int | None) -> Counts:
        """Return the counts of the references file, or of that for a number of shots."""
        return self.references if shots is None else Counts(images=self.shot_images.get(shots))


def known_datasets() -> Mapping[str, DatasetDetails]:
    """Return every published data set, by the name of its option."""
    return {name: _details(name, entry) for name, entry in _document()["datasets"].items()}


def archives(name: str) -> tuple[Archive, ...]:
    """Return the downloads of a data set; `name` as in `DatasetDetails.get`."""
    return tuple(Archive(**entry) for entry in _document()["downloads"][name])


def few_shot_lists_url() -> str:
    """Return where the few-shot lists of Pascal VOC are published, a text file per class and number of shots."""
    return str(_document()["vocsplit"])


def _details(name: str, entry: Mapping[str, Any]) -> DatasetDetails:
    values = dict(entry)
    option, names = values.pop("classes", None), values.pop("class_names", ())
    names = tuple(names) if option is None else split_classes(option)
    values |= {key: Counts(**values[key]) for key in ("references", "targets") if key in values}
    values["shots"] = tuple(values.get("shots", ()))
    values["shot_images"] = {int(shots): images for shots, images in values.get("shot_images", {}).items()}
    folder = f"{_document()['cdfsod_lists']}{values.get('folder')}/annotations"
    values["lists"] = {
        int(shots): KshotList(url=f"{folder}/{shots}_shot_converted.json", **digests)
        for shots, digests in values.get("lists", {}).items()
    }
    return DatasetDetails(**{"name": name, "class_names": names, "num_classes": len(names), **values})


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(__file__).with_name("datasets.json").read_text(encoding="utf-8"))
    return document
