"""Conversion of other annotation formats to COCO; subsets, splits and merges of COCO files.

- `base`: an annotation file under construction
- `folders`: the files of a folder, links followed, nothing silently ignored
- `voc`, `yolo`, `labelme`, `plain_folder`: one format each
- `references`: sampled references, and the reference implementation's lists, as a COCO file
- `coco_files`: subset, split, merge
- `detections`: a run's detections for LabelMe, CVAT, Label Studio
"""
