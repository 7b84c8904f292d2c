"""Metrics of detections: COCO's and LVIS' AP and AR, semantic mIoU, false positives on negative images.

ground_truth       the objects of a targets file, prepared once per process
federated          which classes LVIS' annotators searched for in which images
table              detections of all images as flat columns
matching           which detection finds which object
precision_recall   curves from matches, equal to those of pycocotools and `lvis` in every digit
curves             the choices; thresholds, area ranges, and the averages of curves
semantic           one label per pixel, and its mIoU
rejection          false positives on images without objects
thresholds         precision, recall and F1 at score thresholds, and the threshold to propose
proposals          candidate recall: how many objects the proposals cover
"""
