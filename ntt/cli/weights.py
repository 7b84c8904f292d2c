"""`ntt weights`: the official checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import click

from ntt.base.project import WEIGHTS_ROOT
from ntt.cli.options import PATH
from ntt.errors import ConfigError

_root_option = click.option("--root", type=PATH, default=WEIGHTS_ROOT, metavar="FOLDER", help="Folder of the weights.")


@click.group()
def weights() -> None:
    """List, fetch and check model weights."""


@weights.command("list")
@_root_option
def list_weights(root: Path) -> None:
    """Show all checkpoints. Their size, licence, whether they are on disk, and the options that need them."""
    from ntt.models.weights import checkpoints
    from ntt.run.table import align

    options = _options_by_checkpoint()
    rows = [("checkpoint", "MB", "licence", "on disk", "needed by")]
    for name, entry in checkpoints().items():
        state = "yes" if (root / entry.path).is_file() else "no"
        rows.append((name, f"{entry.size_mb:,}", entry.licence, state, "  ".join(options.get(name, ()))))
    width = max(len(row[-1]) for row in rows)
    click.echo("\n".join(align([(*row[:-1], row[-1].ljust(width)) for row in rows])))
    click.echo("\nFetch those of a run, for example: ntt weights get --for backbone=dinov2_vitl14 segmenter=sam2")


def _options_by_checkpoint() -> dict[str, list[str]]:
    """Return the project's options that need each checkpoint, as typed on a command line."""
    from ntt.base.project import CONF_DIR
    from ntt.base.yaml_files import read_yaml

    options: dict[str, list[str]] = {}
    for path in sorted(CONF_DIR.glob("*/*.yaml")):
        if path.parent.name in ("backbone", "segmenter"):
            content = read_yaml(path.read_bytes(), where=str(path))
            options.setdefault(content.get("model", ""), []).append(f"{path.parent.name}={path.stem}")
    return options


@weights.command()
@click.argument("names", nargs=-1, metavar="[NAME | KEY=VALUE]...")
@click.option("--for", "of_run", is_flag=True, help="What a run needs; its settings follow, as for `ntt run`.")
@_root_option
@click.option("--mirror", metavar="URL", help="Base URL instead of the official host. Default: $NTT_WEIGHTS_MIRROR.")
@click.option("--offline", is_flag=True, help="Check existing files, download nothing; also with NTT_OFFLINE=1.")
def get(names: tuple[str, ...], of_run: bool, root: Path, mirror: str | None, offline: bool) -> None:
    """Download checkpoints; an interrupted download resumes.

    NAME is as `ntt weights list` shows it.

    \b
    ntt weights get dinov2_vitl14 sam2_hiera_large
    ntt weights get --for experiment=coco_novel20
    ntt weights get --for backbone=dinov2_vits14 segmenter=sam2_tiny
    """
    from ntt.models.weights import checkpoint, fetch

    if not names:
        raise click.UsageError("Name a checkpoint, or settings of a run after --for.")
    needed, root = _of_run(names, root) if of_run else (list(names), root)
    for name in needed:
        checkpoint(name)  # typing errors are reported before the first download
    if not needed:
        click.echo("These settings need no checkpoint.")
    for name in needed:
        path = fetch(name, root, mirror=mirror, offline=offline)
        click.echo(f"{name}: {path} (sha256 verified)")


def _of_run(overrides: Sequence[str], root: Path) -> tuple[list[str], Path]:
    """Return the checkpoints that a run reads, and the folder it looks in unless `root` is given."""
    from ntt.config.compose import compose_config
    from ntt.models.weights import checkpoints

    config = compose_config(overrides)
    models = [vars(group) for group in (config.backbone, config.segmenter)]
    names = [model["model"] for model in models if model.get("model") in checkpoints() and not model.get("weights")]
    return names, Path(config.runtime.weights_root).expanduser() if root == Path(WEIGHTS_ROOT) else root


@weights.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_root_option
def verify(names: tuple[str, ...], root: Path) -> int:
    """Compare the sha256 of checkpoints on disk with the official one.

    Without NAME, all that are on disk. The exit status is 1 if a file is damaged, or named but missing.
    """
    from ntt.models.weights import checked_digest, checkpoint, checkpoints, fetch_command

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
        digest = checked_digest(path) if path.is_file() else None
        state = "missing" if digest is None else "ok" if digest == entry.sha256 else "damaged"
        click.echo(f"{entry.name}: {state}  {path}")
        if state == "damaged":
            click.echo(f"  its sha256 is {digest}, expected {entry.sha256}")
        status |= state != "ok"
    return status
