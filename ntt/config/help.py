"""What `python main.py --help` prints. Needs a `hydra_session`."""

import textwrap

from ntt.config.explain import group_options

_EXAMPLES = {
    "": "the demo, a minute or two on a CPU",
    "dataset=folder dataset.root=FOLDER shots=all": "photographs in folders named after classes",
    "dataset=coco_json dataset.root=FOLDER shots=5shot seed=1": "a data set in COCO format",
    "experiment=cdfsod_dior shots=5shot": "a row of a published table",
    "--multirun seed=0,1,2 matcher=ntt,nearest": "every combination, and a table of them",
    "--config-dir my_conf dataset=mine": "with options in YAML files of your own",
}
_GROUPS = (
    *("dataset", "shots", "split", "backbone", "segmenter", "matcher", "runtime", "tracker"),
    *("experiment", "hydra/launcher", "hydra/sweeper"),
)
_TEXT = """\
Training-free, reference-based instance segmentation: one experiment from images to metrics.

  {program} [GROUP=OPTION | SETTING=VALUE]... [FLAG]...

Examples
{examples}

Options (GROUP=OPTION)
{groups}

Flags
  --cfg job            print all settings and their values, and end; --cfg job --package matcher: of one group
  --multirun, -m       run every combination of values separated by commas; without pictures unless asked for
  --config-dir FOLDER  look for options in FOLDER/GROUP/*.yaml, too
  --config-name NAME   start from NAME.yaml (of --config-dir, or of --config-path) instead of conf/config.yaml
  --info searchpath    print where options are looked for; --info plugins: launchers and sweepers
  -sc install=bash     print what completes settings on <TAB>: eval "$({program} -sc install=bash)"; or zsh, fish
  --hydra-help         all flags of Hydra
"""


def help_text(program: str) -> str:
    """Return examples, the options of every group, and the flags; `program` is how the command begins."""
    examples = [f"  {program} {words}".ljust(74) + meaning for words, meaning in _EXAMPLES.items()]
    groups = []
    for group in _GROUPS:
        lines = textwrap.wrap(", ".join(group_options(group)), 100)
        groups += [f"  {name:<16}{line}" for name, line in zip([group, *[""] * len(lines)], lines, strict=False)]
    return _TEXT.format(program=program, examples="\n".join(examples), groups="\n".join(groups))
