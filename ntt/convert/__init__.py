"""Conversion of other annotation formats to COCO; subsets, splits and merges of COCO files.

- `base`: an annotation file under construction, the images of a folder
- `voc`, `yolo`, `labelme`, `plain_folder`: one format each
- `references`: sampled references, and the reference implementation's lists, as a COCO file
- `coco_files`: subset, split, merge
"""
