"""Mask proposers: options of the config group `segmenter`.

base      what a segmenter is, and the base schema
regions   region hierarchies; needs no weights
sam2      SAM 2 with a grid of points
"""
