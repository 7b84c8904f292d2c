"""Stage `candidates`: everything matching needs to know about a target image, whatever the classes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ntt.base.digests import content_key
from ntt.base.distributed import ProcessGroup, gather, share
from ntt.base.overlap import overlap
from ntt.base.progress import track
from ntt.data.images import image_digest, read_image
from ntt.errors import DataError
from ntt.models.backbones.base import Backbone, feature_map
from ntt.models.device import own_stream
from ntt.models.segmenters.base import Segmenter
from ntt.ops.candidates import FeatureDtype, Finish, measure
from ntt.ops.resize import encoder_input, resize_to_canvas
from ntt.store.store import Store
from ntt.types import Candidates, ImageRecord, Placement

_LOG = logging.getLogger(__name__)
_VERSION = 1


@dataclass(frozen=True)
class CandidateSource:
    """The candidates of an image, from the store, or computed and stored.

    Features are rounded to `feature_dtype`, in memory as in the store. `settings` are what else decides the result,
    such as the models' precision; `placement` is where the models run.
    """

    segmenter: Segmenter
    backbone: Backbone
    feature_dtype: FeatureDtype
    store: Store
    settings: Mapping[str, Any] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)
    _keys: dict[tuple[str, int, int], str] = field(default_factory=dict, init=False, compare=False)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the candidates besides the image."""
        return {
            "version": _VERSION,
            "segmenter": dict(self.segmenter.fingerprint),
            "backbone": dict(self.backbone.fingerprint),
            "feature_dtype": self.feature_dtype,
            "settings": self.settings,
        }

    def key(self, record: ImageRecord) -> str:
        """Return the digest of everything that decides this image's candidates."""
        digest, height, width = image = (image_digest(record), record.height, record.width)
        if image not in self._keys:
            details = {"image": digest, "height": height, "width": width}
            self._keys[image] = content_key({**details, **self.fingerprint})
        return self._keys[image]

    def get(self, record: ImageRecord) -> Candidates:
        """Return the image's candidates; compute and store them if the store has none."""
        key = self.key(record)
        stored = self.store.read_candidates(key, size=(record.height, record.width))
        return self._fill(key, record) if stored is None else stored

    def count(self, record: ImageRecord) -> int:
        """Return how many candidates the image has; compute and store them if the store has none."""
        key = self.key(record)
        count = self.store.count_candidates(key)
        return len(self._fill(key, record)) if count is None else count

    def is_stored(self, record: ImageRecord) -> bool:
        """Return whether the store has an entry for the image, which has then been read before."""
        try:
            return self.store.holds("candidates", self.key(record))
        except DataError:
            return False

    def look(self, record: ImageRecord) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the segmenter's canvas, float32 [3, h, w], RGB in [0, 1]; and its feature map, float32 [D, g, g]."""
        return self._see(self.load(record))

    def load(self, record: ImageRecord) -> torch.Tensor:
        """Read an image and resize it to the segmenter's canvas."""
        canvas_3hw = resize_to_canvas(read_image(record), self.segmenter.canvas_hw(record.height, record.width))
        return canvas_3hw.pin_memory() if self.device.type == "cuda" else canvas_3hw

    def compute(self, record: ImageRecord, canvas_3hw: torch.Tensor) -> Finish:
        """Do the part of the work that the device does."""
        with own_stream(self.device):
            canvas_3hw, feature_map_Dhw = self._see(canvas_3hw)
            proposals = self.segmenter.propose(canvas_3hw, feature_map_Dhw)
            return measure(proposals, feature_map_Dhw, height=record.height, width=record.width)

    def finish(self, key: str, finish: Finish) -> Candidates:
        """Turn measurements into candidates, and store them."""
        candidates = finish(self.feature_dtype)
        self.store.write_candidates(key, candidates, feature_dtype=self.feature_dtype)
        return candidates

    @property
    def computing_threads(self) -> int | None:
        """Threads that compute while others load and finish; 0: the main thread; None: everything in sequence.

        A GPU gets two images at a time, so that it has work while the program waits for one of them; with
        TensorFloat-32, a setting of the process that matters until kernels are recorded, only one.
        """
        if self.device.type == "cuda":
            return 2 if self.placement.compile or self.placement.precision != "tf32" else 1
        return None if torch.get_num_threads() == 1 else 0

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return torch.device(self.placement.device)

    def _see(self, canvas_3hw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        canvas_3hw = canvas_3hw.to(self.device, non_blocking=True)
        return canvas_3hw, feature_map(self.backbone, encoder_input(canvas_3hw, self.backbone.input_size))

    def _fill(self, key: str, record: ImageRecord) -> Candidates:
        return self.finish(key, self.compute(record, self.load(record)))


def find_candidates(*, images: Sequence[ImageRecord], source: CandidateSource, group: ProcessGroup) -> tuple[int, ...]:
    """Find every image's candidates, distributed over the processes (method.md §4), and return the number of each."""
    keys = {position: source.key(record) for position, record in share(images, group)}
    counts: dict[str, int] = {}
    missing: dict[str, ImageRecord] = {}
    for position, key in keys.items():
        count = source.store.count_candidates(key)
        if count is None:
            missing[key] = images[position]
        else:
            counts[key] = count
    computed = _compute_all(list(missing.items()), source)
    for key in track(list(missing), "candidates", unit="image", visible=group.is_main):
        counts[key] = next(computed)
    return tuple(gather([(position, counts[key]) for position, key in keys.items()], len(images), group))


def _compute_all(images: Sequence[tuple[str, ImageRecord]], source: CandidateSource) -> Iterator[int]:
    """Compute and store the candidates of images under their keys, and yield their numbers."""
    computing = source.computing_threads
    if computing is None:
        for key, record in images:
            yield len(source.finish(key, source.compute(record, source.load(record))))
        return
    yield from overlap(
        images,
        load=lambda image: (*image, source.load(image[1])),
        compute=lambda loaded: (loaded[0], source.compute(*loaded[1:])),
        finish=lambda computed: len(source.finish(*computed)),
        computing=computing,
    )
