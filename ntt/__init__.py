"""Training-free, reference-based instance segmentation as an experiment framework."""

__version__ = "0.1.0"
