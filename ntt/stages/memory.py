"""Stage `memory`: one feature vector per reference instance."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ntt.backbones.base import Backbone
from ntt.data.images import image_digest, read_image
from ntt.data.masks import instance_mask
from ntt.dist import World, gather, share
from ntt.ops.crops import crop_reference, instance_feature
from ntt.progress import track
from ntt.store import Store, content_key
from ntt.types import ImageRecord, Instance, MemoryBank, ReferenceSet

_VERSION = 1


def fill_memory(
    *, references: ReferenceSet, backbone: Backbone, context_ratio: float, store: Store, me: World
) -> MemoryBank:
    """Describe every reference instance by the mean backbone feature inside its mask (METHOD 2; paper, section 3.2).

    Vectors are kept in the store, one an instance, so that other seeds and shots find them.

    Args:
        references: the sampled instances.
        backbone: encoder of the crops.
        context_ratio: context around the box, as a fraction of its longer side.
        store: where vectors are looked up and kept.
        me: this process's place; instances are dealt out over all processes.
    """
    flat = [instance for group in references.instances for instance in group]
    encoder = _InstanceEncoder(backbone, context_ratio, store)
    mine = share(flat, me)
    vectors = [
        (position, encoder.encode(instance, references.images[instance.image_id]))
        for position, instance in track(mine, "memory", unit="reference", visible=me.is_main)
    ]
    ordered = gather(vectors, len(flat), me)
    features: list[torch.Tensor] = []
    for group in references.instances:
        features.append(torch.from_numpy(np.stack(ordered[: len(group)])))
        ordered = ordered[len(group) :]
    digest = content_key({"references": references.digest, "encoder": encoder.facts})
    return MemoryBank(categories=references.categories, features=tuple(features), digest=digest)


@dataclass(frozen=True)
class _InstanceEncoder:
    """Turns one reference instance into its vector, or finds it in the store."""

    backbone: Backbone
    context_ratio: float
    store: Store

    @property
    def facts(self) -> dict[str, object]:
        """What decides the vectors beside the instance itself."""
        return {
            "version": _VERSION,
            "backbone": dict(self.backbone.fingerprint),
            "context_ratio": self.context_ratio,
        }

    def encode(self, instance: Instance, record: ImageRecord) -> npt.NDArray[np.float32]:
        """Return float32 [D], not normalised."""
        shape = {"bbox": instance.bbox_xywh, "segmentation": instance.segmentation}
        key = content_key({"image": image_digest(record.path), **shape, **self.facts})
        known = self.store.read_feature(key)
        if known is not None:
            return known
        crop_3SS, weights_gg = crop_reference(
            read_image(record),
            instance_mask(instance, record.height, record.width),
            instance.bbox_xywh,
            output_size=self.backbone.input_size,
            grid_size=self.backbone.input_size // self.backbone.patch_size,
            context_ratio=self.context_ratio,
        )
        feature_map_Dgg = self.backbone.encode(crop_3SS[None])[0].float().cpu()
        feature: npt.NDArray[np.float32] = instance_feature(feature_map_Dgg, weights_gg).numpy()
        self.store.write_feature(key, feature)
        return feature
