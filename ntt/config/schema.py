"""The typed configuration: one frozen dataclass per config group; those of options are in the groups' packages."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ntt.base.project import OUTPUT_ROOT, STORE_ROOT, WEIGHTS_ROOT
from ntt.base.settings import Option, setting
from ntt.datasets.base import DATA_VARIABLE, DatasetConfig
from ntt.evaluation.curves import PAINTINGS, PROTOCOLS
from ntt.matchers.base import MatcherConfig
from ntt.models.backbones.base import BackboneConfig
from ntt.models.device import PRECISIONS
from ntt.models.segmenters.base import SegmenterConfig
from ntt.trackers.base import TrackerConfig

STAGES = (
    *("references", "memory", "leave_one_out", "prototypes", "candidates", "proposals", "matching", "counts"),
    *("visualisation", "thresholds", "evaluation"),
)
STAGE_ALIASES = {"fill_memory": "memory", "postprocess_memory": "prototypes", "test": "evaluation"}
SAMPLERS = ("native", "reference", "fixed", "shot_index")


@dataclass(frozen=True, kw_only=True)
class ShotsConfig(Option):
    """Schema of the config group `shots`: how the references are drawn."""

    count: int | None = setting(5, ge=1)
    """Reference instances per class, k. null: all usable instances of the references file (sampler=fixed only)."""

    sampler: str = setting("native", one_of=SAMPLERS)
    """native: seeded per class; reference: the published code's stream; fixed: every annotation of the references
    file; shot_index: the file's own order (its annotations carry `shot_index`). The options take it from the data
    set: dataset.sampler."""

    strict: bool = False
    """true: refuse a class with fewer than k valid instances; false: use what exists, with a warning."""

    min_box_side_px: float = setting(32.0, ge=0)
    """Smallest box width and height of a valid reference, pixels."""

    border_px: float = setting(10.0, ge=0)
    """Smallest distance of a valid reference's box from the image border, pixels."""

    def problems(self) -> list[str]:
        """Return contradictions between settings."""
        if self.count is not None or self.sampler == "fixed":
            return []
        return ["shots.count=null is only possible with shots.sampler=fixed. Choose shots=all or shots=1shot."]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Schema of the config group `split`: which classes are searched."""

    name: str = setting("all", names=True)
    """Name of the option; `all` is every class of the references file."""

    classes: list[str] | None = None
    """Names of the classes. null: all of them, or those of `frequency`."""

    frequency: str | None = setting(None, one_of=("r", "c", "f"))
    """The rare (r), common (c) or frequent (f) classes, as LVIS' files mark them. null: whatever their frequency."""

    def problems(self) -> list[str]:
        """Return contradictions between settings."""
        if self.classes is None:
            return []
        if not self.classes:
            return ["split.classes is empty: at least one class name is needed. Use split=all for all classes."]
        repeated = sorted(name for name, count in Counter(self.classes).items() if count > 1)
        messages = [f"split.classes names {', '.join(repeated)} more than once."] if repeated else []
        if self.frequency is not None:
            messages.append("split.frequency and split.classes exclude each other. Leave out one of the two.")
        return messages


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """How reference instances are cut out and described."""

    context_ratio: float = setting(0.2, ge=0, le=10)
    """Context around a reference's box, as a fraction of its longer side."""

    box_masks: str = setting("auto", one_of=("auto", "segmenter", "box"))
    """Mask of a reference that has only a box. auto: made by the segmenter if it takes boxes as prompts, as SAM2 does,
    else the box; segmenter: made by the segmenter in any case, chosen among its proposals if it takes no boxes; box:
    the box."""


@dataclass(frozen=True, kw_only=True)
class CandidatesConfig:
    """How candidates are kept."""

    feature_dtype: str = setting("float16", one_of=("float16", "float32"))
    """Precision candidate features are rounded to before matching and kept in: float16 or float32."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured of the detections."""

    protocol: str = setting("coco", one_of=PROTOCOLS)
    """The rules that AP and AR follow. coco: COCO's; lvis: LVIS' own, for annotation files that list for each image
    which classes were searched for. conf/config.yaml takes it from the data set: dataset.protocol."""

    difficult: str | None = setting(None, one_of=("crowd", "ordinary"))
    """How target objects marked `difficult` (Pascal VOC) count. crowd: not required, but not wrong to find; ordinary:
    like any other; null: as in the annotation file, which is crowd after `ntt data get voc`."""

    semantic: str = setting("none", one_of=PAINTINGS)
    """mIoU over the searched classes, of detections painted into one label per pixel. correct: the highest score owns a
    pixel; reference: as the published code paints; none: no mIoU."""

    semantic_threshold: float = setting(0.5, ge=0, le=1)
    """Detections below this score are not painted, in [0, 1]."""

    thresholds: str = setting("auto", one_of=("auto", "proposed", "fixed"), decides=False)
    """Lowest scores at which detections are drawn and counted, and precision, recall and F1 measured; AP needs none.
    proposed: from the references of classes with two or more, which takes the candidates of their images; fixed: 0.4
    throughout; auto: proposed if pictures are drawn or the matcher is auto, else not measured."""


@dataclass(frozen=True, kw_only=True)
class VisualisationConfig:
    """Which pictures are drawn."""

    enabled: bool = setting(default=True, decides=False)
    """false: draw nothing."""

    score_threshold: float | None = setting(None, ge=0)
    """Predictions below this score are not drawn; null: chosen by `evaluation.thresholds`. Scores of matcher=probe may
    exceed 1."""

    max_images: int | None = setting(24, ge=0)
    """Target images to draw a comparison of, in file order; null: all of them."""

    image_ids: list[Any] | None = None
    """Draw these target images, by id in the targets file, instead of the first `max_images`."""

    contact_sheet_size: int = setting(6, ge=0, le=1000)
    """Images on the sheets of the best and of the worst images; 0: no sheets."""

    features: bool = False
    """Draw the backbone's features of each reference, and how similar each patch of a target image is to each class, in
    the first four target images chosen above. References and these targets are encoded again."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig(Option):
    """Schema of the config group `runtime`: where and how the run executes, and where it writes."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    precision: str = setting("float32", one_of=PRECISIONS)
    """float32, tf32, bfloat16 or float16."""

    compile: bool = False
    """Compute faster after a slow first image: recorded on CUDA, with other last digits, else by torch.compile."""

    deterministic: bool = True
    """Choose operations that give the same result at every call, where torch has them, and warn of others."""

    threads: int = setting(1, ge=1, le=1024)
    """CPU threads per process. Rounding may depend on it, so it is a setting and not a property of the machine. More
    than one only helps on otherwise idle cores: threads that wait for each other are slow."""

    output_root: str = setting(OUTPUT_ROOT, decides=False)
    """Folder of run directories."""

    store_root: str = setting(STORE_ROOT, decides=False)
    """Folder of stored candidates and reference features, shared by all runs."""

    cache_root: str = setting("outputs/cache", decides=False)
    """Folder of annotation files made for plain folders of images."""

    data_root: str = setting(default_factory=lambda: os.environ.get(DATA_VARIABLE) or "data", decides=False)
    """Folder of the published data sets, each in its own folder. Default: the environment variable NTT_DATA,
    else `data`."""

    weights_root: str = setting(WEIGHTS_ROOT, decides=False)
    """Folder of downloaded model weights."""

    dist_timeout_s: int = setting(1800, ge=1, le=10_000_000, decides=False)
    """Seconds a process of a distributed run waits for the others to reach the same point."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """A whole experiment."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    tracker: TrackerConfig = setting(default_factory=TrackerConfig, decides=False)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    visualisation: VisualisationConfig = setting(default_factory=VisualisationConfig, decides=False)

    seed: int = setting(0, ge=0)
    """Seed of the reference sampler."""

    stage: str = setting("all", one_of=("all", *STAGES), decides=False)
    """all, or one stage, which is run together with the missing results it needs."""

    published: dict[str, Any] | None = setting(None, decides=False)
    """The published values of the experiment, which `ntt report --expected` compares with."""

    experiment: str | None = setting(None, decides=False)
    """Name of the overlay `experiment=NAME`, which sets it; null: none."""
