"""Stage `candidates`: everything matching needs to know of a target image, whatever is searched in it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ntt.base.digests import content_key
from ntt.base.distributed import ProcessGroup
from ntt.data.images import image_digest, read_image
from ntt.errors import DataError
from ntt.models.backbones.base import Backbone
from ntt.models.segmenters.base import Segmenter
from ntt.ops.candidates import FeatureDtype, describe
from ntt.ops.canvas import canvas_of, encoder_input
from ntt.stages.dealing import map_dealt
from ntt.store.store import Store
from ntt.types import Candidates, ImageRecord

_LOG = logging.getLogger(__name__)
_VERSION = 1


@dataclass(frozen=True)
class CandidateSource:
    """Gives the candidates of an image: from the store, or computed and stored.

    Attributes:
        feature_dtype: precision features are rounded to, in memory as in the store.
        settings: what else decides the result, such as the models' precision; part of the key.
    """

    segmenter: Segmenter
    backbone: Backbone
    feature_dtype: FeatureDtype
    store: Store
    settings: Mapping[str, Any] = field(default_factory=dict)

    def key(self, record: ImageRecord) -> str:
        """Return the digest of everything that decides this image's candidates."""
        return content_key(
            {
                "version": _VERSION,
                "image": image_digest(record.path),
                "height": record.height,
                "width": record.width,
                "segmenter": dict(self.segmenter.fingerprint),
                "backbone": dict(self.backbone.fingerprint),
                "feature_dtype": self.feature_dtype,
                "settings": self.settings,
            }
        )

    def get(self, record: ImageRecord) -> Candidates:
        """Return the image's candidates, computing and storing them where the store has none."""
        key = self.key(record)
        known = self.store.read_candidates(key)
        return self._fill(key, record) if known is None else known

    def count(self, record: ImageRecord) -> int:
        """Return how many candidates the image has, computing and storing them where the store has none."""
        key = self.key(record)
        known = self.store.count_candidates(key)
        return len(self._fill(key, record).rles) if known is None else known

    def is_stored(self, record: ImageRecord) -> bool:
        """Return whether the store has an entry for the image, so that it has been read and decoded before."""
        try:
            return self.store.holds("candidates", self.key(record))
        except DataError:
            return False

    def look(self, record: ImageRecord) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the models see of an image: the segmenter's canvas, and the backbone's feature map of it.

        Returns:
            float32 [3, h, w], RGB in [0, 1]; and float32 [D, g, g].
        """
        canvas_3hw = canvas_of(read_image(record), self.segmenter.canvas_hw(record.height, record.width))
        return canvas_3hw, self.backbone.encode(encoder_input(canvas_3hw, self.backbone.input_size))[0].float()

    def _fill(self, key: str, record: ImageRecord) -> Candidates:
        candidates = self._compute(record)
        self.store.write_candidates(key, candidates, feature_dtype=self.feature_dtype)
        return candidates

    def _compute(self, record: ImageRecord) -> Candidates:
        canvas_3hw, feature_map_Dhw = self.look(record)
        return describe(
            self.segmenter.propose(canvas_3hw, feature_map_Dhw),
            feature_map_Dhw,
            height=record.height,
            width=record.width,
            feature_dtype=self.feature_dtype,
        )


def find_candidates(*, images: Sequence[ImageRecord], source: CandidateSource, group: ProcessGroup) -> tuple[int, ...]:
    """Make sure that every image's candidates are in the store (METHOD 4).

    Args:
        images: the target images.
        source: models and store.
        group: the processes of the run; images are dealt out over them.

    Returns:
        The number of candidates of each image.
    """
    return tuple(map_dealt(source.count, images, group=group, label="candidates", unit="image"))
