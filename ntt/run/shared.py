"""What successive runs of one process share: annotation files, models, checked images, results.

Sharing never changes a result: annotation files are identified by the digest of their bytes, images by their identity
on disk, models by their settings and placement, results by the keys of their stages.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ntt.base.digests import FileIdentity, file_identity, sha256_of
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.images import check_images
from ntt.models.backbones.base import BackboneConfig
from ntt.models.segmenters.base import SegmenterConfig
from ntt.types import ImageRecord, Placement

_MAX_DATASETS = 4
_ImageState = tuple[FileIdentity, int, int]


@dataclass(frozen=True)
class Prepared:
    """A stage's result or error, and what it took.

    `used`: kind and key of the store entries that went into it; `computed`: how many of these are new, by kind.
    """

    result: Any
    used: frozenset[tuple[str, str]]
    seconds: float = 0.0
    computed: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Workspace:
    """What each `runner.run` of a process reuses from earlier ones; `prepared` maps stage keys to results."""

    cleaned_folders: set[Path] = field(default_factory=set)
    prepared: dict[str, Prepared] = field(default_factory=dict)
    _read: Callable[..., CocoDataset] = field(default_factory=lambda: lru_cache(_MAX_DATASETS)(_read_version))
    _checked: set[_ImageState] = field(default_factory=set)
    _models: dict[str, tuple[Any, Placement, Any]] = field(default_factory=dict)

    def read_coco(self, annotation_file: Path, image_dir: Path, **options: Any) -> CocoDataset:
        """Do what `ntt.data.coco.read_coco` does, once per version of the file."""
        try:
            return self._read(annotation_file, image_dir, sha256_of(annotation_file), **options)
        except OSError:  # the reader explains it
            return read_coco(annotation_file, image_dir, **options)

    def model(self, kind: str, config: BackboneConfig | SegmenterConfig, placement: Placement) -> Any:
        """Return the model of these settings; only the last of a kind is kept, so a change of models frees memory."""
        if kind not in self._models or self._models[kind][:2] != (config, placement):
            self._models.pop(kind, None)
            self._models[kind] = (config, placement, config.build(placement))
        return self._models[kind][2]

    def check_images(self, records: Sequence[ImageRecord]) -> None:
        """Check images as `ntt.data.images.check_images` does, once per version of each file."""
        unchecked = [record for record in records if _state(record) not in self._checked]
        check_images(unchecked)
        states = map(_state, unchecked)
        self._checked.update(state for state in states if state is not None and state[0].is_settled)


@cache
def process_workspace() -> Workspace:
    """Return this process's workspace, for programs that run points in succession, such as a multirun."""
    return Workspace()


def _read_version(annotation_file: Path, image_dir: Path, sha256: str, **options: Any) -> CocoDataset:
    """Read an annotation file whose bytes have a digest; raise OSError if they have changed by now."""
    dataset = read_coco(annotation_file, image_dir, **options)
    if dataset.file_sha256 != sha256:
        raise OSError(f"{annotation_file} changed while it was being read")
    return dataset


def _state(record: ImageRecord) -> _ImageState | None:
    try:
        with record.path.open("rb") as stream:
            return (file_identity(stream.fileno()), record.height, record.width)
    except OSError:
        return None
