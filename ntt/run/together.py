"""Matches runs that share candidates together, image by image, ahead of the runs themselves."""

import logging
import time
from collections.abc import Hashable, Sequence

from ntt.base.digests import content_key
from ntt.base.distributed import ProcessGroup
from ntt.config.schema import ExperimentConfig
from ntt.errors import DataError, NttError
from ntt.run.pipeline import Pipeline
from ntt.run.shared import Prepared, Workspace
from ntt.run.stages import CANDIDATES, MATCHING, PROTOTYPES, matcher_of
from ntt.stages.matching import match_points
from ntt.types import Detections

_LOG = logging.getLogger(__name__)
MAX_IMAGES = 60_000
"""Detections of this many images, over all runs matched together, fit into about half a gigabyte."""


def match_ahead(configs: Sequence[ExperimentConfig], workspace: Workspace) -> int:
    """Put the detections of runs into the workspace, from which each run later takes its own.

    Runs whose candidates are not those of the first are left to themselves, as is what cannot be prepared: the run then
    fails with its own message. Returns how many runs were considered, at least 1, as memory allows; the next call, for
    the rest, drops what this one has left in the workspace.
    """
    workspace.prepared.clear()
    runs: list[Pipeline] = []
    considered = 0
    for config in configs:
        run = Pipeline(config, ProcessGroup(), workspace, keeps_results=False)
        try:
            if considered and (considered + 1) * len(run.targets) > MAX_IMAGES:
                break
            if not run.is_done(MATCHING):
                run.result(CANDIDATES)
                run.result(PROTOTYPES)
                runs.append(run)
        except NttError as error:
            _LOG.debug("Left to the run itself: %s", error)
        considered += 1
    sharing = [run for run in runs if run.key(CANDIDATES) == runs[0].key(CANDIDATES)]
    if len(sharing) > 1:
        try:
            _match(sharing, workspace)
        except NttError as error:
            _LOG.debug("Left to the runs themselves: %s", error)
    return considered


def _match(runs: Sequence[Pipeline], workspace: Workspace) -> None:
    images, source = runs[0].targets, runs[0].models.source
    # Points that ask for more shots than there are references may have the same prototypes.
    points = {_matching_key(run): (matcher_of(run), run.result(PROTOTYPES)) for run in runs}
    results: dict[Hashable, list[Detections]] = {key: [] for key in points}
    errors: dict[Hashable, DataError] = {}
    started = time.monotonic()
    for outcomes in match_points(images=images, source=source, points=list(points.values())):
        for key, outcome in zip(points, outcomes, strict=True):
            if isinstance(outcome, DataError):
                errors.setdefault(key, outcome)
            else:
                results[key].append(outcome)
    seconds = (time.monotonic() - started) / len(points)
    used = frozenset(entry for entry in source.store.used if entry[0] == "candidates")
    for run in runs:
        key = _matching_key(run)
        workspace.prepared[run.key(MATCHING)] = Prepared(errors.get(key) or results[key], used, seconds)


def _matching_key(run: Pipeline) -> Hashable:
    """Return what decides a run's detections besides the candidates."""
    prototypes = run.result(PROTOTYPES)
    tensors = (prototypes.vectors_PD.numpy().tobytes(), prototypes.labels_P.numpy().tobytes())
    return content_key(matcher_of(run).fingerprint), prototypes.categories, *tensors
