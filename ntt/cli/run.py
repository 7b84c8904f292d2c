"""`ntt run`: one experiment from images to metrics, as `python main.py` does it in a clone."""

import sys

import click


# --help is answered by the run, with all its options.
@click.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[KEY=VALUE | HYDRA_FLAG]...")
def run(words: tuple[str, ...]) -> None:
    """Run one experiment, or several with --multirun.

    \b
    ntt run                                            the demo
    ntt run dataset=coco_json dataset.root=FOLDER shots=5shot seed=0
    ntt run --multirun seed=0,1,2 shots=1shot,5shot    every combination
    ntt run --cfg job                                  all settings

    Settings and options are those of `python main.py`. --hydra-help lists Hydra's flags.
    """
    from ntt.run.runner import main

    sys.argv[:] = ["ntt run", *words]
    main()
