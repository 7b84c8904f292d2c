"""SAM2 (Ravi et al., arXiv 2408.00714) prompted with a grid of points, as the published method uses it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from ntt.errors import ConfigError, WeightsError
from ntt.models.batching import BatchRunner
from ntt.models.device import autocast, effective_precision, resolve_device
from ntt.models.segmenters.sam2.decoder import DecodedPrompts, FastDecoder
from ntt.models.segmenters.sam2.folding import fold
from ntt.models.segmenters.sam2.image_terms import ImageTerms, compute_image_terms
from ntt.models.segmenters.sam2.model import CANVAS_PX, architecture, decoder_state, load_image_encoder, read_state
from ntt.models.segmenters.sam2.prompts import PromptEncoder, point_grid
from ntt.models.segmenters.sam2.upscaling import upscale
from ntt.models.weights import DEFAULT_ROOT, checked_digest, fetch_command
from ntt.types import Proposals

Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A few prompts stay in the cache of a CPU core; a GPU wants many at once, at about 60 MiB each in float32.
_CPU_PROMPTS, _GPU_PROMPTS = 4, 64
# One image keeps a CPU busy; a GPU is not filled by the smaller encoders with one.
_CPU_IMAGES, _GPU_IMAGES = 1, 4
# As in the package: a box's single mask is kept while it hardly changes between these two thresholds.
_STABILITY_OFFSET, _STABILITY_THRESHOLD = 0.05, 0.98


_Maps: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""An encoded image, float32: features of stride 4 [C, 256, 256], of stride 8, and the embedding [C, 64, 64]."""


@dataclass(frozen=True)
class _Model:
    """The parts of a loaded model."""

    image_encoder: nn.Module
    prompt_encoder: PromptEncoder
    decoder: FastDecoder
    no_mem_C: torch.Tensor


class Sam2:
    """SAM2 as a proposer of masks: one positive point per grid cell, the best of its three masks."""

    def __init__(
        self,
        *,
        checkpoint: Path,
        model: str = "sam2_hiera_large",
        expected_sha256: str | None = None,
        points_per_side: int = 32,
        min_predicted_iou: float = 0.4,
        use_no_mem_embed: bool = False,
        prompt_batch_size: int | None = None,
        drop_remainder_of: int | None = None,
        precision: str = "float32",
        device: str = "cpu",
        compile: bool = False,
        name: str | None = None,
    ) -> None:
        """Check the settings; the weights are read at the first image.

        Args:
            checkpoint: file of the official layout.
            model: one of the names in `ntt.models.segmenters.sam2.model.ARCHITECTURES`.
            expected_sha256: hex digest the file must have; None: any.
            points_per_side: of the grid, 1 or more.
            min_predicted_iou: masks above it are kept, in [0, 1).
            use_no_mem_embed: add the no-memory embedding to the image features.
            prompt_batch_size: prompts decoded at a time; None: chosen for the device.
            drop_remainder_of: drop the grid's last incomplete batch of this many points; None: drop nothing.
            precision: float32, tf32, bfloat16 or float16.
            device: auto, cpu, cuda, cuda:N or mps.
            compile: send the image encoder through `torch.compile`; the decoder is not compiled.
            name: of the config option; None: `model`.

        Raises:
            ConfigError: for a setting, or a combination of settings, that cannot be run.
            WeightsError: if the checkpoint does not exist.
        """
        architecture(model)
        self._device = resolve_device(device)
        self._precision = effective_precision(precision, self._device)
        if not 0 <= min_predicted_iou < 1:
            raise ConfigError(
                f"segmenter.min_predicted_iou={min_predicted_iou} would keep everything or nothing; it must be at "
                "least 0 and less than 1. 0.4 is the published value."
            )
        if prompt_batch_size is not None and prompt_batch_size < 1:
            raise ConfigError(
                f"segmenter.prompt_batch_size={prompt_batch_size}; it must be 1 or more, or null. "
                "Set it to null to have it chosen for the device."
            )
        self._points_P2 = point_grid(points_per_side, drop_remainder_of=drop_remainder_of)
        if not checkpoint.is_file():
            raise WeightsError(
                f"The weights file {checkpoint} of {model} does not exist. Fetch the official one with "
                f"`{fetch_command(model, DEFAULT_ROOT)}`, or set segmenter.weights to your file."
            )
        self._checkpoint, self._expected_sha256, self._model_name = checkpoint, expected_sha256, model
        self._points_per_side, self._drop_remainder_of = points_per_side, drop_remainder_of
        self._min_predicted_iou = min_predicted_iou
        self._use_no_mem_embed = use_no_mem_embed
        self._compile = compile
        self._name = name or model
        default = _CPU_PROMPTS if self._device.type == "cpu" else _GPU_PROMPTS
        self._batches = BatchRunner(default if prompt_batch_size is None else prompt_batch_size)

    @property
    def name(self) -> str:
        """Name of the config option that builds this segmenter."""
        return self._name

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """JSON-able facts that decide the output. Reads the weights file, and refuses one of another sha256."""
        return {
            "segmenter": "sam2",
            "model": self._model_name,
            "weights_sha256": checked_digest(self._checkpoint, self._expected_sha256),
            "points_per_side": self._points_per_side,
            "drop_remainder_of": self._drop_remainder_of,
            "min_predicted_iou": self._min_predicted_iou,
            "use_no_mem_embed": self._use_no_mem_embed,
            "precision": self._precision,
            "compile": self._compile,
        }

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the square every image is resized to, whatever its shape."""
        del height, width
        return CANVAS_PX, CANVAS_PX

    @torch.no_grad()
    def propose(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor | None = None) -> Proposals:
        """Propose the best mask of every grid point whose predicted IoU is above the threshold.

        Args:
            canvas_3hw: float32 RGB in [0, 1], 1024 x 1024.
            feature_map_Dhw: not used.

        Returns:
            float32 logits [N, 256, 256] and predicted IoUs [N] in the order of the grid, on the model's device.

        Raises:
            ValueError: for a canvas of another shape.
            WeightsError: at the first call, if the weights are damaged or of another model.
        """
        del feature_map_Dhw
        terms = self._image_terms(canvas_3hw)
        tokens = self._model.prompt_encoder.points(self._points_P2.to(self._device))

        def best_masks(decoded: DecodedPrompts) -> tuple[torch.Tensor, torch.Tensor]:
            iou_B, best_B = decoded.predicted_iou_BM.max(dim=1)
            kept = (iou_B > self._min_predicted_iou).nonzero()[:, 0]
            hyper_B1D = decoded.hyper_BMD[kept, best_B[kept]][:, None]
            return self._upscale(terms, decoded, kept, hyper_B1D)[:, 0], iou_B[kept]

        parts = self._decode_all(terms, tokens, best_masks, first_mask=1)
        return Proposals(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))

    @torch.no_grad()
    def segment_boxes(self, canvas_3hw: torch.Tensor, boxes_xyxy: torch.Tensor) -> torch.Tensor:
        """Segment the object in each box: SAM2's single mask for a box prompt, chosen as its image predictor does.

        The single-mask output is taken while it is stable, that is while its area hardly changes when the threshold
        moves a little; otherwise the best of the three multimask outputs.

        Args:
            canvas_3hw: float32 RGB in [0, 1], 1024 x 1024.
            boxes_xyxy: [B, 4] in canvas pixels, left <= right and top <= bottom.

        Returns:
            float32 logits [B, 256, 256] on the model's device; foreground is > 0. May be empty of foreground.

        Raises:
            ValueError: for a canvas or boxes of another shape, and for boxes that are not finite or turned over.
            WeightsError: at the first call, if the weights are damaged or of another model.
        """
        _check_boxes(boxes_xyxy)
        return self._segment(self._image_terms(canvas_3hw), boxes_xyxy)

    @property
    def images_at_once(self) -> int:
        """Images worth giving together to `segment_boxes_of_images` on this device."""
        return _CPU_IMAGES if self._device.type == "cpu" else _GPU_IMAGES

    @torch.no_grad()
    def segment_boxes_of_images(
        self, canvases: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Segment the boxes of several images, which go through the image encoder together; see `segment_boxes`.

        Args:
            canvases: one an image, float32 RGB in [0, 1], 1024 x 1024.
            boxes: those of each image, [B, 4] in canvas pixels.

        Returns:
            What `segment_boxes` returns, for each image.

        Raises:
            ValueError: for a canvas or boxes that `segment_boxes` refuses.
            WeightsError: at the first call, if the weights are damaged or of another model.
        """
        for boxes_xyxy in boxes:
            _check_boxes(boxes_xyxy)
        # Terms of one image at a time: they take more memory than the maps they are made of.
        maps = self._encode(canvases) if canvases else []
        return [self._segment(self._terms(one), some) for one, some in zip(maps, boxes, strict=True)]

    def _segment(self, terms: ImageTerms, boxes_xyxy: torch.Tensor) -> torch.Tensor:
        """Segment the boxes [B, 4] of an image; [B, 256, 256]."""
        boxes = boxes_xyxy.to(self._device, torch.float32)
        if len(boxes) == 0:
            return torch.empty(0, 4 * terms.grid_yx[0], 4 * terms.grid_yx[1], device=self._device)

        def single_mask(decoded: DecodedPrompts) -> torch.Tensor:
            everything = torch.arange(len(decoded.hyper_BMD), device=self._device)
            best_B = decoded.predicted_iou_BM[:, 1:].argmax(dim=1) + 1
            hyper_B2D = torch.stack([decoded.hyper_BMD[:, 0], decoded.hyper_BMD[everything, best_B]], dim=1)
            single, multi = self._upscale(terms, decoded, everything, hyper_B2D).unbind(dim=1)
            return torch.where(_is_stable(single)[:, None, None], single, multi)

        return torch.cat(self._decode_all(terms, self._model.prompt_encoder.boxes(boxes), single_mask, first_mask=0))

    def _image_terms(self, canvas_3hw: torch.Tensor) -> ImageTerms:
        """Encode an image and project what all its prompts share."""
        return self._terms(self._encode([canvas_3hw])[0])

    def _encode(self, canvases: Sequence[torch.Tensor]) -> list[_Maps]:
        """Run the image encoder on several images at once."""
        for canvas_3hw in canvases:
            if tuple(canvas_3hw.shape) != (3, CANVAS_PX, CANVAS_PX):
                raise ValueError(f"canvas of shape {tuple(canvas_3hw.shape)}; expected (3, {CANVAS_PX}, {CANVAS_PX})")
        mean, std = (
            torch.tensor(value, device=self._device)[:, None, None] for value in (_IMAGENET_MEAN, _IMAGENET_STD)
        )
        images_I3hw = (torch.stack(list(canvases)).to(self._device, torch.float32) - mean) / std
        with autocast(self._precision, self._device):
            fine0, fine1, embedding = self._model.image_encoder(images_I3hw)["backbone_fpn"]
        return list(zip(fine0.float(), fine1.float(), embedding.float(), strict=True))

    def _terms(self, maps: _Maps) -> ImageTerms:
        """Project what all prompts of an encoded image share."""
        model = self._model
        fine0, fine1, embedding = maps
        embedding = embedding + model.prompt_encoder.no_mask_C[:, None, None]
        if self._use_no_mem_embed:
            embedding = embedding + model.no_mem_C[:, None, None]
        with self._plain_arithmetic():
            return compute_image_terms(
                model.decoder.weights.image, embedding, (fine0, fine1), dtype=_DTYPES[self._precision]
            )

    def _plain_arithmetic(self) -> AbstractContextManager[None]:
        """The decoder casts by itself; only whether float32 may mean TensorFloat-32 is left to torch."""
        return autocast("tf32" if self._precision == "tf32" else "float32", self._device)

    def _decode_all(
        self,
        terms: ImageTerms,
        tokens_BPC: torch.Tensor,
        finish: Callable[[DecodedPrompts], Result],
        *,
        first_mask: int,
    ) -> list[Result]:
        """Decode all prompts in batches and hand each batch to `finish`."""

        # Grad mode belongs to a thread, and batches may run in threads of their own.
        @torch.no_grad()
        def decode(start: int, stop: int) -> Result:
            return finish(self._model.decoder.decode(terms, tokens_BPC[start:stop], first_mask=first_mask))

        workers = torch.get_num_threads() if self._device.type == "cpu" else 1
        with self._plain_arithmetic():
            return self._batches.run(decode, len(tokens_BPC), workers=workers)

    def _upscale(
        self, terms: ImageTerms, decoded: DecodedPrompts, index_B: torch.Tensor, hyper_BMD: torch.Tensor
    ) -> torch.Tensor:
        tokens = decoded.tokens
        if len(index_B) != len(tokens.rows_BKF):
            tokens = tokens.select(index_B)
        return upscale(self._model.decoder.weights.rows, terms, tokens, hyper_BMD)

    @cached_property
    def _model(self) -> _Model:
        state = read_state(self._checkpoint, self._model_name, expected_sha256=self._expected_sha256)
        decoder_part = decoder_state(state, self._model_name)
        encoder = load_image_encoder(state, self._model_name).to(self._device)
        prompts = PromptEncoder.from_state(decoder_part)
        dtype = _DTYPES[self._precision]
        decoder = FastDecoder(fold(decoder_part, prompts.grid_positions()).to(self._device, dtype), dtype=dtype)
        if self._compile:
            encoder.compile()
        _LOG.info("Built %s from %s on %s", self._model_name, self._checkpoint, self._device)
        return _Model(
            image_encoder=encoder,
            prompt_encoder=prompts.to(self._device),
            decoder=decoder,
            no_mem_C=decoder_part["no_mem_embed"].flatten().to(self._device),
        )


def _check_boxes(boxes_xyxy: torch.Tensor) -> None:
    if boxes_xyxy.ndim != 2 or boxes_xyxy.shape[1] != 4:
        raise ValueError(f"boxes of shape {tuple(boxes_xyxy.shape)}; expected [B, 4]")
    turned_over = (boxes_xyxy[:, 2:] < boxes_xyxy[:, :2]).any(dim=1)
    bad = (turned_over | ~boxes_xyxy.isfinite().all(dim=1)).nonzero()
    if len(bad):
        index = int(bad[0, 0])
        raise ValueError(
            f"box {index} is {boxes_xyxy[index].tolist()}; expected finite left, top, right, bottom with left <= right "
            "and top <= bottom"
        )


def _is_stable(logits_BHW: torch.Tensor) -> torch.Tensor:
    """Whether each mask keeps its area when the threshold moves by the package's offset; [B]."""
    strict = (logits_BHW > _STABILITY_OFFSET).sum(dim=(1, 2))
    lenient = (logits_BHW > -_STABILITY_OFFSET).sum(dim=(1, 2))
    return (lenient == 0) | (strict / lenient >= _STABILITY_THRESHOLD)
