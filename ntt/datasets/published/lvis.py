"""LVIS v1 minival, made from val: the images that belong to COCO's val2017."""

from pathlib import Path

from ntt.base.files import write_json
from ntt.convert.coco_files import read_whole
from ntt.errors import DataError

VAL = "lvis_v1_val.json"
MINIVAL = "lvis_v1_minival.json"


def write_minival(root: Path) -> Path | None:
    """Write `lvis_v1_minival.json` beside `lvis_v1_val.json`; return it, or None where it was there already."""
    target = root / MINIVAL
    if target.is_file():
        return None
    val = read_whole(root / VAL)
    images = [image for image in val["images"] if image.get("coco_url", "").split("/")[-2:-1] == ["val2017"]]
    if not images:
        raise DataError(f"{root / VAL} names no image of val2017 in `coco_url`. Fetch it again.")
    image_ids = {image["id"] for image in images}
    annotations = [entry for entry in val["annotations"] if entry["image_id"] in image_ids]
    write_json(target, {**val, "images": images, "annotations": annotations}, indent=None)
    return target
