"""Pictures of what a run finds: arrays in, PIL images out. Nothing here reads or writes a file, fonts aside.

colours       one colour per class
text          fonts, measured text, labels
instances     an image with its instances: masks, boxes, labels
feature_maps  features and similarities
sheets        pictures in a grid with their captions: ground truth next to predictions; references
quality       the number that ranks images
"""
