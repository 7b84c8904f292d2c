"""`ntt weights`: the official checkpoints."""

from pathlib import Path

import click

from ntt.base.project import WEIGHTS_ROOT
from ntt.cli.options import PATH
from ntt.errors import ConfigError

_root_option = click.option(
    "--root", type=PATH, default=WEIGHTS_ROOT, show_default=True, metavar="FOLDER", help="Folder of the weights."
)


@click.group()
def weights() -> None:
    """List, fetch and check model weights."""


@weights.command("list")
@_root_option
@click.option("--urls", is_flag=True, help="Also show the URL and the sha256 of each.")
def list_weights(root: Path, urls: bool) -> None:
    """Show all known checkpoints and which of them are on disk."""
    from ntt.models.weights import checkpoints

    width = max(map(len, checkpoints()))
    for name, entry in checkpoints().items():
        path = root / entry.path
        state = f"{path.stat().st_size / 1e6:.0f} MB" if path.is_file() else "not there"
        click.echo(f"{name:{width}}  {state:>10}  {path}")
        if urls:
            click.echo(f"{'':{width}}  {'':10}  {entry.url}  sha256 {entry.sha256}")


@weights.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_root_option
@click.option("--mirror", metavar="URL", help="Base URL instead of the official host. Default: $NTT_WEIGHTS_MIRROR.")
@click.option("--offline", is_flag=True, help="Check existing files, download nothing; also with NTT_OFFLINE=1.")
def get(names: tuple[str, ...], root: Path, mirror: str | None, offline: bool) -> None:
    """Download checkpoints, continuing what was interrupted.

    NAME is as `ntt weights list` shows it.
    """
    from ntt.base.progress import download_bars
    from ntt.models.weights import checkpoint, fetch

    for name in names:
        checkpoint(name)  # a typing error is reported before the first download
    with download_bars() as progress:
        for name in names:
            path = fetch(name, root, mirror=mirror, offline=offline, progress=progress(name))
            click.echo(f"{name}: {path} (sha256 verified)")


@weights.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_root_option
def verify(names: tuple[str, ...], root: Path) -> int:
    """Compare the sha256 of checkpoints on disk with the official one.

    Without NAME, all that are on disk. The exit status is 1 if a file is damaged, or missing though it was named.
    """
    from ntt.models.weights import checkpoint, checkpoints, fetch_command, file_digest

    on_disk = [name for name, entry in checkpoints().items() if (root / entry.path).is_file()]
    entries = [checkpoint(name) for name in names or on_disk]
    if not entries:
        raise ConfigError(
            f"There are no checkpoints in {root}. Fetch one, for example with "
            f"`{fetch_command('dinov2_vitl14', root)}`, or name another folder with --root."
        )
    status = 0
    for entry in entries:
        path = root / entry.path
        digest = file_digest(path) if path.is_file() else None
        state = "missing" if digest is None else "ok" if digest == entry.sha256 else "damaged"
        click.echo(f"{entry.name}: {state}  {path}")
        if state == "damaged":
            click.echo(f"  its sha256 is {digest}, expected {entry.sha256}")
        status |= state != "ok"
    return status
