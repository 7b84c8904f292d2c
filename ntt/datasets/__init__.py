"""Options of the config group `dataset`: where annotation files and images are stored.

- `base`: what an option declares; annotation files that list a folder
- `folders`: folders of the user's in COCO format, published data sets, plain folders of images
- `exports`: the file names of annotation tools
- `demo`: the pictures that come with the package, in `demo_data`
- `published`: COCO, LVIS, Pascal VOC and CD-FSOD in their official layouts; fetching and checking them
"""
