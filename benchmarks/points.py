"""What a warm point costs where the candidates of many images are in the store, alone and as one of sixty.

    OMP_NUM_THREADS=1 python -m benchmarks.points [--images 1000] [--candidates 800] [--channels 1024] [--classes 20]

The images are noise; their candidates are ellipses around a few places, written into the store by the project's own
writer, with features that resemble those of the references. Everything after that is the project's own code. Figures
are processor milliseconds, evaluation and the writing of results included. The last line is JSON.
"""

import argparse
import json
import logging
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt.config.compose import compose_config, compose_many
from ntt.config.schema import ExperimentConfig
from ntt.ops.mask_changes import Changes
from ntt.ops.overlaps import Segments
from ntt.ops.run_lengths import to_run_lengths
from ntt.run import runner
from ntt.run.pipeline import Pipeline
from ntt.run.shared import Workspace
from ntt.run.together import match_ahead
from ntt.types import Candidates, FloatArray, ImageRecord, Json, ReferenceFeature, RunLengths

HEIGHT, WIDTH, GRID = 480, 640, 256
OBJECTS_PER_IMAGE, PLACES_PER_IMAGE = 7, 14
SHOTS, SEEDS = (1, 2, 3, 5, 10, 30), 10


@dataclass(frozen=True)
class Scale:
    """The size of the made-up data set."""

    images: int
    candidates: int
    channels: int
    classes: int


def ellipse(centre_xy: npt.NDArray[np.float64], radii_xy: npt.NDArray[np.float64]) -> list[float]:
    """Return an ellipse as a polygon, clipped to the image: x, y, x, y, ..."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = (centre_xy + radii_xy * circle).clip(0, [WIDTH - 1, HEIGHT - 1])
    return [float(value) for value in points.round(2).ravel()]


def write_data(root: Path, scale: Scale) -> None:
    """Write annotation files and images."""
    generator = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    references = scale.classes * 30
    for name, count, objects, first in (
        ("references", references, 2, 1),
        ("targets", scale.images, OBJECTS_PER_IMAGE, 1_000_001),
    ):
        images = range(first, first + count)
        for number in images:
            noise = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
            noise.resize((WIDTH, HEIGHT)).save(root / "images" / f"{number}.jpg", quality=60)
        document = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in images],
            "annotations": [
                annotation(generator, number * objects + index, number, scale.classes)
                for number in images
                for index in range(objects)
            ],
            "categories": [{"id": index + 1, "name": f"class {index}"} for index in range(scale.classes)],
        }
        (root / "annotations" / f"{name}.json").write_text(json.dumps(document))


def annotation(generator: np.random.Generator, number: int, image_id: int, classes: int) -> Json:
    """Make up an object."""
    centre, radii = generator.uniform(100, [WIDTH - 100, HEIGHT - 100]), generator.uniform(20, 90, 2)
    polygon = ellipse(centre, radii)
    (left, top), (right, bottom) = np.min([polygon[::2], polygon[1::2]], 1), np.max([polygon[::2], polygon[1::2]], 1)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": int(generator.integers(1, classes + 1)),
        "bbox": [left, top, right - left, bottom - top],
        "area": float(np.pi * radii.prod()),
        "iscrowd": 0,
        "segmentation": [polygon],
    }


def made_up_candidates(record: ImageRecord, scale: Scale) -> Candidates:
    """Make up candidates of all sizes around a few places, each of which resembles a class."""
    generator = np.random.default_rng(int(record.id))
    centres = generator.uniform(60, [WIDTH - 60, HEIGHT - 60], size=(PLACES_PER_IMAGE, 2))
    radii = generator.uniform(15, 90, size=(PLACES_PER_IMAGE, 2))
    classes = generator.integers(0, scale.classes, PLACES_PER_IMAGE)
    places = generator.integers(0, PLACES_PER_IMAGE, scale.candidates)
    centres_xy = centres[places] + generator.normal(0, 10, (scale.candidates, 2))
    masks = ellipse_masks(centres_xy, radii[places] * generator.uniform(0.5, 1.4, (scale.candidates, 2)))
    boxes_xyxy = Segments.of(masks, HEIGHT, WIDTH).boxes_xyxy
    noise = generator.normal(scale=1.2, size=(scale.candidates, scale.channels))
    features = class_directions(scale)[classes[places]] + noise
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Candidates(
        height=HEIGHT,
        width=WIDTH,
        masks=masks,
        grid_boxes_xyxy=np.floor(boxes_xyxy * np.tile([GRID / WIDTH, GRID / HEIGHT], 2)).astype(np.float32),
        predicted_iou=generator.uniform(0.4, 1, scale.candidates).astype(np.float32),
        features=features.astype(np.float16).astype(np.float32),
    )


def ellipse_masks(centres_xy: npt.NDArray[np.float64], radii_xy: npt.NDArray[np.float64]) -> RunLengths:
    """Fill ellipses, [N, 2] each, clipped to the image without its last column."""
    columns_W = np.arange(WIDTH - 1)
    (x_N1, y_N1), (across_N1, down_N1) = centres_xy.T[..., None], radii_xy.T[..., None]
    half_NW = down_N1 * np.sqrt(np.maximum(1 - ((columns_W - x_N1) / across_N1) ** 2, 0))
    edges_NW2 = np.stack([np.ceil(y_N1 - half_NW), np.floor(y_N1 + half_NW) + 1], axis=-1).clip(0, HEIGHT)
    is_filled_NW = (half_NW > 0) & (edges_NW2[..., 0] < edges_NW2[..., 1])
    edges_NW2 += ((np.arange(len(centres_xy)) * WIDTH)[:, None] + columns_W)[..., None] * HEIGHT
    flat_T = edges_NW2[is_filled_NW].ravel().astype(np.int64)
    return to_run_lengths(Changes(flat_T, len(centres_xy), HEIGHT * WIDTH))


def class_directions(scale: Scale) -> FloatArray:
    """Return the feature that the references of each class scatter around: [C, D]."""
    return np.random.default_rng(0).normal(size=(scale.classes, scale.channels)).astype(np.float32)


@dataclass(frozen=True)
class Bench:
    """A made-up data set with a filled store in a folder of its own."""

    work: Path
    scale: Scale

    def overrides(self, shots: int, seed: int) -> list[str]:
        """Return the settings of a point."""
        return [
            "dataset=coco_json",
            f"dataset.root={self.work / 'data'}",
            f"shots={shots}shot",
            f"seed={seed}",
            "visualisation.enabled=false",
            f"runtime.output_root={self.work / 'runs'}",
            f"runtime.store_root={self.work / 'store'}",
        ]

    def config(self, shots: int, seed: int) -> ExperimentConfig:
        """Compose a point."""
        return compose_config(self.overrides(shots, seed))

    def fill(self) -> None:
        """Make up the data set, and put everything that models would compute into the store."""
        write_data(self.work / "data", self.scale)
        run = Pipeline(self.config(5, 0))
        source, encoder, store = run.models.source, run.encoder, run.models.store
        for record in run.targets:
            store.write_candidates(source.key(record), made_up_candidates(record, self.scale), feature_dtype="float16")
        references, directions = run.inputs.reference_data, class_directions(self.scale)
        for instance in references.instances:
            noise = np.random.default_rng(instance.id).normal(scale=0.5, size=self.scale.channels)
            feature = (directions[instance.category_id - 1] + noise).astype(np.float32)
            key = encoder.key(instance, references.images[instance.image_id])
            store.write_reference(key, ReferenceFeature(feature, None))

    def read_ms(self) -> float:
        """Return what reading an entry costs, the median over all images."""
        run = Pipeline(self.config(5, 0))
        read = run.models.store.read_candidates
        costs = [processor_s(partial(read, run.models.source.key(record))) for record in run.targets]
        return 1000 * float(np.median(costs))

    def single_ms(self) -> float:
        """Return what a warm point costs per image, with nothing prepared; the smaller of two."""

        def work(seed: int) -> None:
            runner.run(self.config(5, seed), workspace=Workspace())

        return 1000 * min(processor_s(partial(work, seed)) for seed in (100, 101)) / self.scale.images

    def sixty_ms(self) -> float:
        """Return what each of sixty points costs per image, composing included, as a worker of a sweep runs them."""

        def work() -> None:
            workspace = Workspace()
            waiting = compose_many([self.overrides(shots, seed) for seed in range(SEEDS) for shots in SHOTS])
            while waiting:
                count = match_ahead(waiting, workspace)
                for config in waiting[:count]:
                    runner.run(config, workspace=workspace)
                waiting = waiting[count:]

        return 1000 * processor_s(work) / self.scale.images / (len(SHOTS) * SEEDS)


def processor_s(work: Callable[[], object]) -> float:
    """Return the processor seconds of something."""
    before = time.process_time()
    work()
    return time.process_time() - before


def main() -> None:
    """Fill a store and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=800)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--work", type=Path, default=None, help="folder of data, store and runs; filled if it is new")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="ntt-points-") as temporary:
        work = Path(temporary) if args.work is None else args.work.absolute()
        bench = Bench(work, Scale(args.images, args.candidates, args.channels, args.classes))
        if not (work / "data").exists():
            bench.fill()
        shutil.rmtree(work / "runs", ignore_errors=True)
        figures = {
            "single_ms_per_image": bench.single_ms(),
            "sixty_ms_per_image_and_point": bench.sixty_ms(),
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            "read_ms": bench.read_ms(),
        }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
