"""What commands have in common: types of parameters, settings of a run, and the check of an output file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ntt.errors import ConfigError


class _UserPath(click.Path):
    """A path in which `~` is expanded to the home folder, also after `--option=`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111


PATH = _UserPath(path_type=Path)
FORMAT = click.Choice(("markdown", "csv", "latex"))
"""Formats of tables, as in `ntt.reports.tables`."""

overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
"""Settings of a run; they may be given between and after options."""

output_option = click.option("--output", type=PATH, required=True, metavar="FILE", help="Annotation file to write.")


def check_output(output: Path, *, sources: Sequence[Path] = ()) -> None:
    """Raise a ConfigError if an output file exists already; `sources` are the files that the command reads."""
    if output.exists() and any(source.exists() and output.samefile(source) for source in sources):
        raise ConfigError(
            f"--output={output} is the annotation file itself, which is never changed. Name another file."
        )
    if output.exists():
        raise ConfigError(f"--output={output} exists already. Name another file, or delete it first.")
