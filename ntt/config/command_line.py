"""The way into Hydra: overrides are checked before anything starts, and errors shown without a traceback."""

import io
import itertools
import os
import sys
import textwrap
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import hydra
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from ntt.base.project import CONF_DIR
from ntt.config.compose import compose_cached, from_hydra
from ntt.config.explain import group_options, program, quoting_hint, unreadable
from ntt.config.registry import ConfigSources, hydra_session, register
from ntt.config.schema import ExperimentConfig
from ntt.config.typed_text import keep_text
from ntt.errors import EXIT_USER_ERROR, ConfigError, NttError

AfterMultirun: TypeAlias = Callable[[list[ExperimentConfig], list[ExperimentConfig]], None]
_MAX_VALUES_CHECKED = 1000
_MAX_POINTS_LISTED = 10_000
_FULL_ERROR = "HYDRA_FULL_ERROR"
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


def run_hydra(
    run: Callable[[ExperimentConfig], float | None],
    after_multirun: AfterMultirun = lambda configs, failed: None,
    before_multirun: Callable[[list[ExperimentConfig]], None] = lambda configs: None,
) -> None:
    """Let Hydra compose the configuration, or those of a multirun, and call `run` with each.

    A user's mistake ends the program with one line on standard error. A point of a multirun that fails in this process
    does not keep the others from running; the program then ends with an error. `before_multirun` and `after_multirun`
    are called with the configurations of a multirun, as far as this process knows them; the latter also with those that
    failed.
    """
    args = _parsed(sys.argv[1:])
    check_overrides(sys.argv[1:])
    if args.help:
        with hydra_session(_sources(args)):
            sys.stdout.write(help_text())
        return
    sys.argv[1:] = _arguments(args, sys.argv[1:])
    composed: list[ExperimentConfig] = []
    failed: list[ExperimentConfig | None] = []

    @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
    def experiment(cfg: DictConfig) -> float | None:
        config = None
        try:
            config = from_hydra(cfg)
            composed.append(config)
            return run(config)
        except NttError as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                _refuse(str(error))
            if not str(HydraConfig.get().launcher.get("_target_")).endswith("BasicLauncher"):
                raise  # the process that waits for this one must know
            sys.stderr.write(f"\nError: {error}\n")
            failed.append(config)
            return None

    if args.multirun:
        with suppress(NttError):  # a value may only be known where a point runs
            before_multirun(_points(args))
    register()
    with _launcher_errors(args):
        experiment()
    if args.multirun:
        after_multirun(composed or ([] if failed else _points(args)), [config for config in failed if config])
    if failed:
        few = f"{len(failed)} of {len(composed) + failed.count(None)} points"
        _refuse(f"{few} failed, for the reasons given above. The same command repeats only these.")


@contextmanager
def _launcher_errors(args: Namespace) -> Iterator[None]:
    """End the program with the message of an error that a launcher meets or brings from a job, without a traceback."""
    launchers = {word for word in args.overrides if word.startswith("hydra/launcher=")} - {"hydra/launcher=basic"}
    if not launchers or _FULL_ERROR in os.environ:
        yield
        return
    os.environ[_FULL_ERROR] = "1"  # or Hydra would print a traceback of its own and exit
    try:
        yield
    except NttError as error:
        _refuse(str(error))
    except Exception as error:
        again = f"The same command repeats only what is missing; with {_FULL_ERROR}=1, it shows a traceback."
        _refuse(f"{launchers.pop()}: {str(error).strip()}\n{again}")
    finally:
        del os.environ[_FULL_ERROR]


def _parsed(words: Sequence[str]) -> Namespace:
    """Return Hydra's flags and the overrides, in whatever order they come."""
    return get_args_parser().parse_intermixed_args(words)


def _arguments(args: Namespace, words: Sequence[str]) -> list[str]:
    """Return the command line as Hydra takes it, paths absolute; a multirun draws no pictures unless asked to."""
    overrides, flags = keep_text(args.overrides), list(words)
    for override in args.overrides:
        flags.remove(override)
    if args.multirun and not any(line.lstrip("+").startswith("visualisation.") for line in overrides):
        overrides.append("visualisation.enabled=false")
        args.overrides.append(overrides[-1])
    if args.config_path is not None:  # Hydra would take it relative to the module that calls it
        flags += ["--config-path", str(Path(args.config_path).expanduser().absolute())]
    return [*overrides, *flags]


def _points(args: Namespace) -> list[ExperimentConfig]:
    """Return the configurations of a multirun whose points a launcher ran elsewhere; [] if a sweeper chose values."""
    with hydra_session(_sources(args)):
        values = [_values(override) for override in OverridesParser.create().parse_overrides(keep_text(args.overrides))]
        lines = itertools.product(*(value for value in values if value is not None)) if None not in values else ()
        return [from_hydra(compose_cached(list(point))) for point in itertools.islice(lines, _MAX_POINTS_LISTED)]


def help_text() -> str:
    """Return examples, the options of every group, and the flags, in a Hydra session."""
    examples = [f"  {program()} {words}".ljust(74) + meaning for words, meaning in _EXAMPLES.items()]
    groups = []
    for group in _GROUPS:
        lines = textwrap.wrap(", ".join(group_options(group)), 100)
        groups += [f"  {name:<16}{line}" for name, line in zip([group, *[""] * len(lines)], lines, strict=False)]
    return _TEXT.format(program=program(), examples="\n".join(examples), groups="\n".join(groups))


def read_override(line: str) -> tuple[str, Any]:
    """Split `KEY=VALUE` into the key and the value that YAML makes of the text; lists become tuples."""
    try:
        (line,) = keep_text([line])
        override = OverridesParser.create().parse_override(line)
    except OverrideParseException as error:
        raise ConfigError(unreadable(error.override)) from error
    if override.type != OverrideType.CHANGE or override.is_sweep_override():
        raise ConfigError(f"{line}: this is not one value for one setting. Write KEY=VALUE.")
    return override.get_key_element(), _plain_value(override.value())


def completions(words: Sequence[str], incomplete: str) -> list[str]:
    """Return Hydra's completions of the last word of a command line; none if the words before cannot be read."""
    output = io.StringIO()  # argparse's usage would end up in the prompt
    try:
        with redirect_stdout(output), redirect_stderr(output), hydra_session(_sources(_parsed(words))):
            plugin = BashCompletion(GlobalHydra.instance().config_loader())
            matches = plugin._query("config", " ".join([*keep_text(words), incomplete]))
    except (ConfigError, HydraException, SystemExit):
        return []
    return [match for match in matches if not match.startswith("schema")]


def check_overrides(arguments: Sequence[str]) -> None:
    """End the program with a plain message if the overrides of a command line cannot be composed.

    Hydra would refuse them too, but advise to append unknown keys, which is never the remedy here. In a multirun
    (`seed=0,1,2`) every value is tried, and has to give a configuration that can be run.
    """
    args = _parsed(arguments)
    if args.shell_completion or args.hydra_help:
        return
    try:
        if args.multirun + args.run + bool(args.cfg) + bool(args.info) > 1:
            raise ConfigError("--multirun, --run, --cfg and --info exclude each other. Give one of them.")
        with hydra_session(_sources(args)):  # a glob asks the loader which options there are
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            overrides = parser.parse_overrides(keep_text(args.overrides))
            for override in overrides:
                if override.is_sweep_override() and not override.is_hydra_override() and not args.multirun:
                    line = str(override.input_line)
                    hint = quoting_hint(line)
                    raise ConfigError(f"{line}: these are several values. Give one, or add --multirun.{hint}")
            compose_cached([values[0] for override in overrides if (values := _values(override))])
            if args.multirun:
                _check_points(overrides)
    except OverrideParseException as error:
        _refuse(unreadable(error.override))
    except ConfigError as error:
        _refuse(str(error))


def _sources(args: Namespace) -> ConfigSources:
    """Return where Hydra looks for configurations, by the command line."""
    folders = {}
    for flag in ("config_path", "config_dir"):
        if (text := getattr(args, flag)) is not None:
            folders[flag] = Path(text).expanduser().absolute()
            if not folders[flag].is_dir():
                raise ConfigError(f"--{flag.replace('_', '-')} {text}: there is no such folder.")
    return ConfigSources(args.config_name or "config", folders.get("config_path", CONF_DIR), folders.get("config_dir"))


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_plain_value(member) for member in value)
    return value.text if isinstance(value, QuotedString) else value


def _check_points(overrides: Sequence[Override]) -> None:
    """Try every value of every axis of a multirun, with the first values of the other axes."""
    axes = {override.get_key_element(): _values(override) for override in overrides}  # the last of a key counts
    listed = {key: values for key, values in axes.items() if values is not None}
    first = {key: values[0] for key, values in listed.items()}
    points = [first, *({**first, key: value} for key, values in listed.items() for value in values[1:])]
    complete = len(listed) == len(axes)  # else the sweeper chooses values, and required ones may still be missing
    for point in points:
        try:
            config = compose_cached(list(point.values()))
            if complete:
                from_hydra(config)
        except ConfigError as error:
            if not (isinstance(error.__cause__, InterpolationResolutionError) and _resolved_later(point.values())):
                raise


def _resolved_later(lines: Collection[str]) -> bool:
    """Return whether a value may only be known where a point runs: on another machine, or in a job of Hydra's."""
    return any("${hydra:" in line or line.startswith("hydra/launcher=") for line in lines)


def _values(override: Override) -> list[str] | None:
    """Return an override as text, once per value if it is a sweep; None if the values are up to a sweeper."""
    line = str(override.input_line)
    if not override.is_sweep_override():
        return [line]
    if not override.is_discrete_sweep() or override.is_hydra_override():
        return None
    key = override.get_key_element()
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), _MAX_VALUES_CHECKED))
    except HydraException:
        return None
    if not values:
        raise ConfigError(f"{line}: this expands to no value. List the values, separated by commas.")
    return [f"{key}={value}" for value in values]


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"\nError: {message}\n")
    raise SystemExit(EXIT_USER_ERROR)
