"""What `python main.py --help` prints. Needs a `hydra_session`."""

import textwrap

from ntt.config.explain import group_options

_TEXT = """\
Training-free, reference-based instance segmentation: one experiment from images to metrics.

  python main.py [GROUP=OPTION | SETTING=VALUE]... [FLAG]...        (installed: ntt run ...)

Examples
  python main.py                                                    the demo, a minute or two on a CPU
  python main.py dataset=folder dataset.root=FOLDER shots=all       photographs in folders named after classes
  python main.py dataset=coco_json dataset.root=FOLDER shots=5shot seed=1 matcher.merging=hard
  python main.py experiment=cdfsod_dior shots=5shot                 a row of a published table
  python main.py --multirun seed=0,1,2 matcher=ntt,nearest          every combination, and a table of them
  python main.py --config-dir my_conf dataset=mine                  with options in YAML files of your own

Options (GROUP=OPTION)
{groups}

Flags
  --cfg job            print all settings and their values, and end; --cfg job --package matcher: of one group
  --multirun, -m       run every combination of values separated by commas; without pictures unless asked for
  --config-dir FOLDER  look for options in FOLDER/GROUP/*.yaml, too
  --config-name NAME   start from NAME.yaml (of --config-dir, or of --config-path) instead of conf/config.yaml
  --info searchpath    print where options are looked for; --info plugins: launchers and sweepers
  -sc install=bash     print what completes settings on <TAB>: eval "$(python main.py -sc install=bash)"; or zsh, fish
  --hydra-help         all flags of Hydra
"""
_GROUPS = (
    *("dataset", "shots", "split", "backbone", "segmenter", "matcher", "runtime", "tracker"),
    *("experiment", "hydra/launcher", "hydra/sweeper"),
)


def help_text() -> str:
    """Return examples, the options of every group, and the flags."""
    rows = []
    for group in _GROUPS:
        options = textwrap.wrap(", ".join(group_options(group)), 100)
        rows += [f"  {name:<16}{line}" for name, line in zip([group, *[""] * len(options)], options, strict=False)]
    return _TEXT.format(groups="\n".join(rows))
