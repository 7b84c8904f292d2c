"""SAM2 (Ravi et al., arXiv 2408.00714) prompted with a grid of points, as the published method uses it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch

from ntt.base.settings import deciding_settings, setting
from ntt.models.batching import BatchRunner
from ntt.models.compiling import COMPILED_VERSION, compiled, in_precision, round_weights
from ntt.models.device import autocast, effective_precision, has_tensor_float, resolve_device
from ntt.models.segmenters.base import SegmenterConfig
from ntt.models.segmenters.sam2.decoder import DecodedPrompts, FastDecoder
from ntt.models.segmenters.sam2.folding import fold
from ntt.models.segmenters.sam2.image_terms import ImageTerms, compute_image_terms
from ntt.models.segmenters.sam2.model import (
    ARCHITECTURES,
    CANVAS_PX,
    decoder_state,
    load_image_encoder,
    misfit,
    read_state,
)
from ntt.models.segmenters.sam2.prompts import PromptEncoder, point_grid
from ntt.models.weights import WeightsFile
from ntt.types import Placement, Proposals

Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A few prompts fit into the cache of a CPU core; a GPU needs many at once, at about 15 MiB each in float32,
# or a tenth of that with its own kernels.
_CPU_PROMPTS, _GPU_PROMPTS, _FUSED_PROMPTS = 4, 256, 1024
# Compute capabilities with 99 KiB of shared memory per block; others from Ampere on have 163 or more.
_LITTLE_SHARED_MEMORY = {(8, 6), (8, 9), (12, 0), (12, 1)}
# One image keeps a CPU busy, but not a GPU with the smaller encoders.
_CPU_IMAGES, _GPU_IMAGES = 1, 4
# As in the package, a box's single mask is used if it hardly changes between two thresholds.
_STABILITY_OFFSET, _STABILITY_THRESHOLD = 0.05, 0.98


_Maps: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""An encoded image, float32: features of stride 4 [C, 256, 256], of stride 8, and the embedding [C, 64, 64]."""


def can_fuse(precision: str, device: torch.device) -> bool:
    """Return whether the fused decoder runs on a device: in 32 bits it needs more than 99 KiB of shared memory."""
    if not has_tensor_float(device):
        return False
    return _DTYPES[precision].itemsize == 2 or torch.cuda.get_device_capability(device) not in _LITTLE_SHARED_MEMORY


@dataclass(frozen=True, kw_only=True)
class Sam2Config(SegmenterConfig):
    """Schema of the SAM2 options."""

    SCHEMA: ClassVar[str] = "sam2"

    model: str = setting("sam2_hiera_large", one_of=tuple(ARCHITECTURES))
    """sam2_hiera_tiny, _small, _base_plus or _large, or the same four of sam2.1_hiera."""

    weights: str | None = None
    """Checkpoint file in the official layout; null: the official one below runtime.weights_root, sha256 checked."""

    points_per_side: int = setting(32, ge=1, le=512)
    """Points along each axis of the grid of prompts. 32 is the published value."""

    min_predicted_iou: float = setting(0.4, ge=0, lt=1)
    """Masks with a predicted IoU above this are kept. 0.4 is the published value."""

    use_no_mem_embed: bool = False
    """Add the model's no-memory embedding to the image features, as SAM2's own image predictor does. The published
    results were computed without it."""

    drop_remainder_of: int | None = setting(None, ge=1)
    """Divide the grid into batches of this many points and drop an incomplete last one, as the reference
    implementation does with 256; null: use every point."""

    prompt_batch_size: int | None = setting(None, ge=1, le=65536, decides=False)
    """Prompts decoded at a time; decides memory, speed and rounding. Null: chosen for the device."""

    def build(self, placement: Placement) -> "Sam2":
        """Construct the segmenter."""
        return Sam2(self, placement)


@dataclass(frozen=True)
class _Model:
    """The parts of a loaded model, with pixel mean and standard deviation, on its device."""

    image_encoder: Callable[[torch.Tensor], _Maps]
    prompt_encoder: PromptEncoder
    point_decoder: FastDecoder
    box_decoder: FastDecoder
    no_mem_C: torch.Tensor
    mean_311: torch.Tensor
    std_311: torch.Tensor


class Sam2:
    """SAM2 as a proposer of masks: one positive point per grid cell, the best of its three masks."""

    def __init__(self, config: Sam2Config, placement: Placement) -> None:
        """Check the settings, and that the weights exist; they are read at the first image.

        `runtime.compile` compiles the image encoder (`ntt.models.compiling`), and on CUDA lets the decoder use kernels
        of its own.
        """
        self.config, self.name = config, config.name
        self.device = resolve_device(placement.device)
        self.precision = effective_precision(placement.precision, self.device)
        self.compile = placement.compile
        self._points_P2 = point_grid(config.points_per_side, drop_remainder_of=config.drop_remainder_of)
        self._weights = WeightsFile.find(
            config.model, config.weights, placement.weights_root, setting="segmenter.weights"
        )
        self._is_fused = self.compile and can_fuse(self.precision, self.device)
        default = _CPU_PROMPTS if self._on_cpu else _FUSED_PROMPTS if self._is_fused else _GPU_PROMPTS
        self._batches = BatchRunner(config.prompt_batch_size or default)
        # Boxes are decoded without these kernels.
        self._box_batches = BatchRunner(config.prompt_batch_size or min(default, _GPU_PROMPTS))

    @property
    def _on_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides the output. Reads the weights file, and refuses one with another sha256."""
        return {
            "kind": self.config.SCHEMA,
            **deciding_settings(self.config),
            "weights": self._weights.digest,
            "precision": self.precision,
            "compile": self.compile and COMPILED_VERSION,
        }

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the square every image is resized to, whatever its shape."""
        del height, width
        return CANVAS_PX, CANVAS_PX

    @torch.no_grad()
    def propose(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor | None = None) -> Proposals:
        """Propose the best mask of every grid point whose predicted IoU is above the threshold.

        Args:
            canvas_3hw: float32 RGB in [0, 1], 1024 x 1024; else a ValueError.
            feature_map_Dhw: not used.

        Returns:
            float32 logits [N, 256, 256] and predicted IoUs [N] in the order of the grid, on the model's device.
        """
        del feature_map_Dhw
        maps = self._encode([canvas_3hw])[0]
        if self._is_fused:
            logits_Phw, iou_P = self._propose_all(*maps)
            keep_P = iou_P > self.config.min_predicted_iou
            return Proposals(logits_Phw[keep_P], iou_P[keep_P])
        terms = self._terms(maps)

        def best_masks(parts: Sequence[DecodedPrompts]) -> tuple[torch.Tensor, torch.Tensor]:
            best = [part.best() for part in parts]
            keep = torch.cat([iou_B for iou_B, _ in best]) > self.config.min_predicted_iou
            # On a GPU, this is the decoder's only wait for the device.
            keep_of_parts = keep.cpu().split([len(iou_B) for iou_B, _ in best])
            logits, ious = [], []
            for part, (iou_B, hyper_B1D), keep_B in zip(parts, best, keep_of_parts, strict=True):
                index = keep_B.nonzero()[:, 0].to(self.device, non_blocking=True)
                logits.append(self._model.point_decoder.upscale(terms, part.tokens, index, hyper_B1D[index])[:, 0])
                ious.append(iou_B[index])
            return torch.cat(logits), torch.cat(ious)

        parts = self._decode_all(terms, self._grid_BPC, best_masks, first_mask=1)
        return Proposals(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))

    @cached_property
    def _propose_all(self) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
        """From an encoded image to the best masks of all prompts, logits [P, 256, 256], and their predicted IoUs [P].

        Logits of masks that `propose` drops are not computed, and arbitrary. Selecting within the kernels keeps shapes
        fixed, so that the decoder can be recorded.
        """

        def propose(
            fine0: torch.Tensor, fine1: torch.Tensor, embedding: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            terms = self._terms((fine0, fine1, embedding))

            def best_masks(parts: Sequence[DecodedPrompts]) -> tuple[torch.Tensor, torch.Tensor]:
                logits, ious = [], []
                for part in parts:
                    iou_B, hyper_B1D = part.best()
                    prompt_B = torch.arange(len(iou_B), device=self.device)
                    index_B = torch.where(iou_B > self.config.min_predicted_iou, prompt_B, -1)
                    logits.append(decoder.upscale(terms, part.tokens, index_B, hyper_B1D)[:, 0])
                    ious.append(iou_B)
                return torch.cat(logits), torch.cat(ious)

            (best,) = self._decode_all(terms, self._grid_BPC, best_masks, first_mask=1)
            return best

        decoder = self._model.point_decoder
        return compiled(propose, self._arithmetic, self.device)

    @property
    def images_at_once(self) -> int:
        """How many images to pass to `segment_boxes` at once on this device."""
        return _CPU_IMAGES if self._on_cpu else _GPU_IMAGES

    @torch.no_grad()
    def segment_boxes(self, canvases: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Segment the object in each box: SAM2's single mask for a box prompt, chosen as its image predictor does.

        The single-mask output is used if it is stable, that is, if its area hardly changes when the threshold moves a
        little; otherwise the best of the three multimask outputs. Images go through the image encoder together.

        Args:
            canvases: float32 RGB in [0, 1], 1024 x 1024.
            boxes: [B, 4] of each image in canvas pixels, left <= right and top <= bottom.

        Returns:
            float32 logits [B, 256, 256] on the model's device; foreground is > 0, and may be absent.
        """
        # Terms of one image at a time: they take more memory than the maps they are computed from.
        maps = self._encode(canvases) if canvases else []
        return [self._segment(self._terms(map_), boxes_B4) for map_, boxes_B4 in zip(maps, boxes, strict=True)]

    def _segment(self, terms: ImageTerms, boxes_xyxy: torch.Tensor) -> torch.Tensor:
        """Segment the boxes [B, 4] of an image; [B, 256, 256]."""
        boxes = boxes_xyxy.to(self.device, torch.float32)
        if len(boxes) == 0:
            return torch.empty(0, 4 * terms.grid_yx[0], 4 * terms.grid_yx[1], device=self.device)

        def single_mask(parts: Sequence[DecodedPrompts]) -> torch.Tensor:
            masks = []
            for part in parts:
                everything = torch.arange(len(part.hyper_BMD), device=self.device)
                best_B = part.predicted_iou_BM[:, 1:].argmax(dim=1) + 1
                hyper_B2D = torch.stack([part.hyper_BMD[:, 0], part.hyper_BMD[everything, best_B]], dim=1)
                single, multi = self._model.box_decoder.upscale(terms, part.tokens, everything, hyper_B2D).unbind(dim=1)
                masks.append(torch.where(_is_stable(single)[:, None, None], single, multi))
            return torch.cat(masks)

        return torch.cat(self._decode_all(terms, self._model.prompt_encoder.boxes(boxes), single_mask, first_mask=0))

    def _encode(self, canvases: Sequence[torch.Tensor]) -> list[_Maps]:
        """Run the image encoder on several images at once."""
        for canvas_3hw in canvases:
            if tuple(canvas_3hw.shape) != (3, CANVAS_PX, CANVAS_PX):
                raise ValueError(f"canvas of shape {tuple(canvas_3hw.shape)}; expected (3, {CANVAS_PX}, {CANVAS_PX})")
        model = self._model
        images_I3hw = (torch.stack(list(canvases)).to(self.device, torch.float32) - model.mean_311) / model.std_311
        return list(zip(*model.image_encoder(images_I3hw), strict=True))

    def _terms(self, maps: _Maps) -> ImageTerms:
        """Project what all prompts of an encoded image share."""
        model = self._model
        fine0, fine1, embedding = maps
        embedding = embedding + model.prompt_encoder.no_mask_C[:, None, None]
        if self.config.use_no_mem_embed:
            embedding = embedding + model.no_mem_C[:, None, None]
        with autocast(self._arithmetic, self.device):
            return compute_image_terms(
                model.box_decoder.weights.image, embedding, (fine0, fine1), dtype=_DTYPES[self.precision]
            )

    def _decode_all(
        self,
        terms: ImageTerms,
        tokens_BPC: torch.Tensor,
        draw: Callable[[Sequence[DecodedPrompts]], Result],
        *,
        first_mask: int,
    ) -> list[Result]:
        """Decode all prompts in batches, and upscale their masks with `draw`.

        A CPU draws each batch at once, which saves memory; a GPU draws when all are decoded, so that the program waits
        for it only once.
        """
        model, is_point = self._model, first_mask > 0
        decoder = model.point_decoder if is_point else model.box_decoder

        # Grad mode is per thread, and batches may run in other threads.
        @torch.no_grad()
        def decode(start: int, stop: int) -> Any:
            decoded = decoder.decode(terms, tokens_BPC[start:stop], first_mask=first_mask)
            return draw([decoded]) if self._on_cpu else decoded

        workers = torch.get_num_threads() if self._on_cpu else 1
        with autocast(self._arithmetic, self.device):
            batches = self._batches if is_point else self._box_batches
            parts = batches.run(decode, len(tokens_BPC), workers=workers)
            return parts if self._on_cpu else [draw(parts)]

    @property
    def _arithmetic(self) -> str:
        """The decoder casts by itself; torch only decides whether float32 may mean TensorFloat-32."""
        is_rough = self.precision == "tf32" or (self._is_fused and self.precision != "float32")
        return "tf32" if is_rough else "float32"

    @cached_property
    def _grid_BPC(self) -> torch.Tensor:
        return self._model.prompt_encoder.points(self._points_P2.to(self.device))

    @cached_property
    def _model(self) -> _Model:
        name = self.config.model
        state = read_state(self._weights.path, name, expected_sha256=self._weights.expected_sha256)
        encoder = load_image_encoder(state, name).to(self.device)
        dtype, decoder_part = _DTYPES[self.precision], decoder_state(state)
        try:
            prompts, no_mem_C = PromptEncoder.from_state(decoder_part), decoder_part["no_mem_embed"].flatten()
            weights = fold(decoder_part, prompts.grid_positions()).to(self.device, dtype)
        except (KeyError, RuntimeError) as error:
            raise misfit(name, str(error)) from error
        point_decoder = box_decoder = FastDecoder(weights, dtype=dtype)
        if self._is_fused:
            from ntt.models.segmenters.sam2.fused import FusedDecoder

            point_decoder = FusedDecoder(weights, dtype=dtype, tf32=self.precision == "tf32")
        round_weights(encoder, self.precision, self.device)

        def encode(images_I3hw: torch.Tensor) -> _Maps:
            fine0, fine1, embedding = encoder(images_I3hw)["backbone_fpn"]
            return fine0.float(), fine1.float(), embedding.float()

        _LOG.info("Built %s from %s on %s", name, self._weights.path, self.device)
        mean_311, std_311 = (
            torch.tensor(value, device=self.device)[:, None, None] for value in (_IMAGENET_MEAN, _IMAGENET_STD)
        )
        return _Model(
            image_encoder=(compiled if self.compile else in_precision)(encode, self.precision, self.device),
            prompt_encoder=prompts.to(self.device),
            point_decoder=point_decoder,
            box_decoder=box_decoder,
            no_mem_C=no_mem_C.to(self.device),
            mean_311=mean_311,
            std_311=std_311,
        )


def _is_stable(logits_BHW: torch.Tensor) -> torch.Tensor:
    """Return whether the area of each mask hardly changes when the threshold moves by the offset, bool [B]."""
    strict = (logits_BHW > _STABILITY_OFFSET).sum(dim=(1, 2))
    lenient = (logits_BHW > -_STABILITY_OFFSET).sum(dim=(1, 2))
    return (lenient == 0) | (strict / lenient >= _STABILITY_THRESHOLD)
