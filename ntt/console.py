"""What the command line says when something is wrong: one plain message instead of a traceback."""

import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ntt.config import ExperimentConfig, from_hydra, register_schemas
from ntt.errors import NttError

CONF_DIR = Path(__file__).resolve().parent.parent / "conf"
EXIT_USER_ERROR = 2
_OTHER_CONFIG = ("--config-dir", "--config-path", "--config-name", "-cd", "-cp", "-cn")
_FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun")
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


def compose_config(overrides: Sequence[str]) -> ExperimentConfig:
    """Compose `conf/config.yaml` with overrides outside a Hydra program: for commands and tests.

    Raises:
        ConfigError: naming every missing or unusable value at once.
    """
    register_schemas()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return from_hydra(compose("config", overrides=list(overrides)))


def check_overrides(arguments: Sequence[str]) -> None:
    """End the program with a plain message if the command line's overrides cannot be composed.

    Hydra would refuse them too, but with a hint to append the unknown key, which is never the remedy here. Of a sweep
    (`seed=0,1,2`) the first value is tried.

    Args:
        arguments: the command line without the program's name.
    """
    if any(word.split("=")[0] in _OTHER_CONFIG for word in arguments):
        return
    before = ["", *arguments]
    pairs = zip(before, arguments, strict=False)
    overrides = [word for flag, word in pairs if not word.startswith("-") and flag not in _FLAGS_WITH_VALUE]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        _refuse(f"{error.override}: this override cannot be read. Write KEY=VALUE, and quote values with spaces.")
    if not {"-m", "--multirun"} & set(arguments):
        for override in parsed:
            if override.is_sweep_override() and not override.is_hydra_override():
                _refuse(f"{override.input_line}: these are several values. Give one, or add --multirun.")
    register_schemas()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        _check(parsed)


def _check(overrides: Sequence[Override]) -> None:
    lines = [line for override in overrides if (line := _first_value(override)) is not None]
    if _compose_error(lines) is None:
        return
    tried: list[str] = []
    for line in sorted(lines, key=lambda line: "." in line.split("=")[0]):
        error = _compose_error([*tried, line])
        if error is not None:
            _refuse(_explain(line, error, tried))
        tried.append(line)


def _first_value(override: Override) -> str | None:
    """Return an override as text, with the first value where it is a sweep; None where only a sweeper can tell."""
    if not override.is_sweep_override():
        return override.input_line
    if override.is_discrete_sweep() and not override.is_hydra_override():
        try:
            value = next(iter(override.sweep_string_iterator()))
        except HydraException:
            return None
        return f"{override.get_key_element()}={value}"
    return None


def _compose_error(lines: Sequence[str]) -> Exception | None:
    try:
        compose("config", overrides=list(lines))
    except _COMPOSE_ERRORS as error:
        return error
    return None


def _explain(line: str, error: Exception, others: Sequence[str]) -> str:
    key, _, value = line.partition("=")
    key = key.lstrip("+~")
    options = _group_options(key)
    if options:
        text = f"{key}={value}: there is no such option. Allowed is one of {', '.join(options)}."
        close = difflib.get_close_matches(value, options, n=1) or [one for one in options if one.startswith(value)]
        if close:
            return f"{text} Did you mean {key}={close[0]}?"
        if key == "split":
            return f"{text} For a choice of your own use split.classes=[NAME,NAME]."
        return f"{text} Choose one of them."
    known = _all_keys(compose("config", overrides=list(others)))
    if key not in known:
        settings = [name for name, node in known.items() if not isinstance(node, DictConfig)]
        close = difflib.get_close_matches(key, settings, n=1)
        guess = f"Did you mean {close[0]}?" if close else "See all settings with: python main.py --cfg job"
        return f"{line}: there is no setting {key!r}. {guess}"
    cause = error.__cause__ if error.__cause__ is not None else error
    reason = str(cause).splitlines()[0].rstrip(".")
    if "ListConfig" in reason:
        return f"{key}={value}: this setting takes a list. Write {key}=[{value}]."
    return f"{key}={value}: {reason}. Give a value of the same kind as the default, {key}={known[key]}."


def _group_options(key: str) -> list[str]:
    folder = CONF_DIR / key
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() and key else []


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
