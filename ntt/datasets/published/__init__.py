"""Published data sets: COCO, LVIS, Pascal VOC and CD-FSOD.

- `dataset`: the schema of their options
- `details`: counts, classes and addresses, from `datasets.json`
- `check`, `leakage`: what differs from the published files; targets among the references
- `fetch`, `archives`: downloading and unpacking
- `voc`, `lvis`: the annotation files made from what was downloaded
"""

from ntt.datasets.published.dataset import PublishedConfig

__all__ = ["PublishedConfig"]
