"""Stage `memory`: the feature vectors of reference instances and of their surroundings."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from ntt.base.digests import content_key
from ntt.base.distributed import ProcessGroup, map_dealt
from ntt.data.images import image_digest, read_image
from ntt.errors import DataError
from ntt.models.backbones.base import Backbone, feature_map
from ntt.models.box_masks import ReferenceMasks
from ntt.ops.crops import background_feature, crop_corners, crop_reference, instance_feature, patch_weights
from ntt.stages.candidates import CandidateSource
from ntt.stages.full_images import full_image_features
from ntt.store.store import Store
from ntt.types import ImageId, ImageRecord, Instance, MemoryBank, ReferenceFeature, ReferenceSet

_LOG = logging.getLogger(__name__)

VERSION = 3
"""Counts changes of what the stage computes; part of the keys of the store and of the stage."""


def fill_memory(
    *,
    references: ReferenceSet,
    encoder: "ReferenceEncoder",
    group: ProcessGroup,
    source: CandidateSource | None = None,
) -> MemoryBank:
    """Describe every reference instance by the mean backbone feature inside its mask (method.md §2; paper 3.2).

    For matchers that use negative evidence, the mean feature of the crop outside the mask is kept too; with a `source`
    of candidates, also the vectors of instances in their full images. Instances are distributed over the processes.
    """
    flat = [instance for members in references.instances for instance in members]
    if group.is_main:
        _log_box_masks(flat, encoder.masks)

    def encode(instance: Instance) -> ReferenceFeature:
        return encoder.encode(instance, references.images[instance.image_id])

    features = iter(map_dealt(encode, flat, group=group, label="memory", unit="reference"))
    groups = [list(islice(features, len(members))) for members in references.instances]
    is_clear = encoder.objects_of_image is not None
    return MemoryBank(
        categories=references.categories,
        features=tuple(_stacked(members, "instance") for members in groups),
        backgrounds=tuple(_stacked(members, "background") for members in groups),
        clear_backgrounds=tuple(_stacked(members, "clear_background") for members in groups) if is_clear else (),
        full=() if source is None else full_image_features(references, source, encoder.masks, group),
    )


@dataclass(frozen=True)
class ReferenceEncoder:
    """Turns a reference instance into its vectors, or finds them in the store, which other seeds and shots share.

    `settings` are what else decides the result. `objects_of_image` returns all annotated objects of a reference image;
    None: surroundings may show other objects.
    """

    backbone: Backbone
    masks: ReferenceMasks
    context_ratio: float
    store: Store
    settings: Mapping[str, Any] = field(default_factory=dict)
    objects_of_image: Callable[[ImageId], Sequence[Instance]] | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the vectors besides the annotations."""
        return {
            **({} if self.objects_of_image is None else {"surroundings": "clear"}),
            "version": VERSION,
            "backbone": dict(self.backbone.fingerprint),
            "context_ratio": self.context_ratio,
            "settings": self.settings,
        }

    def key(self, instance: Instance, record: ImageRecord) -> str:
        """Return the digest of everything that decides this instance's vectors."""
        others = self._others(instance, record)
        objects = _shape(instance) | ({"others": [_shape(other) for other in others]} if others else {})
        models = {**self.fingerprint, **self.masks.fingerprint([instance, *others])}
        return content_key({"image": image_digest(record), **objects, **models})

    def is_stored(self, instance: Instance, record: ImageRecord) -> bool:
        """Return whether the store has an entry for the instance."""
        try:
            return self.store.holds("references", self.key(instance, record))
        except DataError:
            return False

    def encode(self, instance: Instance, record: ImageRecord) -> ReferenceFeature:
        """Return the features of the instance and of its surroundings."""
        key = self.key(instance, record)
        stored = self.store.read_reference(key)
        if stored is not None:
            return stored
        _, weights_gg, feature_map_Dgg = self.look(instance, record)
        background, clear_background = background_feature(feature_map_Dgg, weights_gg), None
        if self.objects_of_image is not None:
            clear_background = background_feature(feature_map_Dgg, self._covered(instance, record, weights_gg))
        feature = ReferenceFeature(
            instance=instance_feature(feature_map_Dgg, weights_gg).numpy(),
            background=None if background is None else background.numpy(),
            clear_background=None if clear_background is None else clear_background.numpy(),
        )
        self.store.write_reference(key, feature)
        return feature

    def _others(self, instance: Instance, record: ImageRecord) -> list[Instance]:
        """Return the other annotated objects whose boxes reach into the instance's crop, if they matter."""
        objects = () if self.objects_of_image is None else self.objects_of_image(instance.image_id)
        corners = self._corners(instance, record)
        return [other for other in objects if other.id != instance.id and _reaches(other.bbox_xywh, corners)]

    def _covered(self, instance: Instance, record: ImageRecord, weights_gg: torch.Tensor) -> torch.Tensor:
        """Return how much of each patch any annotated object covers: float32 [g, g] in [0, 1]."""
        left, top, right, bottom = self._corners(instance, record)
        covered = np.zeros((bottom - top, right - left), dtype=np.bool_)
        for other in (instance, *self._others(instance, record)):
            covered |= self.masks.mask(other, record)[top:bottom, left:right]
        size = self.backbone.input_size
        covered_gg = patch_weights(covered, output_size=size, grid_size=size // self.backbone.patch_size)
        return torch.maximum(weights_gg, covered_gg)

    def _corners(self, instance: Instance, record: ImageRecord) -> tuple[int, int, int, int]:
        box, ratio = instance.bbox_xywh, self.context_ratio
        return crop_corners(box, height=record.height, width=record.width, context_ratio=ratio)

    def look(self, instance: Instance, record: ImageRecord) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the input and the output of the backbone, whatever the store holds; all on the CPU.

        They are the crop, float32 [3, S, S]; each patch's weight, float32 [g, g] in [0, 1]; and the map, float32 [D, g,
        g].
        """
        crop_3SS, weights_gg = crop_reference(
            read_image(record),
            self.masks.mask(instance, record),
            instance.bbox_xywh,
            output_size=self.backbone.input_size,
            grid_size=self.backbone.input_size // self.backbone.patch_size,
            context_ratio=self.context_ratio,
        )
        return crop_3SS, weights_gg, feature_map(self.backbone, crop_3SS[None]).cpu()


def _shape(instance: Instance) -> dict[str, Any]:
    return {"bbox": instance.bbox_xywh, "segmentation": instance.segmentation}


def _reaches(bbox_xywh: tuple[float, float, float, float], corners: tuple[int, int, int, int]) -> bool:
    """Return whether a box overlaps a crop (left, top, right, bottom)."""
    x, y, width, height = bbox_xywh
    left, top, right, bottom = corners
    return x < right and y < bottom and x + width > left and y + height > top


def _stacked(features: Sequence[ReferenceFeature], name: str) -> torch.Tensor:
    """Stack one vector of each instance to float32 [K, D], zeros where it is missing."""
    vectors = [getattr(feature, name) for feature in features]
    nothing = np.zeros_like(features[0].instance)
    return torch.from_numpy(np.stack([nothing if vector is None else vector for vector in vectors]))


def _log_box_masks(instances: Sequence[Instance], masks: ReferenceMasks) -> None:
    """Log what replaces the masks of references that have only a box."""
    count = sum(instance.segmentation is None for instance in instances)
    text = f"{count} of {len(instances)} references have no segmentation"
    if count and masks.maker is None:
        _LOG.warning("%s: their boxes serve as masks, background included.", text)
    elif count and masks.maker is not None:
        _LOG.info("%s: %s makes masks from their boxes.", text, masks.maker.segmenter.name)
