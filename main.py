"""One experiment from images to metrics: `python main.py dataset=demo shots=5shot seed=0`."""

import sys

import hydra
from omegaconf import DictConfig

from ntt import config, console, runner
from ntt.standard_streams import outlive_readers
from ntt.workspace import process_workspace


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def experiment(cfg: DictConfig) -> float | None:
    """Run one point; returns box AP in percent."""
    with console.plain_errors():
        return runner.run(config.from_hydra(cfg), workspace=process_workspace())


if __name__ == "__main__":
    outlive_readers()
    console.check_overrides(sys.argv[1:])
    experiment()
