"""Training-free, reference-based instance segmentation as an experiment framework.

Floors, from the bottom: base · ops · data, store · models, matchers, evaluation, drawing, trackers, convert ·
datasets, stages · config · run · reports, predictor · sweeps · cli. Each imports from lower ones only.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntt.predictor import Prediction as Prediction
    from ntt.predictor import Predictor as Predictor
    from ntt.predictor import Reference as Reference
    from ntt.predictor import references_from_folder as references_from_folder
    from ntt.sweeps.records import load_runs as load_runs

__version__ = "0.1.0"

_IN_PREDICTOR = ("Prediction", "Predictor", "Reference", "references_from_folder")
_MODULES = {**dict.fromkeys(_IN_PREDICTOR, "ntt.predictor"), "load_runs": "ntt.sweeps.records"}


def __getattr__(name: str) -> Any:
    """Load the Python API when it is first used: importing `ntt` alone stays cheap."""
    if name not in _MODULES:
        raise AttributeError(f"module 'ntt' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
