"""What the command line says when something is wrong: one plain message instead of a traceback."""

import copy
import difflib
import importlib.util
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from ntt.base.project import PROJECT_DIR
from ntt.config.schema import ExperimentConfig, from_hydra, register_schemas
from ntt.datasets.base import DATA_VARIABLE
from ntt.errors import ConfigError, NttError

CONF_DIR = PROJECT_DIR / "conf"
EXIT_USER_ERROR = 2
_OTHER_CONFIG = ("--config-dir", "--config-path", "--config-name", "-cd", "-cp", "-cn")
_FLAGS_THAT_SHOW = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--version")
_FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun")
_MAX_VALUES_CHECKED = 1000
# Hydra raises a bare ValueError for a group option that is not a word, such as shots=5.
_COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError)


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with the bare message of a user's error; in a multirun, let Hydra go on with the other jobs."""
    try:
        yield
    except NttError as error:
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.stderr.write(f"\nError: {error}\n")
        raise SystemExit(EXIT_USER_ERROR) from None


@contextmanager
def _hydra() -> Iterator[None]:
    """Let Hydra read `conf/` and `experiments/` while the block runs, wherever the program was started from."""
    if importlib.util.find_spec("experiments") is None:  # the console script's path does not have the project's folder
        sys.path.append(str(CONF_DIR.parent))
    state = GlobalHydra.instance()
    before, state.hydra = state.hydra, None  # an application's own, or that of another package
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def compose_config(overrides: Sequence[str]) -> ExperimentConfig:
    """Compose `conf/config.yaml` with overrides outside a Hydra program: for commands and tests.

    Raises:
        ConfigError: naming every missing or unusable value at once.
    """
    register_schemas()
    with _hydra():
        return from_hydra(compose("config", overrides=list(overrides)))


def compose_many(points: Sequence[Sequence[str]]) -> list[ExperimentConfig]:
    """Compose many configurations, each from its overrides, in a fraction of the time of as many `compose_config`.

    What has been composed once is kept as long as the process lives, so later changes in `conf/` are not seen.

    Raises:
        ConfigError: if an override cannot be composed, or a value is missing or unusable.
    """
    register_schemas()
    composer = _composer(os.environ.get(DATA_VARIABLE))
    with _hydra():
        return [from_hydra(composer.compose(list(overrides))) for overrides in points]


def restore_data(settings: Mapping[str, Any]) -> ExperimentConfig:
    """Return a configuration with the data set and the classes of a run and defaults for all else.

    Args:
        settings: the run's configuration as nested plain values, as its directory keeps it.

    Raises:
        ConfigError: if the data set's option or one of its settings is not known any more.
    """
    register_schemas()
    chosen = [f"{group}={settings[group]['name']}" for group in ("dataset", "split")]
    places = {key: value for key, value in settings["runtime"].items() if key in ("cache_root", "data_root")}
    kept = {"dataset": dict(settings["dataset"]), "split": dict(settings["split"]), "runtime": places}
    try:
        with _hydra():
            return from_hydra(cast("DictConfig", OmegaConf.merge(compose("config", overrides=chosen), kept)))
    except _COMPOSE_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The data set of this run is not known any more: {reason}. Run it again.") from error


def read_override(line: str) -> tuple[str, Any]:
    """Split `KEY=VALUE` into its key and its value as YAML has it; lists become tuples.

    Raises:
        ConfigError: if it is not such a line, or has several values.
    """
    try:
        override = OverridesParser.create().parse_override(line)
    except OverrideParseException as error:
        raise ConfigError(_unreadable(error.override)) from error
    if override.type != OverrideType.CHANGE or override.is_sweep_override():
        raise ConfigError(f"{line}: this is not one value for one setting. Write KEY=VALUE.")
    return override.get_key_element(), _plain_value(override.value())


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_plain_value(one) for one in value)
    return value.text if isinstance(value, QuotedString) else value


class _Composer:
    """Composes each option of a group once, and puts configurations together from these parts.

    Options that reach into other groups, as experiments do, are composed anew in every combination.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, ...], DictConfig] = {}
        self._wholes: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Do what Hydra's `compose` does.

        Raises:
            ConfigError: explaining the first override that cannot be composed.
        """
        try:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
            if (deletion := _deletion(parsed)) is not None:
                raise ConfigError(deletion)
            options = tuple(one.input_line or "" for one in parsed if not _sets_a_value(one))
            if options not in self._wholes:
                self._wholes[options] = self._whole(options)
            config = copy.deepcopy(self._wholes[options])
            for one in filter(_sets_a_value, parsed):
                OmegaConf.update(config, one.key_or_group, one.value(), merge=True)
        except OverrideParseException as error:
            raise ConfigError(_unreadable(error.override)) from error
        except _COMPOSE_ERRORS as error:
            raise ConfigError(_first_problem(overrides) or str(error)) from error
        return config

    def _whole(self, options: tuple[str, ...]) -> DictConfig:
        """Put one configuration together from the parts its options stand for."""
        keys = {line.partition("=")[0]: line for line in options}
        groups = {key: line for key, line in keys.items() if (CONF_DIR / key).is_dir()}
        fixed = tuple(line for line in options if line not in groups.values())
        base = self._part(fixed)
        parts = {group: self._part((*fixed, line)) for group, line in groups.items()}
        if not all(_differs_only_in(group, part, base) for group, part in parts.items()):
            return self._part(options)
        whole = copy.deepcopy(base)
        for group, part in parts.items():
            whole[group] = part[group]
        return whole

    def _part(self, lines: tuple[str, ...]) -> DictConfig:
        if lines not in self._parts:
            self._parts[lines] = compose("config", overrides=list(lines))
        return self._parts[lines]


@lru_cache(maxsize=2)
def _composer(data_root: str | None) -> _Composer:
    """Return the composer for one value of NTT_DATA, which a default of the schema is taken from."""
    return _Composer()


def _differs_only_in(group: str, part: DictConfig, base: DictConfig) -> bool:
    one, other = OmegaConf.to_container(part), OmegaConf.to_container(base)
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    return all(one[key] == other[key] for key in one if key != group)


def _sets_a_value(override: Override) -> bool:
    """Say whether an override sets a single value, rather than choosing, adding or removing something."""
    key = override.key_or_group
    if override.type != OverrideType.CHANGE or override.is_sweep_override() or "/" in key or override.package:
        return False
    # hydra.searchpath, for one, decides what options there are.
    return not override.is_hydra_override() and ("." in key or key in ("seed", "stage"))


def check_overrides(arguments: Sequence[str]) -> None:
    """End the program with a plain message if the command line's overrides cannot be composed.

    Hydra would refuse them too, but with a hint to append the unknown key, which is never the remedy here. Of a
    multirun (`seed=0,1,2`) every value is tried and has to make a configuration that can be run.

    Args:
        arguments: the command line without the program's name.
    """
    flags = {word.split("=")[0] for word in arguments if word.startswith("-")}
    if flags & set(_OTHER_CONFIG):
        return
    before = ["", *arguments]
    pairs = zip(before, arguments, strict=False)
    overrides = [word for flag, word in pairs if not word.startswith("-") and flag not in _FLAGS_WITH_VALUE]
    multirun = bool(flags & {"-m", "--multirun"})
    register_schemas()
    with _hydra():
        try:  # a glob asks the loader which options there are
            parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(overrides)
        except OverrideParseException as error:
            _refuse(_unreadable(error.override))
        if not multirun:
            _check_single(parsed)
        _check(parsed)
        if multirun and not flags & set(_FLAGS_THAT_SHOW):
            _check_points(parsed)


def _check_single(overrides: Sequence[Override]) -> None:
    for override in overrides:
        if override.is_sweep_override() and not override.is_hydra_override():
            line = str(override.input_line)
            _refuse(f"{line}: these are several values. Give one, or add --multirun.{_quoted(line)}")


def _check(overrides: Sequence[Override]) -> None:
    """Try the first value of every override."""
    lines = [line for override in overrides for line in (_values(override) or ())[:1]]
    problem = _deletion(overrides) or _first_problem(lines)
    if problem is not None:
        _refuse(problem)


def _check_points(overrides: Sequence[Override]) -> None:
    """Try every value of every axis of a multirun, with the first values of the others: points, but not all points."""
    axes = {one.get_key_element(): _values(one) for one in overrides}  # of a repeated key the last counts, as in Hydra
    known = {key: values for key, values in axes.items() if values is not None}
    first = {key: values[0] for key, values in known.items()}
    points = [first, *({**first, key: value} for key, values in known.items() for value in values[1:])]
    complete = len(known) == len(axes)  # else the sweeper chooses values, and required ones may be missing here
    composer = _composer(os.environ.get(DATA_VARIABLE))
    for point in points:
        try:
            config = composer.compose(list(point.values()))
            if complete:
                from_hydra(config)
        except ConfigError as error:
            if not (isinstance(error.__cause__, InterpolationResolutionError) and _resolved_there(point.values())):
                _refuse(str(error))


def _resolved_there(lines: Collection[str]) -> bool:
    """Say whether a value may be known only where a point runs: another machine, or a job that Hydra has numbered."""
    return any("${hydra:" in line or line.startswith("hydra/launcher=") for line in lines)


def _deletion(overrides: Sequence[Override]) -> str | None:
    """Explain why the first `~KEY` is refused; None where there is none. Hydra would take away what a run needs."""
    for override in overrides:
        if override.type == OverrideType.DEL and not override.is_hydra_override():
            line, key = str(override.input_line), override.key_or_group
            known = _all_keys(compose("config"))
            options = group_options(key)
            if key not in known and not options:
                return _unknown(line, key, known)
            value = known.get(f"{key}.name" if options else key)
            default = f" to keep {key}={value}" if isinstance(value, str | int | float) else ""
            other = f", or choose one: {key}={'|'.join(options)}" if options else ""
            return f"{line}: nothing can be taken out, a run needs every setting. Leave {line} out{default}{other}."
    return None


def _unreadable(override: str) -> str:
    return f"{override}: this override cannot be read. Write KEY=VALUE.{_quoted(override)}"


def _quoted(override: str) -> str:
    """Say how a value with special characters, such as a path, is written: quotes for Hydra in quotes for the shell."""
    key, _, value = override.partition("=")
    if not value or value[0] in "\"'[{":
        return ""
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    command = shlex.quote(f'{key}="{text}"')
    return f" If the value is one text, such as a path, quote it twice: {command}"


def _first_problem(lines: Sequence[str]) -> str | None:
    """Explain why the first override that cannot be composed cannot; None where all can."""
    if _compose_error(lines) is None:
        return None
    tried: list[str] = []
    for line in sorted(lines, key=lambda line: "." in line.split("=")[0]):
        error = _compose_error([*tried, line])
        if error is not None:
            return _explain(line, error, tried)
        tried.append(line)
    return None


def _values(override: Override) -> list[str] | None:
    """Return an override as text, once for each value where it is a sweep; None where only a sweeper can tell."""
    line = str(override.input_line)
    if not override.is_sweep_override():
        return [line]
    if not override.is_discrete_sweep() or override.is_hydra_override():
        return None
    key = override.get_key_element()
    try:
        values = list(islice(override.sweep_string_iterator(), _MAX_VALUES_CHECKED))
    except HydraException:
        return None
    if not values:
        _refuse(f"{line}: this stands for no value at all. Write the values out, with commas between them.")
    return [f"{key}={value}" for value in values]


def _compose_error(lines: Sequence[str]) -> Exception | None:
    try:
        compose("config", overrides=list(lines))
    except _COMPOSE_ERRORS as error:
        return error
    return None


def _explain(line: str, error: Exception, others: Sequence[str]) -> str:
    key, _, value = line.partition("=")
    key = key.lstrip("+~")
    options = group_options(key)
    if options:
        text = f"{key}={value}: there is no such option. Allowed is one of {', '.join(options)}."
        number = value.removesuffix("s").removesuffix("shot")
        if key == "shots" and number.isdigit() and f"{number}shot" not in options:
            return f"{text} For another number of references write shots.count={number}."
        close = [f"{number}shot"] if key == "shots" and number.isdigit() else []
        close = close or difflib.get_close_matches(value, options, n=1)
        close = close or [one for one in options if one.startswith(value)]
        if close:
            return f"{text} Did you mean {key}={close[0]}?"
        if key == "split":
            return f"{text} For a choice of your own use split.classes=[NAME,NAME]."
        return f"{text} Choose one of them."
    known = _all_keys(compose("config", overrides=list(others)))
    if key not in known:
        return _unknown(line, key, known)
    cause = error.__cause__ if error.__cause__ is not None else error
    reason = str(cause).splitlines()[0].rstrip(".")
    if "ListConfig" in reason:
        return f"{key}={value}: this setting takes a list. Write {key}=[{value}]."
    return f"{key}={value}: {reason}. Give a value of the same kind as the default, {key}={known[key]}."


def _unknown(line: str, key: str, known: Mapping[str, object]) -> str:
    groups = [name for name in known if "." not in key and group_options(name)]
    settings = [name for name, node in known.items() if not isinstance(node, DictConfig)]
    close = difflib.get_close_matches(key, [*groups, *settings], n=1)
    guess = f"Did you mean {close[0]}?" if close else "See all settings with: python main.py --cfg job"
    return f"{line}: there is no setting {key!r}. {guess}"


def group_options(key: str) -> list[str]:
    """Return the names of a config group's options, sorted; empty if `key` is not a group."""
    if not key:
        return []
    folders = (CONF_DIR / key, CONF_DIR.parent / "experiments" / key)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def _all_keys(config: DictConfig, prefix: str = "") -> dict[str, object]:
    """Return every dotted key with its value; sections are listed too."""
    found: dict[str, object] = {}
    for name in map(str, config):
        key = f"{prefix}{name}"
        missing = OmegaConf.is_missing(config, name)
        node = "???" if missing else config[name]
        found[key] = node
        if isinstance(node, DictConfig):
            found.update(_all_keys(node, f"{key}."))
    return found


def _refuse(message: str) -> None:
    sys.stderr.write(f"\nError: {message}\n")
    raise SystemExit(EXIT_USER_ERROR)
