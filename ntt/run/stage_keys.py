"""For each stage of a run the digest of everything that decides its result."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ntt.base.digests import content_key
from ntt.config.schema import ExperimentConfig
from ntt.matchers.base import MatcherConfig
from ntt.models.backbones.base import Backbone
from ntt.models.box_masks import ReferenceMasks
from ntt.models.segmenters.base import Segmenter
from ntt.run.inputs import Inputs
from ntt.stages.evaluation import VERSION as EVALUATION_VERSION
from ntt.types import ImageRecord, ReferenceSet


@dataclass(frozen=True)
class StageKeys:
    """Digests of settings, annotation files, images and models, each made when it is asked for.

    A stage's key contains the keys of the stages it builds on, so that a change reaches everything behind it. Images
    count by their bytes: a copy in another place is the same image, and a changed one never is.

    Attributes:
        digests_of: gives the digest of each image file; None for one that cannot be read.
        draw: gives the references; asked only for keys of stages that build on them.
    """

    config: ExperimentConfig
    inputs: Inputs
    backbone: Backbone
    segmenter: Segmenter
    matcher: MatcherConfig
    reference_masks: ReferenceMasks
    digests_of: Callable[[Sequence[ImageRecord]], Sequence[str | None]]
    draw: Callable[[], ReferenceSet]

    def __getitem__(self, stage: str) -> str:
        """Return the key of a stage by its name."""
        key: str = getattr(self, stage)
        return key

    @cached_property
    def references(self) -> str:
        """Key of the drawing of references."""
        return content_key(
            {
                "file": self.inputs.reference_data.digest,
                "categories": [asdict(category) for category in self.inputs.categories],
                "shots": {k: v for k, v in asdict(self.config.shots).items() if k != "name"},
                "seed": self.config.seed,
            }
        )

    @cached_property
    def memory(self) -> str:
        """Key of the references' features."""
        images = list(self.draw().images.values())
        facts = {
            "references": self.references,
            "images": self._image_facts(images),
            "memory": asdict(self.config.memory),
            **self.reference_masks.facts(self.inputs.reference_data.instances),
            **self._models,
        }
        return content_key(facts)

    @cached_property
    def prototypes(self) -> str:
        """Key of what candidates are compared with."""
        return content_key({"memory": self.memory, "matcher": dict(self.matcher.fingerprint)})

    @cached_property
    def candidates(self) -> str:
        """Key of the candidates of all target images."""
        facts = {
            "images": self._image_facts(list(self.inputs.target_data.images.values())),
            "segmenter": dict(self.segmenter.fingerprint),
            "candidates": asdict(self.config.candidates),
            **self._models,
        }
        return content_key(facts)

    @cached_property
    def matching(self) -> str:
        """Key of the detections."""
        return content_key({"prototypes": self.prototypes, "candidates": self.candidates})

    @cached_property
    def visualisation(self) -> str:
        """Key of the pictures."""
        truth, settings = self.inputs.target_data.digest, asdict(self.config.visualisation)
        return content_key({"matching": self.matching, "settings": settings, "truth": truth})

    @cached_property
    def evaluation(self) -> str:
        """Key of the metrics. Who judges is not in it: the judges say the same."""
        settings = self.config.evaluation
        facts = {
            "version": EVALUATION_VERSION,
            "matching": self.matching,
            "truth": self.inputs.target_data.digest,
            "semantic": None if settings.semantic == "none" else [settings.semantic, settings.semantic_threshold],
        }
        if settings.protocol != "coco":  # metrics from before there was a choice stay valid
            facts["protocol"] = settings.protocol
        return content_key(facts)

    @cached_property
    def _models(self) -> dict[str, Any]:
        return {"backbone": dict(self.backbone.fingerprint), "precision": self.config.runtime.precision}

    def _image_facts(self, records: Sequence[ImageRecord]) -> list[Any]:
        digests = self.digests_of(records)
        return [[one.id, digest, one.height, one.width] for one, digest in zip(records, digests, strict=True)]
