"""Training-free, reference-based instance segmentation as an experiment framework."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntt.predictor import Found as Found
    from ntt.predictor import Predictor as Predictor
    from ntt.predictor import Reference as Reference
    from ntt.predictor import references_from_folder as references_from_folder

__version__ = "0.1.0"

_IN_PREDICTOR = ("Found", "Predictor", "Reference", "references_from_folder")


def __getattr__(name: str) -> Any:
    """Load the Python API when it is first used: importing `ntt` alone stays cheap."""
    if name not in _IN_PREDICTOR:
        raise AttributeError(f"module 'ntt' has no attribute {name!r}")
    from ntt import predictor

    return getattr(predictor, name)
