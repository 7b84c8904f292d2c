"""`ntt weights`: list, fetch and check the official checkpoints."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.cli.bar import Bar
from ntt.errors import ConfigError
from ntt.models.weights import (
    DEFAULT_ROOT,
    MIRROR_VARIABLE,
    OFFLINE_VARIABLE,
    checkpoint,
    checkpoints,
    fetch,
    fetch_command,
    verify,
)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_weights_commands(subparsers: "Subparsers") -> None:
    """Add `weights list|get|verify` to the commands of a parser.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned.
    """
    weights = subparsers.add_parser("weights", help="list, fetch and check model weights", description=__doc__)
    weights.set_defaults(handler=run_weights)
    actions = weights.add_subparsers(dest="weights_action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="show all known checkpoints and which of them are on disk")
    listing.add_argument("--urls", action="store_true", help="also show the URL and the sha256 of each")
    getting = actions.add_parser("get", help="download checkpoints, continuing what was interrupted")
    getting.add_argument("names", nargs="+", metavar="NAME", help="as `ntt weights list` shows it")
    getting.add_argument(
        "--mirror", help=f"base URL that takes the place of the official host (default: ${MIRROR_VARIABLE}, if set)"
    )
    getting.add_argument(
        "--offline", action="store_true", help=f"check what is there, download nothing (also with {OFFLINE_VARIABLE}=1)"
    )
    checking = actions.add_parser("verify", help="compare the sha256 of checkpoints on disk with the official one")
    checking.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all that are on disk)")
    for action in (listing, getting, checking):
        action.add_argument(
            "--root", type=Path, default=DEFAULT_ROOT, help="folder of the weights (default: %(default)s)"
        )


def run_weights(args: argparse.Namespace) -> int:
    """Carry out a parsed `ntt weights` command.

    Args:
        args: as parsed by a parser with `add_weights_commands`.

    Returns:
        The exit status: 0, or 1 if `verify` found a file damaged, or one asked for by name missing.

    Raises:
        NttError: for a name that is not known, or a checkpoint that cannot be fetched.
    """
    if args.weights_action == "list":
        return _list(args.root, with_urls=args.urls)
    if args.weights_action == "get":
        return _get(args.names, args.root, mirror=args.mirror, offline=args.offline)
    return _verify(args.names, args.root)


def _echo(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _list(root: Path, *, with_urls: bool) -> int:
    width = max(map(len, checkpoints()))
    for name, entry in checkpoints().items():
        path = root / entry.path
        state = f"{path.stat().st_size / 1e6:.0f} MB" if path.is_file() else "not there"
        _echo(f"{name:{width}}  {state:>10}  {path}")
        if with_urls:
            _echo(f"{'':{width}}  {'':10}  {entry.url}  sha256 {entry.sha256}")
    return 0


def _get(names: list[str], root: Path, *, mirror: str | None, offline: bool) -> int:
    for name in names:
        checkpoint(name)  # a typing error is told before the first download
    for name in names:
        bar = Bar(name)
        try:
            path = fetch(name, root, mirror=mirror, offline=offline, progress=bar.show)
        finally:
            bar.close()
        _echo(f"{name}: {path} (sha256 verified)")
    return 0


def _verify(names: list[str], root: Path) -> int:
    states = verify(root, names or [name for name, entry in checkpoints().items() if (root / entry.path).is_file()])
    if not states:
        raise ConfigError(
            f"There are no checkpoints in {root}. Fetch one, for example with "
            f"`{fetch_command('dinov2_vitl14', root)}`, or name another folder with --root."
        )
    for state in states:
        _echo(f"{state.name}: {state.state}  {state.path}")
        if state.state == "damaged":
            _echo(f"  its sha256 is {state.sha256}, expected {checkpoint(state.name).sha256}")
    return int(any(state.state != "ok" for state in states))
