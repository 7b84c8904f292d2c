"""SAM2 segmenter: the package's image encoder, and a mask decoder built for one image and a thousand prompts.

`segmenter` settings and the segmenter; `model` the eight models and their checkpoints; `prompts` grid and embedding;
`folding` the decoder's weights, multiplied together once; `image_terms` what the prompts of an image share; `decoder`
the transformer; `upscaling` masks; `products` what these have in common; `fused` the decoder in a few GPU kernels,
which are in `kernels`.
"""

from ntt.models.segmenters.sam2.segmenter import Sam2, Sam2Config

__all__ = ["Sam2", "Sam2Config"]
