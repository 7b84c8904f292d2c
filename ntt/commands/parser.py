"""The parser of the console script: settings may stand anywhere on the command line."""

import argparse
from collections.abc import Sequence


class CommandParser(argparse.ArgumentParser):
    """Takes settings (KEY=VALUE) before and after options; argparse by itself wants all positional words in one place.

    The parsers of its commands are of this kind, too. Only commands that have `overrides` take settings.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Add settings that argparse has left over to those it has found."""
        found, rest = super().parse_known_args(args, namespace)
        if not hasattr(found, "overrides"):
            return found, rest
        late = [word for word in rest if "=" in word and not word.startswith("-")]
        found.overrides = [*found.overrides, *late]
        return found, [word for word in rest if word not in late]
