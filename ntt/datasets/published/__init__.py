"""Published data sets: COCO, LVIS, Pascal VOC and CD-FSOD.

- `details`: counts, classes and addresses, from `datasets.json`
- `check`: what differs from the published files
- `fetch`, `archives`: downloading, unpacking, and the annotation files of VOC and LVIS minival
- `cdfsod`: the k-shot lists of CD-FSOD
"""
