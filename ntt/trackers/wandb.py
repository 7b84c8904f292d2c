"""Weights & Biases: one W&B run per run. A failure costs a warning and at most the time limits below, never a result.

Online, the W&B run has the id of ours, so a requeued job continues it. Without a key or a connection the record is
written to disk and can be sent later: each attempt under its own id, as W&B loses data when offline runs share one.
"""

import logging
import os
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ntt.base.settings import flatten_settings, setting
from ntt.trackers.base import RunIdentity, Tracker, TrackerConfig, class_rows, reason

if TYPE_CHECKING:
    from PIL import Image

_LOG = logging.getLogger(__name__)
_LONGEST_TAG = 64
_UNREACHABLE = threading.Event()
"""Set once this process has failed to reach the server, so that later points of a sweep do not wait for it again."""


@dataclass(kw_only=True)
class WandbTracker(Tracker):
    """Forwards everything to one W&B run."""

    name: str = "wandb"
    run: Any
    online: bool

    def _write_numbers(self, values: Mapping[str, float]) -> None:
        # In the summary the numbers of a repeated stage replace the earlier ones.
        self.run.summary.update(dict(values))

    def _write_results(self, metrics: Mapping[str, float]) -> None:
        columns, rows = class_rows(metrics)
        overall = {name: value for name, value in metrics.items() if name.count("/") == 1}
        self.run.log({"results": _import_wandb().Table(columns=columns, data=rows), **overall})

    def _write_pictures(self, pictures: "Mapping[str, Image.Image]") -> None:
        image = _import_wandb().Image
        self.run.log({f"pictures/{name}": image(picture, file_type="jpg") for name, picture in pictures.items()})

    def finish(self, *, failed: bool) -> None:
        """Close the run, and log how to send it if it was only written to disk."""
        folder = Path(self.run.settings.sync_dir)
        complete = self.online and not self.broken
        # Closed even after a failure: to W&B an open run is still running, and would block this process's next one.
        self.broken = False
        self._attempt(lambda: self.run.finish(exit_code=int(failed)))
        if not complete or self.broken:
            _LOG.info("W&B: kept in %s. Send it with: wandb sync %s", folder, folder)


@dataclass(frozen=True, kw_only=True)
class WandbTrackerConfig(TrackerConfig):
    """Schema of `tracker=wandb`. The key is never a setting: W&B reads it from WANDB_API_KEY or from `wandb login`."""

    SCHEMA: ClassVar[str] = "wandb"

    project: str = "ntt"
    """W&B project."""

    entity: str | None = None
    """W&B user or team; null: the default of the logged-in user."""

    mode: str = setting("auto", one_of=("auto", "online", "offline"))
    """auto: online if there is a key, else offline; online; offline: written to disk, for a later `wandb sync`."""

    folder: str = "outputs"
    """Folder in which W&B keeps its files, in a subfolder `wandb`."""

    tags: list[str] = field(default_factory=list)
    """Tags in addition to data set, split, shots, backbone, segmenter and matcher."""

    max_pictures: int = setting(16, ge=0)
    """Pictures to send, spread over all that were drawn; 0: none."""

    init_timeout_s: int = setting(30, ge=1)
    """Seconds to wait for the server at the start; then the run is kept offline."""

    finish_timeout_s: int = setting(120, ge=1)
    """Seconds to wait at the end until everything is sent; then the rest stays on disk."""

    def build(self, identity: RunIdentity) -> Tracker:
        """Open the run: online where requested and possible, else offline, else not at all."""
        online = self._is_online()
        for attempt in (True, False) if online else (False,):
            try:
                run = self._init(identity, online=attempt)
                return WandbTracker(run=run, online=attempt, max_pictures=self.max_pictures)
            except Exception as error:
                _UNREACHABLE.set()
                then = "The record is kept offline" if attempt else "The run continues without it"
                _LOG.warning("tracker=wandb cannot be opened (%s). %s.", reason(error), then)
                with suppress(Exception):  # its background process would keep retrying and hold the run's id
                    _import_wandb().teardown(exit_code=1)
        return Tracker()

    def _is_online(self) -> bool:
        mode = os.environ.get("WANDB_MODE", "online") if self.mode == "auto" else self.mode
        if mode in ("offline", "dryrun", "disabled") or _UNREACHABLE.is_set():
            return False
        with suppress(Exception):  # opening the run explains a missing package or a malformed key
            wandb = _import_wandb()
            wandb.setup(wandb.Settings(silent=True))
            if wandb.login(prompt=False, verify=False):
                return True
        _LOG.warning("W&B: no key is set (WANDB_API_KEY, or `wandb login`), so the record is kept offline.")
        return False

    def _init(self, identity: RunIdentity, *, online: bool) -> Any:
        wandb = _import_wandb()
        folder = Path(self.folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        # A W&B agent has registered the run it wants, and would wait forever for one with another id.
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
            id=agent_id or (identity.run_id if online else f"{identity.run_id}-{secrets.token_hex(4)}"),
            resume="allow",
            mode="online" if online else "offline",
            project=self.project,
            entity=self.entity,
            group=identity.group,
            name=identity.name,
            job_type=identity.job_type,
            tags=[*dict.fromkeys(tag[:_LONGEST_TAG] for tag in (*identity.tags, *self.tags))],
            config={**flatten_settings(identity.config), "point": identity.run_id, "run_dir": str(identity.run_dir)},
            dir=str(folder),
            settings=settings,
        )
        if online:
            _LOG.info("W&B: %s", run.url)
        return run


def _import_wandb() -> Any:
    # W&B's own error reports would delay the end of the process if the server does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb
