"""`ntt references`: what to expect from drawn references, before anything is searched with them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ntt.cli.options import FORMAT, PATH, overrides_argument

if TYPE_CHECKING:
    from ntt.reports.tables import Format


@click.group()
def references() -> None:
    """Check and rank the references of a run."""


@references.command()
@overrides_argument
@click.option("--format", "table_format", type=FORMAT, default="markdown", help="Of the tables.")
@click.option("--out", type=PATH, metavar="FOLDER", help="Write tables and a sheet of pictures there.")
def check(overrides: tuple[str, ...], table_format: "Format", out: Path | None) -> None:
    """Tell the AP to expect, and rank the references.

    Each reference image is searched with the references on the others. Prints per class the AP to expect and a
    score threshold, which matcher the references prefer, and which references agree with the others of their class
    or stand apart. Settings are those of a run; matcher=auto, which compares matchers, is the default.

    \b
    ntt references check dataset=coco_json dataset.root=my_data shots=5shot
    ntt references check dataset=folder dataset.root=my_folder shots=all matcher=ntt --out check
    """
    from ntt.cli.reference_check import check_settings

    check_settings(overrides, table_format, out)


# The same search answers both questions.
references.add_command(check, "rank")
