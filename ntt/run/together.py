"""Matches runs that share candidates together, image by image, ahead of the runs themselves."""

import logging
from collections.abc import Sequence

from ntt.base.distributed import ProcessGroup
from ntt.config.schema import ExperimentConfig
from ntt.errors import DataError, NttError
from ntt.run.pipeline import Pipeline
from ntt.run.shared import Prepared, Workspace
from ntt.run.stages import CANDIDATES, MATCHING, PROTOTYPES, matcher_of
from ntt.stages.matching import match_points
from ntt.types import Detections

_LOG = logging.getLogger(__name__)

# Detections of this many images, over all runs, fit into about half a gigabyte.
MAX_IMAGES = 100_000


def match_ahead(configs: Sequence[ExperimentConfig], workspace: Workspace) -> int:
    """Put the detections of runs into the workspace, from which each run later takes its own.

    Results, records and failures are those of each run alone: what cannot be prepared is left to the run, which fails
    with its own message.

    Args:
        configs: runs in order; those whose candidates are not those of the first are left to themselves.
        workspace: of the runs; what earlier calls have left there is dropped.

    Returns:
        How many runs were considered, at least 1, as memory allows; call again for the rest.
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
    points = [(matcher_of(run), run.result(PROTOTYPES)) for run in runs]
    results: list[list[Detections]] = [[] for _ in runs]
    errors: list[DataError | None] = [None for _ in runs]
    for outcomes in match_points(images=images, source=source, points=points):
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, DataError):
                errors[index] = errors[index] or outcome
            else:
                results[index].append(outcome)
    used = frozenset(entry for entry in source.store.used if entry[0] == "candidates")
    for run, detections, error in zip(runs, results, errors, strict=True):
        workspace.prepared[run.key(MATCHING)] = Prepared(error or detections, used)
