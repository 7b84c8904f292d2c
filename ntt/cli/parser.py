"""The parser of the console script: settings may stand anywhere on the command line."""

import argparse
import shlex
from collections.abc import Sequence


class CommandParser(argparse.ArgumentParser):
    """Takes settings (KEY=VALUE) before and after options; argparse by itself wants all positional words in one place.

    The parsers of its commands are of this kind, too. Only commands that have `overrides` take settings.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Add settings that argparse has left over to those it has found, or refuse them."""
        found, rest = super().parse_known_args(args, namespace)
        late = [word for word in rest if "=" in word and not word.startswith("-")]
        if not hasattr(found, "overrides"):
            if late:
                self.error(f"unrecognized arguments: {' '.join(rest)}. {self._instead(late)}")
            return found, rest
        found.overrides = [*found.overrides, *late]
        return found, [word for word in rest if word not in late]

    def _instead(self, settings: Sequence[str]) -> str:
        """Say which options stand for settings that a command does not take."""
        options = []
        for setting in settings:
            key, _, value = setting.partition("=")
            option = f"--{key.removeprefix('runtime.').replace('_', '-')}"
            if key.startswith("runtime.") and option in self._option_string_actions:
                options.append(f"{option} {shlex.quote(value)}")
        if options:
            return f"This command takes no settings: write {' '.join(options)}."
        return f"This command takes no settings: leave out {' '.join(settings)}."
