"""Annotation files, images, masks, class splits and the drawing of references.

- `documents`: annotation files as JSON, with ids in one form
- `coco`: reads and checks a file in COCO format; `coco_entries`, `coco_annotations` and `box_agreement` are its parts
- `comparison`: compares references with targets
- `images`: image files as RGB, and checks of them and of their names; `pixels`: how pixels become 8-bit RGB
- `masks`: masks of annotated objects
- `splits`: the classes of an experiment
- `sampling`, `references`: which instances serve as references, and their record
"""
