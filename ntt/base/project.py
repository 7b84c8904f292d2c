"""Where the project lies."""

from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parents[2]
"""The folder that holds `conf/`, `experiments/` and `sweeps/`."""

CONF_DIR = PROJECT_DIR / "conf"
