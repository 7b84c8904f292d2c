"""The program that `python main.py` and `ntt run` start."""

from ntt.config.command_line import run_hydra
from ntt.config.schema import ExperimentConfig
from ntt.run.runner import run
from ntt.run.shared import process_workspace


def main() -> None:
    """Run the experiment of this process' command line, or its experiments with --multirun."""
    run_hydra(_run)


def _run(config: ExperimentConfig) -> float | None:
    return run(config, workspace=process_workspace())
