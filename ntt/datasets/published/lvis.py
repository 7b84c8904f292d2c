"""LVIS v1 minival, made from val: the images that belong to COCO's val2017."""

from pathlib import Path

from ntt.base.files import read_json, write_json
from ntt.errors import DataError

VAL = "lvis_v1_val.json"
MINIVAL = "lvis_v1_minival.json"


def write_minival(root: Path) -> Path | None:
    """Write `lvis_v1_minival.json` unless it is there.

    Args:
        root: the folder that holds `lvis_v1_val.json`.

    Returns:
        The file, or None where nothing was to be done.

    Raises:
        DataError: if val is missing or has no image of val2017.
    """
    target = root / MINIVAL
    if target.is_file():
        return None
    if not (root / VAL).is_file():
        raise DataError(f"There is no {root / VAL}, from which {MINIVAL} is made. Fetch it with `ntt data get lvis`.")
    val = read_json(root / VAL)
    images = [image for image in val["images"] if image.get("coco_url", "").split("/")[-2:-1] == ["val2017"]]
    if not images:
        raise DataError(f"{root / VAL} names no image of val2017 in `coco_url`. Fetch it again.")
    kept = {image["id"] for image in images}
    annotations = [one for one in val["annotations"] if one["image_id"] in kept]
    write_json(target, {**val, "images": images, "annotations": annotations}, indent=None)
    return target
