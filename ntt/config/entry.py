"""The entry into Hydra, from the command line of this process."""

import sys
from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from ntt.base.project import CONF_DIR
from ntt.config.command_line import check_overrides, plain_errors
from ntt.config.compose import from_hydra
from ntt.config.schema import ExperimentConfig

_EXIT_INTERRUPTED = 130


def run_hydra(run: Callable[[ExperimentConfig], float | None]) -> None:
    """Let Hydra compose the configuration, or those of a multirun, and call a function with each.

    Ends the program with one line on standard error for a mistake of the user and for Ctrl-C.
    """
    check_overrides(sys.argv[1:])

    @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
    def experiment(cfg: DictConfig) -> float | None:
        with plain_errors():
            return run(from_hydra(cfg))

    try:
        experiment()
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. The same command again goes on where this one stopped.\n")
        raise SystemExit(_EXIT_INTERRUPTED) from None
