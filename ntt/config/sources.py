"""Where Hydra finds configurations: `conf/`, `experiments/`, the schemas, and folders of the user's own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig

from ntt.base.project import CONF_DIR, CONFIG_ROOT
from ntt.config.registry import register_schemas


@dataclass(frozen=True)
class ConfigSources:
    """Which configuration is composed, and from what; the defaults are the project's own.

    Attributes:
        name: of the primary configuration, as `--config-name` gives it.
        path: its folder, as `--config-path` gives it. Options that it lacks are those of the project.
        folder: searched for further options, as `--config-dir` gives it; None: none.
    """

    name: str = "config"
    path: Path = CONF_DIR
    folder: Path | None = None


class SearchPath(SearchPathPlugin):
    """Adds folders to the search path of every Hydra configuration in this process."""

    folders: ClassVar[tuple[Path, ...]] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        for folder in self.folders:
            search_path.append("ntt", f"file://{folder}")


def register(*more: Path) -> None:
    """Pass the schemas and the folders of options to Hydra; `more` are further folders."""
    register_schemas()
    Plugins.instance().register(SearchPath)
    SearchPath.folders = (CONF_DIR, CONFIG_ROOT / "experiments", *more)


_ACTIVE: ContextVar[ConfigSources] = ContextVar("sources")


@contextmanager
def hydra_session(sources: ConfigSources | None = None) -> Iterator[None]:
    """Let Hydra read configurations, by default the project's own, from anywhere while the block runs."""
    sources = sources or ConfigSources()
    # Hydra may already be in use by the application that called us, or by a package such as sam2.
    state, folders = GlobalHydra.instance(), SearchPath.folders
    before, state.hydra = state.hydra, None
    register(*(() if sources.folder is None else (sources.folder,)))
    active = _ACTIVE.set(sources)
    try:
        with initialize_config_dir(str(sources.path), version_base="1.3"):
            yield
    finally:
        _ACTIVE.reset(active)
        GlobalHydra.instance().hydra = before
        SearchPath.folders = folders


def active_sources() -> ConfigSources:
    """Return the sources of the session."""
    return _ACTIVE.get(ConfigSources())


def compose_lines(lines: Sequence[str]) -> DictConfig:
    """Compose the primary configuration of the session with overrides."""
    return compose(active_sources().name, overrides=list(lines))
