"""Options of the config group `dataset`: where annotation files and images are stored.

- `base`: what an option declares; annotation files that list a folder
- `coco_json`: any folder in COCO format; `exports`: with the file names of annotation tools
- `folder`: a plain folder of images
- `demo`: the pictures that come with the package, in `demo_data`
- `published`: COCO, LVIS, Pascal VOC and CD-FSOD in their official layouts; fetching and checking them
"""
