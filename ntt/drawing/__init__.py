"""Pictures of what a run finds: arrays in, PIL images out. Nothing here reads or writes a file, fonts aside.

colours       one colour per class
text          fonts, measured text, labels
instances     an image with its instances: masks, boxes, labels
comparison    ground truth beside predictions
feature_maps  features and similarities
sheets        pages of references, of best and of worst images
layout        pictures side by side with their captions
quality       the number that ranks images
"""

from ntt.drawing.comparison import draw_comparison
from ntt.drawing.feature_maps import draw_feature_pca, draw_similarity_map
from ntt.drawing.instances import DrawnInstances, draw_instances
from ntt.drawing.quality import image_quality
from ntt.drawing.sheets import cut_reference_tile, draw_contact_sheet, draw_reference_pages

__all__ = [
    "DrawnInstances",
    "cut_reference_tile",
    "draw_comparison",
    "draw_contact_sheet",
    "draw_feature_pca",
    "draw_instances",
    "draw_reference_pages",
    "draw_similarity_map",
    "image_quality",
]
