"""`ntt run`: one experiment from images to metrics, like `python main.py` in a clone."""

import sys
from collections.abc import Sequence

import click
from click.shell_completion import get_completion_class

from ntt.errors import ConfigError

_BASH = """
# A setting is one word, blanks included, and what has to go on is not followed by a blank.
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
_ntt_words() {
    _ntt_completion "$@"
    local index
    for index in "${!COMPREPLY[@]}"; do printf -v "COMPREPLY[$index]" %q "${COMPREPLY[$index]}"; done
    [[ ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
}
complete -o nosort -F _ntt_words ntt
"""
_ZSH = (
    "compadd -U -V unsorted -a completions",
    """compadd -U -V unsorted -S '' -- ${(M)completions:#*[=./]}
        compadd -U -V unsorted -- ${completions:#*[=./]}""",
)
"""What adds completions, and what also adds no blank behind those that have to go on."""


def _complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from ntt.config.command_line import completions

    return completions(context.params["words"] or (), incomplete)


# --help is answered by the run, with all its options.
@click.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="[KEY=VALUE | HYDRA_FLAG]...", shell_complete=_complete
)
@click.pass_context
def run(context: click.Context, words: tuple[str, ...]) -> None:
    """Run one experiment, or several with --multirun.

    \b
    ntt run                                            the demo
    ntt run dataset=coco_json dataset.root=FOLDER shots=5shot seed=0
    ntt run --multirun seed=0,1,2 shots=1shot,5shot    every combination
    ntt run --cfg job                                  all settings

    Settings and options are those of `python main.py`. --hydra-help lists Hydra's flags.
    """
    if words[:1] in (("-sc",), ("--shell-completion",)):
        click.echo(_completion_script(context.find_root(), words[1:]))
        return
    from ntt.run.runner import main

    sys.argv[:] = ["ntt run", *words]
    main()


def _completion_script(root: click.Context, words: Sequence[str]) -> str:
    """Return a completion script for commands, options and settings; Hydra's own only supports one-word commands."""
    action, _, shell = " ".join(words).partition("=")
    completion = get_completion_class(shell)
    if action != "install" or completion is None:
        raise ConfigError(f"-sc {' '.join(words)}: write install=bash, install=zsh or install=fish.")
    source = completion(root.command, {}, "ntt", "_NTT_COMPLETE").source()
    return source + _BASH if shell == "bash" else source.replace(*_ZSH)
