"""Published data sets: COCO, LVIS, Pascal VOC and CD-FSOD.

- `dataset`: the schema of their options
- `details`: counts, classes and addresses, from `datasets.json`
- `check`: what differs from the published files
- `fetch`, `archives`: downloading and unpacking
- `cdfsod`: the k-shot lists of CD-FSOD
- `voc`: the annotation files made from VOCdevkit
"""

from ntt.datasets.published.dataset import PublishedConfig

__all__ = ["PublishedConfig"]
