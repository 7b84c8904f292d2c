"""The published data sets: what each must hold, checking it, fetching it."""

from ntt.datasets.published.dataset import PublishedConfig

__all__ = ["PublishedConfig"]
