"""A run in progress: its inputs, its models, and the results of its stages.

Each stage has a key, the digest of everything that decides its result. Its files are written first, then a record with
the key; a stage whose record has the right key is read back instead of repeated. What a stage needs from earlier ones
is computed on demand, so any stage can be requested alone. The stages are in `ntt.run.stages`.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from ntt.base import distributed as dist
from ntt.base.files import remove_stale_temporaries
from ntt.config.identity import run_directory, stage_key
from ntt.config.schema import ExperimentConfig
from ntt.matchers.auto import AutoMatcher
from ntt.run.environment import peak_memory_mb
from ntt.run.inputs import Inputs, drawn_references, image_digests, read_inputs
from ntt.run.models import Models, build_models
from ntt.run.rundir import RunDirectory
from ntt.run.shared import Prepared, Workspace
from ntt.stages.memory import ReferenceEncoder
from ntt.types import ImageId, ImageRecord, Instance, ReferenceSet

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage(Generic[T]):
    """One stage of a run.

    Attributes:
        write: writes the result into the run directory and returns the files; called in the main process.
        describe: puts the result in a few words, for the log.
        inputs: what decides the result besides settings and needed stages: digests of files, models' fingerprints.
        may_need: further stages it builds on, which depend on the run.
        is_shared: whether the result is kept for later runs of the process with the same key.
    """

    name: str
    compute: "Callable[[Pipeline], T]"
    write: "Callable[[Pipeline, T], list[Path]]"
    read: "Callable[[Pipeline], T]"
    describe: Callable[[T], str]
    inputs: "Callable[[Pipeline], Mapping[str, Any]]" = lambda _: {}
    needs: "tuple[Stage[Any], ...]" = ()
    may_need: "Callable[[Pipeline], tuple[Stage[Any], ...]]" = lambda _: ()
    is_shared: bool = False


@dataclass
class Pipeline:
    """One run in one process; without `keeps_results` nothing is written, and results are prepared in the workspace."""

    config: ExperimentConfig
    group: dist.ProcessGroup = field(default_factory=dist.ProcessGroup)
    workspace: Workspace = field(default_factory=Workspace)
    keeps_results: bool = True
    _results: dict[str, Any] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _finished: set[str] = field(default_factory=set)

    @cached_property
    def directory(self) -> RunDirectory:
        """The files of the run."""
        return RunDirectory(run_directory(self.config).absolute())

    @cached_property
    def inputs(self) -> Inputs:
        """The annotation files and the classes to search, read by the main process first."""
        if not self.group.is_main:
            dist.barrier(self.group)
        inputs = read_inputs(self.config, read=self.workspace.read_coco)
        if self.group.is_main:
            dist.barrier(self.group)
        return inputs

    @cached_property
    def models(self) -> Models:
        """Device, models and store."""
        return build_models(self.config, workspace=self.workspace, local_rank=self.group.local_rank)

    @cached_property
    def references(self) -> ReferenceSet:
        """The references that are drawn; nothing is written."""
        return drawn_references(self.config, self.inputs.reference_data, self.inputs.categories)

    @cached_property
    def encoder(self) -> ReferenceEncoder:
        """What describes references."""
        return self.models.encoder(self.objects_of_image)

    def objects_of_image(self, image_id: ImageId) -> tuple[Instance, ...]:
        """Return all annotated objects of a reference image."""
        return self.inputs.reference_data.instances_of_image(image_id)

    @property
    def reference_images(self) -> list[ImageRecord]:
        """The reference images whose candidates are needed: all of them, or none."""
        is_needed = self.config.matcher.reads_full_images or self.leaves_one_out
        return list(self.references.images.values()) if is_needed else []

    @property
    def measures_thresholds(self) -> bool:
        """Whether precision, recall and F1 are measured."""
        config = self.config
        is_asked = {"proposed": True, "fixed": False, "auto": config.visualisation.enabled or self.has_choice}
        return is_asked[config.evaluation.thresholds]

    @property
    def has_choice(self) -> bool:
        """Whether the references choose the matcher."""
        return isinstance(self.config.matcher, AutoMatcher)

    @property
    def leaves_one_out(self) -> bool:
        """Whether reference images are searched, for thresholds or for the choice of the matcher."""
        return self.has_choice or (self.measures_thresholds and self.references.can_be_left_out)

    @cached_property
    def targets(self) -> list[ImageRecord]:
        """The target images in file order."""
        return list(self.inputs.target_data.images.values())

    def image_details(self, records: Sequence[ImageRecord]) -> list[Any]:
        """Return what decides the content of images; a copy elsewhere is the same image."""
        digests = image_digests(records, self.group)
        return [
            [record.id, digest, record.height, record.width] for record, digest in zip(records, digests, strict=True)
        ]

    def key(self, stage: Stage[Any]) -> str:
        """Return the digest of everything that decides a stage's result; all processes compute it together."""
        if stage.name not in self._keys:
            keys = {needed.name: self.key(needed) for needed in (*stage.needs, *stage.may_need(self))}
            self._keys[stage.name] = stage_key(self.config, stage.name, {**keys, **stage.inputs(self)})
        return self._keys[stage.name]

    def is_done(self, stage: Stage[Any]) -> bool:
        """Return whether a stage's files exist as they were written; once they do, they are not checked again."""
        if stage.name not in self._finished:
            key = self.key(stage)
            if dist.compute_on_main(lambda: self.directory.is_done(stage.name, key), self.group):
                self._finished.add(stage.name)
        return stage.name in self._finished

    def is_outdated(self, stage: Stage[Any]) -> bool:
        """Return whether there are results of a stage that were computed from other inputs."""
        record = dist.compute_on_main(lambda: self.directory.record(stage.name), self.group)
        return record is not None and record["key"] != self.key(stage)

    def result(self, stage: Stage[T]) -> T:
        """Return a stage's result: from memory, from its files, or computed and written now."""
        if stage.name in self._results:
            return cast("T", self._results[stage.name])
        if self.is_done(stage):
            result = stage.read(self)
            _LOG.info("%-14s already done: %s", stage.name, stage.describe(result))
        else:
            result = self._make(stage)
        self._results[stage.name] = result
        return result

    def _make(self, stage: Stage[T]) -> T:
        for needed in (*stage.needs, *stage.may_need(self)):
            self.result(needed)
        ready = self._compute(stage)
        result: T = ready.result
        if not self.keeps_results:
            return result
        shares = dist.gather([(self.group.rank, (ready.used, Counter(ready.computed)))], self.group.size, self.group)
        if self.group.is_main:
            self.directory.write_store_keys(stage.name, {entry for used, _ in shares for entry in used})
            details = {
                "seconds": round(ready.seconds, 4),
                "peak_memory_mb": peak_memory_mb(self.models.placement),
                "computed": sum((computed for _, computed in shares), Counter()),
            }
            self.directory.write_record(stage.name, self.key(stage), stage.write(self, result), details)
        dist.barrier(self.group)
        _LOG.info("%-14s %s in %.1f s", stage.name, stage.describe(result), ready.seconds)
        return result

    def _compute(self, stage: Stage[T]) -> Prepared:
        """Return a stage's result, prepared earlier or computed now; what another run has computed took no time."""
        prepared, store, key = self.workspace.prepared, self.models.store, self.key(stage)
        if key in prepared:
            ready = prepared[key] if stage.is_shared or not self.keeps_results else prepared.pop(key)
            if isinstance(ready.result, Exception):
                raise ready.result
            store.used.update(ready.used)
            return replace(ready, seconds=0.0, computed={}) if stage.is_shared else ready
        started, used, written = time.monotonic(), set(store.used), set(store.written)
        result = stage.compute(self)
        computed = Counter(kind for kind, _ in store.written - written)
        ready = Prepared(result, frozenset(store.used - used), time.monotonic() - started, computed)
        if stage.is_shared or not self.keeps_results:
            prepared[key] = ready
        return ready

    def tidy(self) -> None:
        """Remove temporary files that killed processes left in the run directory and the store."""
        if not self.group.is_main:
            return
        store = self.models.store
        remove_stale_temporaries(self.directory.root)
        if store.written or store.root not in self.workspace.cleaned_folders:
            remove_stale_temporaries(store.root)
            self.workspace.cleaned_folders.add(store.root)
