"""Annotation files, images, masks, class splits and the drawing of references.

- `coco`: reads and checks a file in COCO format; `coco_entries` and `coco_annotations` are its parts
- `images`: image files as RGB, and checks of them
- `masks`: masks of annotated objects
- `splits`: the classes of an experiment
- `sampling`, `references`: which instances serve as references, and their record
"""
