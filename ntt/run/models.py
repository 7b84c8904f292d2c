"""Models and store, built the same way for a run, a sweep's worker and `Predictor`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

from ntt.config.identity import stage_settings
from ntt.config.schema import ExperimentConfig
from ntt.errors import ConfigError, NttError, WeightsError, raise_all
from ntt.models.backbones.base import Backbone
from ntt.models.box_masks import BoxMasks, ReferenceMasks, choose_box_segmenter
from ntt.models.segmenters.base import Segmenter
from ntt.ops.candidates import FeatureDtype
from ntt.run.environment import apply_runtime
from ntt.run.shared import Workspace
from ntt.stages.candidates import CandidateSource
from ntt.stages.memory import ReferenceEncoder
from ntt.store.store import Store
from ntt.types import ImageId, Instance, Placement

T = TypeVar("T")


@dataclass(frozen=True)
class Models:
    """The models of a configuration and what is built from them; networks are built when first used."""

    config: ExperimentConfig
    placement: Placement
    backbone: Backbone
    segmenter: Segmenter
    store: Store

    @cached_property
    def source(self) -> CandidateSource:
        """What finds the candidates of an image."""
        return CandidateSource(
            segmenter=self.segmenter,
            backbone=self.backbone,
            feature_dtype=cast("FeatureDtype", self.config.candidates.feature_dtype),
            store=self.store,
            settings=stage_settings(self.config, "candidates"),
            placement=self.placement,
        )

    @cached_property
    def reference_masks(self) -> ReferenceMasks:
        """The masks of references, including those annotated with only a box."""
        segmenter = choose_box_segmenter(self.config.memory.box_masks, self.segmenter, self.backbone)
        return ReferenceMasks(None if segmenter is None else BoxMasks(segmenter, self.store))

    def encoder(self, objects_of_image: Callable[[ImageId], Sequence[Instance]] | None) -> ReferenceEncoder:
        """Return what describes references; without other objects in their surroundings if the matcher asks for that.

        `objects_of_image` returns all annotated objects of a reference image.
        """
        return ReferenceEncoder(
            backbone=self.backbone,
            masks=self.reference_masks,
            context_ratio=self.config.memory.context_ratio,
            store=self.store,
            settings=stage_settings(self.config, "memory"),
            objects_of_image=objects_of_image if self.config.matcher.reads_clear_surroundings else None,
        )


def build_models(
    config: ExperimentConfig, *, workspace: Workspace | None = None, local_rank: int = 0, store: Store | None = None
) -> Models:
    """Set this process up according to `config.runtime`, and build the models.

    The workspace keeps them for later configurations; the default store is `runtime.store_root`. An NttError names
    everything that is missing: the device, the precision, weights of either model.
    """
    problems: list[NttError] = []
    workspace = Workspace() if workspace is None else workspace

    def attempt(build: Callable[[], T]) -> T | None:
        try:
            return build()
        except (ConfigError, WeightsError) as error:
            problems.append(error)
            return None

    placement = attempt(lambda: apply_runtime(config.runtime, local_rank=local_rank))
    # Without its device the models are still asked for their weights.
    weights_root = Path(config.runtime.weights_root).expanduser()
    trial = placement or Placement("cpu", "float32", compile=False, weights_root=weights_root)
    backbone = attempt(lambda: workspace.model("backbone", config.backbone, trial))
    segmenter = attempt(lambda: workspace.model("segmenter", config.segmenter, trial))
    if problems:
        raise_all([str(error) for error in problems], type(problems[0]), summary="The models cannot be used here")
    assert placement is not None and backbone is not None and segmenter is not None  # noqa: PT018
    store = Store(Path(config.runtime.store_root).expanduser().absolute()) if store is None else store
    return Models(config, placement, backbone, segmenter, store)
