"""Where the project is installed, and where it writes by default."""

from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parents[2]
"""The folder that holds `ntt/`: the clone, or the packages of an environment."""

_INSTALLED = PROJECT_DIR / "ntt" / "_project"

CONFIG_ROOT = _INSTALLED if _INSTALLED.is_dir() else PROJECT_DIR
"""The folder that holds `conf/`, `experiments/` and `sweeps/`: the clone, or a folder of the installed package."""

CONF_DIR = CONFIG_ROOT / "conf"

OUTPUT_ROOT = "outputs"
STORE_ROOT = "outputs/store"
WEIGHTS_ROOT = "checkpoints"
"""Defaults of the settings `runtime.output_root`, `runtime.store_root` and `runtime.weights_root`."""
