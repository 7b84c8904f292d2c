"""SAM2 segmenter: the package's image encoder, and a mask decoder made for one image and a thousand prompts."""

from ntt.models.segmenters.sam2.config import Sam2Config
from ntt.models.segmenters.sam2.segmenter import Sam2

__all__ = ["Sam2", "Sam2Config"]
