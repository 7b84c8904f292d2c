"""A prototype of the background: what looks more like the surroundings of the references than like any class.

The background prototype is the mean feature of the patches outside the masks of the reference crops, as PANet makes it
and lets it compete with the classes (Wang et al., ICCV 2019, arXiv 1908.06391, equations 2 and 3).
"""

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
import torch

from ntt.matchers.prototype import class_means
from ntt.matchers.rules import Rule, one_of, positive
from ntt.matchers.scoring import SCORING_RULES, ScoringMatcher, ScoringMatcherConfig
from ntt.ops.pooling import l2_normalise
from ntt.ops.similarity import best_per_class, cosine_similarity, damp
from ntt.types import Candidates, FloatArray, MemoryBank, Prototypes

BackgroundPrototypes: TypeAlias = Literal["mean", "each"]
OnBackground: TypeAlias = Literal["drop", "damp"]

_LOG = logging.getLogger(__name__)
_BACKGROUND = -1
_RULES = (
    *SCORING_RULES,
    one_of("background_prototypes", get_args(BackgroundPrototypes)),
    one_of("on_background", get_args(OnBackground)),
    positive("sigma", 0.8),
)


@dataclass(frozen=True, kw_only=True)
class BackgroundMatcher(ScoringMatcher):
    """The published matcher with background as one more class, whose candidates are no detections.

    Attributes:
        background_prototypes: "mean": one prototype, the mean over the surroundings of all references; "each": the
            surroundings of every reference, the closest of which counts.
        on_background: what becomes of a candidate that is more similar to background than to its class. "drop": it is
            no detection and suppresses none; "damp": its score is multiplied by exp(-(lead of background) / sigma).
        sigma: softness of "damp".
    """

    KIND: ClassVar[str] = "background"
    RULES: ClassVar[tuple[Rule, ...]] = _RULES

    name: str = "background"
    background_prototypes: BackgroundPrototypes = "mean"
    on_background: OnBackground = "drop"
    sigma: float = 0.8

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the class means, and after them background vectors with the label -1.

        Args:
            memory: with backgrounds; if no reference leaves anything of its crop uncovered, this matcher does what
                the published one does, and says so.

        Returns:
            float32 [P, D] and int64 [P].
        """
        means_CD = class_means(memory)
        backgrounds_BD = torch.cat([*memory.backgrounds, means_CD[:0]]).float().cpu()
        if len(backgrounds_BD) == 0:
            _LOG.warning("No reference shows any background: there is no background prototype.")
        elif self.background_prototypes == "mean":
            backgrounds_BD = backgrounds_BD.mean(dim=0, keepdim=True)
        labels_P = torch.cat([torch.arange(len(means_CD)), torch.full((len(backgrounds_BD),), _BACKGROUND)])
        return torch.cat([means_CD, l2_normalise(backgrounds_BD)]), labels_P

    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Compare with the classes and with the background.

        Returns:
            float32 [N, C]: max(0, cosine), damped; or -1 throughout for a dropped candidate.
        """
        similarity_NP = cosine_similarity(candidates.features, prototypes.vectors_PD.numpy())
        labels_P = prototypes.labels_P.numpy()
        scores_NC = best_per_class(similarity_NP, labels_P, num_classes=len(prototypes.categories))
        background_N1 = similarity_NP[:, labels_P == _BACKGROUND].max(axis=1, keepdims=True, initial=0.0)
        if self.on_background == "damp":
            return damp(scores_NC, background_N1, sigma=self.sigma)
        lost_N1 = background_N1 > scores_NC.max(axis=1, keepdims=True)
        return np.where(lost_N1, np.float32(-1.0), scores_NC)


@dataclass
class BackgroundConfig(ScoringMatcherConfig):
    """Schema of `matcher=background`."""

    SCHEMA: ClassVar[str] = "background"
    RULES: ClassVar[tuple[Rule, ...]] = _RULES

    name: str = "background"
    """Name of the option; it appears in run directories and tables."""

    background_prototypes: str = "mean"
    """mean: one background prototype, the mean over all references' surroundings; each: one a reference."""

    on_background: str = "drop"
    """What becomes of a candidate more similar to background than to any class: drop (no detection) or damp."""

    sigma: float = 0.8
    """Softness of damp, a difference of cosines above 0: a lead of background by sigma leaves 37 % of the score."""

    def build(self) -> BackgroundMatcher:
        """Construct the matcher.

        Raises:
            ConfigError: for settings it cannot run with.
        """
        return BackgroundMatcher(**self.settings_for(BackgroundMatcher))
