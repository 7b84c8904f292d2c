"""Annotations of other formats to COCO files, and COCO files cut down, cut apart and put together.

- `base`: an annotation file under construction, the images of a folder
- `voc`, `yolo`, `labelme`, `plain_folder`: one format each
- `reference_pickle`: the reference implementation's lists of references
- `references_file`: sampled references as a COCO file
- `coco_files`: subset, split, merge
"""
