"""A run while it goes on: its inputs, its models, and the results of its stages.

Each stage has a key, the digest of everything that decides its result. Its files are written before its record, and
the record names the key; a stage whose record carries the right key is read back instead of repeated. What a stage
needs from earlier ones is made on demand, so any stage can be asked for alone. The stages are in `ntt.run.stages`.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

from ntt.base import distributed as dist
from ntt.base.files import remove_stale_temporaries
from ntt.config.identity import run_directory, stage_key
from ntt.config.schema import ExperimentConfig
from ntt.run.environment import peak_memory_mb
from ntt.run.image_files import image_digests
from ntt.run.inputs import Inputs, read_inputs
from ntt.run.models import Models, build_models
from ntt.run.rundir import RunDirectory
from ntt.run.shared import Workspace
from ntt.stages.references import SamplerName, sample_references
from ntt.types import ImageRecord, ReferenceSet

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage(ABC, Generic[T]):
    """One stage of a run: what decides its result, how it is computed, and how it is written and read back.

    Attributes:
        name: as `stage=NAME` has it.
        needs: the stages it builds on.
    """

    name: ClassVar[str]
    needs: "tuple[Stage[Any], ...]" = ()

    @abstractmethod
    def inputs(self, run: "Pipeline") -> Mapping[str, Any]:
        """Return what decides the result beside settings and needed stages: digests of files, models' fingerprints."""

    @abstractmethod
    def compute(self, run: "Pipeline") -> T:
        """Compute the result, in all processes together."""

    @abstractmethod
    def write(self, run: "Pipeline", result: T) -> list[Path]:
        """Write the result into the run directory and return the files; called in the main process."""

    @abstractmethod
    def read(self, run: "Pipeline") -> T:
        """Read a result back that was written before."""

    @abstractmethod
    def describe(self, result: T) -> str:
        """Return the result in a few words, for the log."""


@dataclass
class Pipeline:
    """One run in one process.

    Attributes:
        config: a checked configuration.
        group: the processes of the run.
        workspace: what this process shares between runs.
    """

    config: ExperimentConfig
    group: dist.ProcessGroup = field(default_factory=dist.ProcessGroup)
    workspace: Workspace = field(default_factory=Workspace)
    _results: dict[str, Any] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _finished: set[str] = field(default_factory=set)

    @cached_property
    def directory(self) -> RunDirectory:
        """Where results are written."""
        return RunDirectory(run_directory(self.config).absolute())

    @cached_property
    def inputs(self) -> Inputs:
        """The annotation files and the classes to search; read once, by the main process first."""
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
        """The references as they are drawn; nothing is written."""
        shots = self.config.shots
        return sample_references(
            dataset=self.inputs.reference_data,
            categories=self.inputs.categories,
            shots=shots.count,
            seed=self.config.seed,
            sampler=cast("SamplerName", shots.sampler),
            strict=shots.strict,
            min_box_side_px=shots.min_box_side_px,
            border_px=shots.border_px,
        )

    @cached_property
    def targets(self) -> list[ImageRecord]:
        """The target images in file order."""
        return list(self.inputs.target_data.images.values())

    def image_details(self, records: Sequence[ImageRecord]) -> list[Any]:
        """Return what decides the content of images: a copy in another place is the same image."""
        digests = image_digests(records, self.group)
        return [[r.id, digest, r.height, r.width] for r, digest in zip(records, digests, strict=True)]

    def key(self, stage: Stage[Any]) -> str:
        """Return the digest of everything that decides a stage's result; made by all processes together."""
        if stage.name not in self._keys:
            keys = {needed.name: self.key(needed) for needed in stage.needs}
            self._keys[stage.name] = stage_key(self.config, stage.name, {**keys, **stage.inputs(self)})
        return self._keys[stage.name]

    def is_done(self, stage: Stage[Any]) -> bool:
        """Return whether a stage's files are there and as they were written; looked at until they are."""
        if stage.name not in self._finished:
            key = self.key(stage)
            if dist.broadcast_from_main(self.group.is_main and self.directory.is_done(stage.name, key), self.group):
                self._finished.add(stage.name)
        return stage.name in self._finished

    def result(self, stage: Stage[T]) -> T:
        """Return a stage's result: from this process's memory, from its files, or computed and written now."""
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
        for needed in stage.needs:
            self.result(needed)
        store = self.models.store
        started, used_before = time.monotonic(), set(store.used)
        result = stage.compute(self)
        seconds = time.monotonic() - started
        used = dist.gather([(self.group.rank, sorted(store.used - used_before))], self.group.size, self.group)
        if self.group.is_main:
            self.directory.write_store_keys(stage.name, {entry for entries in used for entry in entries})
            details = {"seconds": round(seconds, 3), "peak_memory_mb": peak_memory_mb(self.models.placement)}
            self.directory.write_record(stage.name, self.key(stage), stage.write(self, result), details)
        dist.barrier(self.group)
        _LOG.info("%-14s %s in %.1f s", stage.name, stage.describe(result), seconds)
        return result

    def tidy(self) -> None:
        """Remove temporary files that killed processes left behind, where this run or one like it writes."""
        if not self.group.is_main:
            return
        store = self.models.store
        remove_stale_temporaries(self.directory.root)
        if store.written or store.root not in self.workspace.tidied:
            remove_stale_temporaries(store.root)
            self.workspace.tidied.add(store.root)
