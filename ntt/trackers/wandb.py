"""Weights & Biases: a run of theirs for each of ours.

The run's id is that of the point, so a job that is queued again, retried or started twice continues the same run.
Without a key, or without a connection, the record is written to disk and can be sent later. Whatever goes wrong here
costs a warning, never a result, and never more than the time limits below.
"""

import logging
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from ntt.trackers.base import (
    Guard,
    RunIdentity,
    Tracker,
    TrackerConfig,
    choose_pictures,
    class_rows,
    flat_config,
    reason,
)
from ntt.trackers.none import NullTracker

_LOG = logging.getLogger(__name__)
_MODES = ("auto", "online", "offline")
_MAX_CLASS_VALUES = 2000
_LONGEST_TAG = 64
_PUBLIC_SERVER = "https://api.wandb.ai"
_UNREACHABLE: set[str] = set()
"""Servers that this process could not open a run on; the other points of a sweep need not wait for them again."""


@dataclass
class WandbTracker:
    """Passes everything on to one W&B run.

    Attributes:
        run: what `wandb.init` returned.
        online: whether it is sent at once.
    """

    run: Any
    online: bool
    max_pictures: int
    _guard: Guard = field(default_factory=lambda: Guard("wandb"), init=False)

    def log_stage(self, name: str, facts: Mapping[str, float]) -> None:
        """Note the stage's facts as "stage/<name>/<fact>" in the summary, where a repeated stage replaces them."""
        self._guard(lambda: self.run.summary.update({f"stage/{name}/{key}": value for key, value in facts.items()}))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Note metrics in the summary, and classes as a table too."""
        self._guard(lambda: self._log_metrics(metrics))

    def log_pictures(self, paths: Mapping[str, Path]) -> None:
        """Send a bounded number of pictures."""
        chosen = choose_pictures(paths, self.max_pictures)
        if chosen:
            self._guard(lambda: self.run.log({f"pictures/{name}": _picture(path) for name, path in chosen.items()}))

    def finish(self, *, failed: bool) -> None:
        """Close the run; say how to send it if it was only written to disk."""
        folder = Path(self.run.settings.sync_dir)
        # Also after a failure: an open run would be taken for a running one, and the next run of this process waits.
        closing = Guard("wandb")
        closing(lambda: self.run.finish(exit_code=int(failed)))
        if not self.online or self._guard.broken or closing.broken:
            _LOG.info("W&B: kept in %s. Send it with: wandb sync %s", folder, folder)

    def _log_metrics(self, metrics: Mapping[str, float]) -> None:
        wandb = _import_wandb()
        overall = {name: value for name, value in metrics.items() if name.count("/") == 1}
        of_classes = {name: value for name, value in metrics.items() if name.count("/") > 1}
        # Thousands of columns (LVIS) make a project unusable; the table holds all classes in any case.
        self.run.summary.update(overall if len(of_classes) > _MAX_CLASS_VALUES else {**overall, **of_classes})
        columns, rows = class_rows(metrics)
        self.run.log({"results": wandb.Table(columns=list(columns), data=[list(row) for row in rows]), **overall})


@dataclass
class WandbTrackerConfig(TrackerConfig):
    """Schema of `tracker=wandb`. The key is never a setting: W&B reads it from WANDB_API_KEY or from `wandb login`."""

    SCHEMA: ClassVar[str] = "wandb"

    project: str = "ntt"
    """W&B project."""

    entity: str | None = None
    """W&B user or team; null: the default of whoever logs in."""

    mode: str = "auto"
    """auto: online if there is a key, else offline; online; offline: written to disk, to be sent with `wandb sync`."""

    folder: str = "outputs"
    """Folder in which W&B keeps its files, in a folder `wandb` of its own."""

    tags: list[str] = field(default_factory=list)
    """Tags beside data set, split, shots, backbone, segmenter and matcher."""

    max_pictures: int = 16
    """Pictures to send, spread over all that were drawn; 0: none."""

    init_timeout_s: int = 30
    """Seconds to wait for the server at the start; then the run is kept offline."""

    finish_timeout_s: int = 120
    """Seconds to wait at the end until everything is sent; then the rest stays on disk."""

    def problems(self) -> list[str]:
        """Refuse unknown modes and impossible limits."""
        found = []
        if self.mode not in _MODES:
            found.append(f"tracker.mode={self.mode} is not possible: allowed is one of {', '.join(_MODES)}. Try auto.")
        for key, least in (("max_pictures", 0), ("init_timeout_s", 1), ("finish_timeout_s", 1)):
            value = getattr(self, key)
            if value < least:
                found.append(
                    f"tracker.{key}={value} is not possible: allowed is {least} or more. Leave it out if in doubt."
                )
        return found

    def mirrors_finished_runs(self) -> bool:
        """A finished run is shown to W&B again: it may have been made without a tracker, and an agent waits for it."""
        return True

    def build(self, identity: RunIdentity) -> Tracker:
        """Open the run: online where that is wanted and possible, else offline, else not at all."""
        online = self._is_online()
        for attempt in (True, False) if online else (False,):
            try:
                return WandbTracker(self._init(identity, online=attempt), attempt, self.max_pictures)
            except Exception as error:
                _UNREACHABLE.add(_server())
                then = "The record is kept offline" if attempt else "The run goes on without it"
                _LOG.warning("tracker=wandb cannot be opened (%s). %s.", reason(error), then)
                _forget()
        return NullTracker()

    def _is_online(self) -> bool:
        mode = os.environ.get("WANDB_MODE", "online") if self.mode == "auto" else self.mode
        if mode in ("offline", "dryrun", "disabled"):
            return False
        if _server() in _UNREACHABLE:
            return False
        if _has_key():
            return True
        why = "no key is set" if self.mode == "auto" else "tracker.mode=online, but no key is set"
        _LOG.warning("W&B: %s (WANDB_API_KEY, or `wandb login`), so the record is kept offline.", why)
        return False

    def _init(self, identity: RunIdentity, *, online: bool) -> Any:
        wandb = _import_wandb()
        Path(self.folder).expanduser().mkdir(parents=True, exist_ok=True)
        # A W&B agent has registered the run it asks for; under another id it would wait for that one forever.
        agent_id = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            init_timeout=self.init_timeout_s,
            login_timeout=self.init_timeout_s,
            finish_timeout=self.finish_timeout_s,
            finish_timeout_raises=True,
            x_graphql_retry_max=3,
            x_file_stream_retry_max=3,
            x_file_transfer_retry_max=3,
        )
        run = wandb.init(
            id=agent_id or identity.run_id,
            resume="allow",
            mode="online" if online else "offline",
            project=self.project,
            entity=self.entity,
            group=identity.group,
            name=identity.name,
            job_type=identity.job_type,
            tags=[*dict.fromkeys(tag[:_LONGEST_TAG] for tag in (*identity.tags, *self.tags))],
            config={**flat_config(identity.config), "point": identity.run_id, "run_dir": str(identity.run_dir)},
            dir=str(Path(self.folder).expanduser()),
            settings=settings,
        )
        if online:
            _LOG.info("W&B: %s", run.url)
        return run


def _forget() -> None:
    """End W&B's background process, which would go on trying and hold the run's id."""
    try:
        _import_wandb().teardown(exit_code=1)
    except Exception as error:
        _LOG.debug("wandb.teardown failed: %s", reason(error))


def _has_key() -> bool:
    """Say whether W&B will find a key, without reading it out."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    names = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for name in names:
        try:
            if netrc.netrc(Path(name).expanduser()).authenticators(urlsplit(_server()).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", _PUBLIC_SERVER)


def _picture(path: Path) -> Any:
    return _import_wandb().Image(str(path))


def _import_wandb() -> Any:
    # W&B's reports about itself would hold up the end of the process where the server does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb
