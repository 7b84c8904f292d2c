"""Conversion of other annotation formats to COCO; subsets, splits and merges of COCO files.

- `base`: an annotation file under construction
- `folders`: the files of a folder, links followed, nothing passed over in silence
- `voc`, `yolo`, `labelme`, `plain_folder`: one format each
- `references`: sampled references, and the reference implementation's lists, as a COCO file
- `coco_files`: subset, split, merge
- `detections`: what a run has found, for LabelMe, CVAT, Label Studio
"""
