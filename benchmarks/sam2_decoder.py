"""Compare the fast SAM2 mask decoder with the package's own, side by side in one process.

    python benchmarks/sam2_decoder.py --prompts 1024 --repeats 3

Both decode the same grid of points on the same random image features with the same arbitrary weights, in turn, with
the same number of threads. The package decodes `--package-batch` prompts at a time, as the published program does;
no threshold is applied, so every prompt is upscaled. At a batch of 256 the package needs about 10 GB.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ntt.models.batching import BatchRunner
from ntt.models.segmenters.sam2.decoder import FastDecoder
from ntt.models.segmenters.sam2.folding import fold
from ntt.models.segmenters.sam2.image_terms import ImageTerms, compute_image_terms
from ntt.models.segmenters.sam2.model import (
    ARCHITECTURES,
    CANVAS_PX,
    CHANNELS,
    TOKEN_GRID,
    decoder_state,
    skip_package_set_up,
)
from ntt.models.segmenters.sam2.prompts import PromptEncoder, point_grid
from ntt.models.segmenters.sam2.upscaling import upscale

Result = tuple[torch.Tensor, torch.Tensor]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PackageHeads(torch.nn.Module):
    """The package's prompt encoder and mask decoder, the same in all eight models."""

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__()
        skip_package_set_up()
        from sam2.modeling.sam.mask_decoder import MaskDecoder
        from sam2.modeling.sam.prompt_encoder import PromptEncoder as PackagePromptEncoder
        from sam2.modeling.sam.transformer import TwoWayTransformer

        self.sam_prompt_encoder = PackagePromptEncoder(
            embed_dim=CHANNELS,
            image_embedding_size=(TOKEN_GRID, TOKEN_GRID),
            input_image_size=(CANVAS_PX, CANVAS_PX),
            mask_in_chans=16,
        )
        self.sam_mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=2048, num_heads=8),
            transformer_dim=CHANNELS,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
            use_multimask_token_for_obj_ptr=True,
        )
        self.no_mem_embed = torch.nn.Parameter(torch.zeros(1, 1, CHANNELS))
        self.eval()


def package_decoder(heads: PackageHeads, maps: list[torch.Tensor], batch: int) -> Callable[[torch.Tensor], Result]:
    """The package's way: all three masks of every prompt, then the best of each."""
    decoder: Any = heads.sam_mask_decoder
    encoder: Any = heads.sam_prompt_encoder
    high = [decoder.conv_s0(maps[0][None]), decoder.conv_s1(maps[1][None])]

    def one_batch(points_B2: torch.Tensor) -> Result:
        labels = torch.ones(len(points_B2), 1, dtype=torch.int, device=points_B2.device)
        sparse, dense = encoder(points=(points_B2[:, None], labels), boxes=None, masks=None)
        masks, iou, _, _ = decoder(
            image_embeddings=maps[2][None],
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=True,
            high_res_features=high,
        )
        best = iou.argmax(dim=1)
        index = torch.arange(len(best), device=best.device)
        return masks[index, best], iou[index, best]

    def decode(points_P2: torch.Tensor) -> Result:
        parts = [one_batch(points_P2[start : start + batch]) for start in range(0, len(points_P2), batch)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    return decode


def fast_decoder(
    heads: PackageHeads, maps: list[torch.Tensor], batch: int, dtype: torch.dtype
) -> Callable[[torch.Tensor], Result]:
    """Our way, the projections done once an image included."""
    state = decoder_state(heads.state_dict())
    prompts = PromptEncoder.from_state(state)
    decoder = FastDecoder(fold(state, prompts.grid_positions()).to("cpu", dtype), dtype=dtype)
    embedding = maps[2] + prompts.no_mask_C[:, None, None]

    def one_batch(terms: ImageTerms, tokens_BPC: torch.Tensor) -> Result:
        decoded = decoder.decode(terms, tokens_BPC, first_mask=1)
        iou, best = decoded.predicted_iou_BM.max(dim=1)
        hyper = decoded.hyper_BMD[torch.arange(len(best)), best][:, None]
        return upscale(decoder.weights.rows, terms, decoded.tokens, hyper)[:, 0], iou

    def decode(points_P2: torch.Tensor) -> Result:
        terms = compute_image_terms(decoder.weights.image, embedding, (maps[0], maps[1]), dtype=dtype)
        tokens = prompts.points(points_P2)

        @torch.no_grad()
        def work(start: int, stop: int) -> Result:
            return one_batch(terms, tokens[start:stop])

        parts = BatchRunner(batch).run(work, len(tokens), workers=torch.get_num_threads())
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    return decode


def _token_products(tokens: int, read: int) -> int:
    """Multiplications on prompt tokens, `read` of which go through the last attention."""
    wide, inner, hidden = CHANNELS, CHANNELS // 2, 2048
    block = 4 * tokens * wide * wide + 2 * tokens * tokens * wide + 2 * tokens * wide * hidden
    crossings = 4 * tokens * wide * inner
    heads = 3 * wide * wide + read * (2 * wide * wide + wide * wide // 8)
    return 2 * (block + crossings) + 2 * read * wide * inner + heads


def package_flops(tokens: int = 8) -> float:
    """Floating-point operations of the package's decoder for one prompt, by formula: two per multiplication."""
    image, wide, inner = TOKEN_GRID**2, CHANNELS, CHANNELS // 2
    attention = 2 * image * wide * inner + 2 * tokens * image * inner
    upscaling = image * wide * wide + 4 * image * (wide // 4) * (wide // 2) + 16 * image * (wide // 8) * 4
    return 2.0 * (5 * attention + upscaling + _token_products(tokens, tokens))


def _upper(rows: int, block: int = 32) -> int:
    """Entries of a Gram matrix that are multiplied: blocks on and above the diagonal."""
    return sum(min(block, rows - start) * (rows - start) for start in range(0, rows, block))


def fast_flops(tokens: int = 8, read: int = 4) -> tuple[float, float]:
    """The same of our decoder: for one prompt, and once an image."""
    image, wide, inner, heads = TOKEN_GRID**2, CHANNELS, CHANNELS // 2, 8
    rows, all_rows, read_rows = heads * tokens, 2 * heads * tokens + 1, heads * read
    shared = image * inner
    block0 = 3 * tokens * shared
    norm1 = tokens * shared + _upper(rows) * image
    block1 = 5 * tokens * shared + 3 * rows * rows * image
    norm2 = 2 * tokens * shared + _upper(all_rows) * image
    last = 3 * read * shared + 2 * read_rows * all_rows * image
    folding = (
        tokens * inner * 17 * inner + (rows**2 + all_rows**2) * wide + (2 * tokens * rows + read * all_rows) * wide
    )
    upscaling = image * all_rows * wide + 4 * image * (wide // 4) * (wide // 2) + 16 * image * (wide // 8)
    prompt = block0 + norm1 + block1 + norm2 + last + folding + upscaling + _token_products(tokens, read)
    once = image * wide * (3 * inner + 12 * inner + wide + 1) + image * wide * (4 * wide // 4 + 16 * wide // 8)
    return 2.0 * prompt, 2.0 * once


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        choices=list(ARCHITECTURES),
        default="sam2_hiera_large",
        help="for the record; all have the same decoder",
    )
    parser.add_argument("--prompts", type=int, default=1024, help="number of points (default 1024)")
    parser.add_argument("--package-batch", type=int, default=256, help="the package's prompts at a time (default 256)")
    parser.add_argument("--batch", type=int, default=4, help="our prompts at a time (default 4)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the two take turns (default 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=DTYPES, default="float32", help="ours; the package runs in float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    heads = PackageHeads()
    maps = [torch.randn(CHANNELS, size, size) for size in (4 * TOKEN_GRID, 2 * TOKEN_GRID, TOKEN_GRID)]
    side = next(side for side in range(1, 1 << 16) if side * side >= arguments.prompts)
    points = point_grid(side)[: arguments.prompts]
    with torch.no_grad():
        decoders = {
            "package": package_decoder(heads, maps, arguments.package_batch),
            "ntt": fast_decoder(heads, maps, arguments.batch, DTYPES[arguments.precision]),
        }
        times: dict[str, list[float]] = {name: [] for name in decoders}
        cpu_times: dict[str, list[float]] = {name: [] for name in decoders}
        results: dict[str, Result] = {}
        for decoder in decoders.values():
            decoder(points[:8])
        for _ in range(arguments.repeats):
            for name, decoder in decoders.items():
                start, cpu_start = time.perf_counter(), time.process_time()
                results[name] = decoder(points)
                times[name].append((time.perf_counter() - start) / len(points) * 1e3)
                cpu_times[name].append((time.process_time() - cpu_start) / len(points) * 1e3)
    report(arguments, times, cpu_times, results)


def report(
    arguments: argparse.Namespace,
    times: dict[str, list[float]],
    cpu_times: dict[str, list[float]],
    results: dict[str, Result],
) -> None:
    """Print the figures."""
    print(f"{arguments.model}, {arguments.prompts} prompts, {arguments.threads} threads, {arguments.precision}")
    flops = {"package": package_flops(), "ntt": fast_flops()[0] + fast_flops()[1] / arguments.prompts}
    batches = {"package": arguments.package_batch, "ntt": arguments.batch}
    for name, values in times.items():
        print(
            f"{name:8} batch {batches[name]:4}: {statistics.median(values):7.2f} ms/prompt "
            f"(of {', '.join(f'{value:.2f}' for value in values)}), "
            f"processor time {statistics.median(cpu_times[name]):7.2f} ms/prompt, {flops[name] / 1e9:.2f} GFLOP/prompt"
        )
    for label, measured in (("times", times), ("processor times", cpu_times)):
        ratios = [package / ours for package, ours in zip(measured["package"], measured["ntt"], strict=True)]
        print(f"ratio of {label} by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"ratio of operations: {flops['package'] / flops['ntt']:.2f}")
    (package_logits, package_iou), (logits, iou) = results["package"], results["ntt"]
    error = float((package_logits - logits).abs().max())
    print(f"largest difference of logits: {error:.2e} (largest logit {float(package_logits.abs().max()):.2f})")
    print(f"largest difference of predicted IoU: {float((package_iou - iou).abs().max()):.2e}")


if __name__ == "__main__":
    main()
