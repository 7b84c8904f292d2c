"""One experiment from images to metrics: `python main.py dataset=demo shots=5shot seed=0`."""

import sys

import hydra
from omegaconf import DictConfig

from ntt.base.standard_streams import outlive_readers
from ntt.config.command_line import check_overrides, plain_errors
from ntt.config.compose import from_hydra
from ntt.run.runner import run
from ntt.run.shared import process_workspace


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def experiment(cfg: DictConfig) -> float | None:
    """Run one point; returns box AP in percent."""
    with plain_errors():
        return run(from_hydra(cfg), workspace=process_workspace())


if __name__ == "__main__":
    outlive_readers()
    check_overrides(sys.argv[1:])
    experiment()
