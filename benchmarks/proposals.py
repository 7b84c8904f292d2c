"""How good the candidates of a segmenter are, whatever they are named: recall and rank, as a Markdown table.

    python -m benchmarks.proposals FOLDER [--sets coco_dev balloon_dev] [--timed 10] [--set KEY=VALUE]

Every target image counts, and every object of any class that is not a crowd and, where a set has masks, has one.
Recall is the share of objects that some candidate reaches with an IoU above 0.5 or 0.7: of masks at full size, of boxes
where a set has boxes only; in the last columns at 0.5, by the object's share of the image. Rank correlation is that of
Spearman between predicted IoU and best true IoU over the candidates of an image, mean over the images with objects.
Seconds are processor time of `propose` alone, median over the first images, computed anew.
"""

import argparse
import time
from pathlib import Path
from statistics import mean, median

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from scipy.stats import spearmanr

from ntt.base.progress import track
from ntt.config.compose import compose_config
from ntt.data.masks import instance_rle
from ntt.ops.masks import mask_ious
from ntt.ops.overlaps import Segments
from ntt.ops.run_lengths import to_text
from ntt.run.pipeline import Pipeline
from ntt.types import Candidates, ImageRecord, Instance

# Limits of an object's share of the image.
SHARES = (0.001, 0.005, 0.02)


def best_overlaps(
    candidates: Candidates, objects: list[Instance], record: ImageRecord, *, boxes: bool
) -> npt.NDArray[np.float64]:
    """IoU of every candidate with every object, [candidates, objects]."""
    size = (record.height, record.width)
    if boxes:
        drawn = Segments.of(candidates.masks, *size).boxes_xywh.astype(np.float64)
        real = np.array([each.bbox_xywh for each in objects], dtype=np.float64)
        return np.asarray(coco_mask.iou(drawn, real, [0] * len(objects))).reshape(len(candidates), len(objects))
    return mask_ious(to_text(candidates.masks), [instance_rle(each, *size) for each in objects], *size)


def row(name: str, pipeline: Pipeline, timed: int) -> str:
    """One line of the table."""
    data = pipeline.inputs.target_data
    boxes = not any(instance.segmentation is not None for instance in data.instances)
    objects = {
        record.id: [
            instance
            for instance in data.instances_of_image(record.id)
            if not instance.iscrowd and (boxes or instance.segmentation is not None)
        ]
        for record in data.images.values()
    }
    reached, shares, ranks, counts = [], [], [], []
    for record in track(list(data.images.values()), name, unit="image", visible=True):
        candidates = pipeline.models.source.get(record)
        counts.append(len(candidates))
        of_image = objects[record.id]
        shares += [instance.area_px / (record.height * record.width) for instance in of_image]
        if not of_image or len(candidates) < 2:
            reached += [0.0] * len(of_image)
            continue
        overlap = best_overlaps(candidates, of_image, record, boxes=boxes)
        reached += overlap.max(axis=0).tolist()
        ranks.append(float(spearmanr(candidates.predicted_iou, overlap.max(axis=1)).statistic))
    seconds = [propose_s(pipeline, record) for record in list(data.images.values())[:timed]]
    best = np.array(reached)
    groups = [best[np.digitize(shares, SHARES) == group] for group in range(len(SHARES) + 1)]
    cells = [
        name + (" (boxes)" if boxes else ""),
        str(len(counts)),
        str(len(best)),
        f"{np.mean(best > 0.5):.3f}",
        f"{np.mean(best > 0.7):.3f}",
        f"{mean(counts):.0f}",
        f"{np.nanmean(ranks):.3f}",
        f"{median(seconds):.2f}" if seconds else "-",
        *(f"{np.mean(group > 0.5):.2f} of {len(group)}" if len(group) else "-" for group in groups),
    ]
    return f"| {' | '.join(cells)} |"


def propose_s(pipeline: Pipeline, record: ImageRecord) -> float:
    """Processor seconds of the segmenter for one image, the backbone's map given."""
    canvas, features = pipeline.models.source.look(record)
    start = time.process_time()
    pipeline.models.segmenter.propose(canvas, features)
    return time.process_time() - start


def main() -> None:
    """Measure every data set of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=None)
    parser.add_argument("--timed", type=int, default=10)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    roots = [path for path in sorted(args.folder.iterdir()) if (path / "annotations" / "targets.json").is_file()]
    lines = [
        "| set | images | objects | recall 0.5 | recall 0.7 | masks per image | rank correlation | `propose`, s "
        "| below 0.1 % | below 0.5 % | below 2 % | above |",
        "|" + "---|" * 12,
    ]
    for root in roots:
        if args.sets is None or root.name in args.sets:
            config = compose_config(["dataset=coco_json", f"dataset.root={root}", "shots=1shot", *args.overrides])
            lines.append(row(root.name, Pipeline(config), args.timed))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
