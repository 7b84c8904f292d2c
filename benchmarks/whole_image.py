"""One image from pixels to detections: `ntt` against the reference's way of computing it, time and peak memory.

    python -m benchmarks.whole_image IMAGE --threads 1

SAM2 and DINOv2 find and describe the masks of a 32 x 32 grid of points, 20 random unit vectors serve as prototypes, so
that no references are needed. The reference's way is written out in `benchmarks.reference_way`; at a full grid it needs
about 9 GB. Every way runs in a process of its own, one after another, so that the peak memory (the process's largest
resident size, libraries and weights included) is its own; loading the weights and compiling loops are not measured. The
image encoders are the same work in both.

Without --sam2-weights and --dinov2-weights the networks are filled by a fixed rule. Their masks then are noise all over
the image, and predicted IoUs mean nothing, so no threshold is applied and every prompt gives a candidate; as all boxes
are nearly the whole image, suppression leaves few. `--masks discs` puts discs of random place and size in the place of
the decoder's masks once these are computed and timed: what follows then sees masks of a natural shape, of which
suppression leaves many.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WAYS = ("reference", "ntt")
PARTS = ("image to canvas", "SAM2 image encoder", "SAM2 decoder", "DINOv2", "pooling", "masks, matching, merging")
CLASSES = 20
GIB = 1 << 30


def main() -> None:
    """Run the ways in turn and print the tables, or run one way when called by itself."""
    arguments = parse()
    if arguments.way is not None:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        options = prepare(arguments, Path(folder))
        ways = ["ntt"] if arguments.without_reference else list(WAYS)
        if arguments.precision != "float32":
            ways.append(arguments.precision)
        results: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way in ways:
                results[way].append(run_in_process(way, options))
    report(arguments, results)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="any image file")
    parser.add_argument("--sam2-model", default="sam2_hiera_tiny")
    parser.add_argument("--sam2-weights", type=Path, help="official checkpoint (default: filled by rule)")
    parser.add_argument("--dinov2-model", default="dinov2_vits14")
    parser.add_argument("--dinov2-weights", type=Path, help="official checkpoint (default: filled by rule)")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--min-predicted-iou", type=float, help="default: 0.4, or 0 with filled weights")
    parser.add_argument("--masks", choices=("decoder", "discs"), default="decoder", help="what is pooled and matched")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds; the ways take turns (default 1)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="a further run of ours")
    parser.add_argument(
        "--emulate", action="store_true", help="compute bfloat16 also where the CPU lacks it: slow, for agreement only"
    )
    parser.add_argument("--without-reference", action="store_true", help="run ours only")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Write the weights that are not given and compile loops; return the options that decide what every way is shown.

    Done by processes of their own, since a child's peak memory starts at its parent's.
    """
    subprocess.run([sys.executable, "-c", "import benchmarks.our_way as way; way.compile_loops()"], check=True)
    options: list[str] = []
    for kind in ("sam2", "dinov2"):
        path = getattr(arguments, f"{kind}_weights")
        if path is None:
            path = folder / f"{kind}.pt"
            code = f"import sys, benchmarks.whole_image as b; b.fill_{kind}(*sys.argv[1:])"
            command = [sys.executable, "-c", code, getattr(arguments, f"{kind}_model"), str(path)]
            subprocess.run(command, check=True)
        options += [f"--{kind}-weights", str(path)]
    return [*options, "--min-predicted-iou", str(threshold(arguments))]


def threshold(arguments: argparse.Namespace) -> float:
    """The published threshold of predicted IoU with real weights, none with filled ones."""
    if arguments.min_predicted_iou is not None:
        return float(arguments.min_predicted_iou)
    return 0.0 if arguments.sam2_weights is None else 0.4


def fill_sam2(model: str, path: str) -> None:
    """Write a SAM2 checkpoint filled by the rule of the tests; memory parts are left out."""
    import torch

    from benchmarks.sam2_decoder import PackageHeads
    from ntt.models.segmenters.sam2.model import build_image_encoder
    from tests.filled_weights import filled_tensors

    encoder = {f"image_encoder.{name}": value for name, value in build_image_encoder(model).state_dict().items()}
    shapes = {name: value.shape for name, value in {**encoder, **PackageHeads().state_dict()}.items()}
    if model.startswith("sam2.1"):
        shapes["no_obj_embed_spatial"] = torch.Size((1, 64))  # by which checkpoints of 2.1 are known
    torch.save({"model": filled_tensors(shapes)}, path)


def fill_dinov2(model: str, path: str) -> None:
    """Write a DINOv2 checkpoint filled by the rule of the tests."""
    import torch

    from ntt.models.backbones.dinov2 import VARIANTS
    from tests.dinov2_layout import meta_shapes
    from tests.filled_weights import filled_tensors

    size = VARIANTS[model]
    hidden = 4096 if "vitg" in model else None
    shapes = meta_shapes(dim=size.feature_dim, depth=size.depth, registers=size.registers, swiglu_hidden=hidden)
    torch.save(filled_tensors(shapes), path)


def run_in_process(way: str, options: list[str]) -> dict[str, Any]:
    """Run one way in a process of its own, with this call's arguments."""
    command = [sys.executable, "-m", "benchmarks.whole_image", *sys.argv[1:], *options, "--way", way]
    printed: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return printed


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one way on one image: times by part, peak memory and the detections."""
    import torch

    from benchmarks.parts import Clock

    torch.set_num_threads(arguments.threads)
    clock = Clock()
    name = "benchmarks.reference_way" if arguments.way == "reference" else "benchmarks.our_way"
    way: Any = importlib.import_module(name)
    shown = shown_to(arguments)
    models = way.load_models(shown)
    loaded = peak_bytes()
    detections = way.detect(shown, models, clock)
    return {
        "wall": clock.wall,
        "cpu": clock.cpu,
        "loaded": loaded,
        "peak": peak_bytes(),
        "size": [detections.height, detections.width],
        "labels": detections.labels.tolist(),
        "scores": detections.scores.tolist(),
        "rles": [rle.decode("ascii") for rle in detections.rles],
        "notes": clock.notes,
    }


def peak_bytes() -> int:
    """Return the largest resident size this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def shown_to(arguments: argparse.Namespace) -> Any:
    """Read the image and draw the prototypes."""
    import numpy as np
    import torch
    from PIL import Image

    from benchmarks.parts import Shown
    from ntt.models.backbones.dinov2 import VARIANTS

    with Image.open(arguments.image) as image:
        pixels = np.array(image.convert("RGB"))
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(CLASSES, VARIANTS[arguments.dinov2_model].feature_dim, generator=random)
    return Shown(
        image_HW3=pixels,
        prototypes_PD=torch.nn.functional.normalize(vectors, dim=1),
        sam2_model=arguments.sam2_model,
        sam2_weights=arguments.sam2_weights,
        dinov2_model=arguments.dinov2_model,
        dinov2_weights=arguments.dinov2_weights,
        points_per_side=arguments.points_per_side,
        min_predicted_iou=arguments.min_predicted_iou,
        precision="float32" if arguments.way in WAYS else arguments.way,
        emulate=arguments.emulate,
        discs=arguments.masks == "discs",
    )


def report(arguments: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> None:
    """Print the tables."""
    print(describe_setting(arguments, results))
    names = {way: f"ntt {way}" if way not in WAYS else way for way in results}
    for quantity, unit in (("wall", "wall-clock seconds"), ("cpu", "processor seconds")):
        print(f"\n{unit:26}" + "".join(f"{names[way]:>15}" for way in results) + f"{'reference/ntt':>15}")
        for part in (*PARTS, "total"):
            times = {way: median_time(runs, quantity, part) for way, runs in results.items()}
            print(f"{part:26}" + "".join(f"{value:15.3f}" for value in times.values()) + ratio(times))
    print(f"\n{'memory, GiB':26}" + "".join(f"{names[way]:>15}" for way in results) + f"{'reference/ntt':>15}")
    for key in ("loaded", "peak"):
        sizes = {way: statistics.median(run[key] for run in runs) / GIB for way, runs in results.items()}
        print(f"{key:26}" + "".join(f"{value:15.2f}" for value in sizes.values()) + ratio(sizes))
    for way, runs in results.items():
        notes = ", ".join(f"{value} {key}" for key, value in runs[0]["notes"].items())
        print(f"\n{names[way]}: {notes}, {len(runs[0]['scores'])} detections", end="")
    print()
    for other in (way for way in results if way != "ntt"):
        print(agreement(results["ntt"][0], results[other][0], names[other]))
    if "reference" in results:
        cost = {way: median_time(results[way], "cpu", "total") for way in WAYS}
        peak = {way: statistics.median(run["peak"] for run in results[way]) for way in WAYS}
        ratios = {"ratio_processor": cost["reference"] / cost["ntt"], "ratio_memory": peak["reference"] / peak["ntt"]}
        print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))


def describe_setting(arguments: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> str:
    """One paragraph: image, models, weights, threshold, masks, threads, load."""
    weights = ", ".join(
        f"{getattr(arguments, f'{kind}_model')} ({getattr(arguments, f'{kind}_weights') or 'filled by rule'})"
        for kind in ("sam2", "dinov2")
    )
    height, width = results["ntt"][0]["size"]
    iou = threshold(arguments)
    masks = "the decoder's masks" if arguments.masks == "decoder" else "discs in place of the decoder's masks"
    return (
        f"{arguments.image.name}, {width} x {height}; {weights}; {arguments.points_per_side**2} prompts, "
        f"{'no threshold of predicted IoU' if iou == 0 else f'predicted IoU > {iou:g}'}; {masks}; {CLASSES} classes; "
        f"{arguments.threads} thread(s) of {os.cpu_count()}, load {os.getloadavg()[0]:.1f}; {arguments.rounds} round(s)"
    )


def median_time(runs: list[dict[str, Any]], quantity: str, part: str) -> float:
    """The median over rounds of one part's seconds, or of all parts together."""
    times = [sum(run[quantity].values()) if part == "total" else run[quantity][part] for run in runs]
    return float(statistics.median(times))


def ratio(values: dict[str, float]) -> str:
    """The last column."""
    return f"{values['reference'] / values['ntt']:15.2f}" if "reference" in values else ""


def agreement(ours: dict[str, Any], other: dict[str, Any], name: str, ours_name: str = "ntt in float32") -> str:
    """How well another run's detections agree with ours in float32: each is paired with the best mask of its label."""
    import numpy as np
    from pycocotools import mask as coco_mask

    overlaps, differences = [], []
    for label, score, rle in zip(ours["labels"], ours["scores"], ours["rles"], strict=True):
        same = [k for k, other_label in enumerate(other["labels"]) if other_label == label]
        if not same:
            overlaps.append(0.0)
            continue
        coded = [
            {"size": ours["size"], "counts": counts.encode()} for counts in (rle, *(other["rles"][k] for k in same))
        ]
        iou = coco_mask.iou(coded[:1], coded[1:], [0] * len(same))[0]
        overlaps.append(float(iou.max()))
        differences.append(abs(score - other["scores"][same[int(iou.argmax())]]))
    if not overlaps:
        return f"{name}: nothing to compare"
    return (
        f"{name} against {ours_name}: matched mask IoU median {np.median(overlaps):.5f}, least {min(overlaps):.5f}, "
        f"above 0.9 {np.mean(np.array(overlaps) > 0.9):.1%}; score difference median {np.median(differences):.1e}, "
        f"largest {max(differences, default=float('nan')):.1e}"
    )


if __name__ == "__main__":
    main()
