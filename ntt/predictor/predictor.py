"""The method as a Python object: examples in, detections out."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ntt.base.digests import content_key
from ntt.base.distributed import ProcessGroup
from ntt.base.progress import track
from ntt.config.compose import compose_config
from ntt.convert.folders import Folder
from ntt.data.references import are_complete, reference_targets
from ntt.errors import ConfigError, DataError, counted, raise_all
from ntt.evaluation.thresholds import lowest_scores
from ntt.matchers.auto import AutoMatcher, scorings
from ntt.predictor.references import ImageLike, PathLike, Reference, as_file, checked_examples, reference_set
from ntt.predictor.results import Instances
from ntt.run.artefacts import MEMORY_FIELDS, read_memory, read_memory_thresholds, write_memory
from ntt.run.models import build_models
from ntt.stages.candidates import CandidateSource
from ntt.stages.leave_one_out import check_references
from ntt.stages.matching import build_prototypes
from ntt.stages.memory import fill_memory
from ntt.store.entries import Arrays
from ntt.store.store import Store
from ntt.types import MemoryBank, ReferenceCheck, ReferenceSet


class Predictor:
    """Finds objects of the classes of which it has examples."""

    def __init__(
        self,
        references: Iterable[Reference] | None = None,
        *,
        memory: PathLike | None = None,
        backbone: str = "efficientnet_lite0",
        segmenter: str = "regions",
        matcher: str = "ntt",
        device: str | None = None,
        overrides: str | Sequence[str] = (),
        store: PathLike | None = None,
    ) -> None:
        """Encode the examples. Sets PyTorch's number of threads and its determinism to those of `runtime`.

        Args:
            references: the examples; classes are numbered in the order in which they first occur.
            memory: instead of examples, a file that `save_memory` wrote, with the same models.
            backbone: an option of the config group, such as "dinov2_vitl14".
            segmenter: option, such as "sam2".
            matcher: option.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps"; None: that of the options, by default "auto".
            overrides: any further settings, as on the command line: "runtime=gpu", "matcher.merging=hard".
            store: a folder for computed results, for example that of runs; None: nothing is stored.

        Raises:
            NttError: for an example that cannot be used, a wrong setting, or missing weights.
        """
        if (references is None) == (memory is None):
            raise ConfigError("Examples and a memory exclude each other, and one is needed. Give references or memory.")
        self._examples = () if references is None else checked_examples(references)
        options = [f"backbone={backbone}", f"segmenter={segmenter}", f"matcher={matcher}"]
        options += [] if device is None else [f"runtime.device={device}"]
        config = compose_config([*options, *([overrides] if isinstance(overrides, str) else overrides)])
        entries = _NoStore(Path()) if store is None else Store(Path(store).expanduser().absolute())
        self._models, self._matcher = build_models(config, store=entries), config.matcher
        if memory is not None:
            path = Path(memory).expanduser()
            self._memory = read_memory(path, made_with=self._settings)
            self._saved_thresholds, self._can_propose = read_memory_thresholds(path), False
        else:
            self._saved_thresholds = {}
            with self._references() as (examples, source):
                self._memory, self._can_propose = self._fill(examples, source), examples.can_be_left_out
                if isinstance(self._matcher, AutoMatcher):
                    self._check = self._check_references(examples, source)
        name = self._check.scoring if isinstance(self._matcher, AutoMatcher) else self._matcher.name
        self._matcher = self._scorer = scorings(self._matcher)[name]
        self._prototypes = build_prototypes(memory=self._memory, matcher=self._scorer)

    @cached_property
    def thresholds(self) -> Mapping[str, float]:
        """Class name -> lowest score worth showing, the default of `Instances.above`.

        Proposed when first asked for, by searching the image of each example with the others (method.md §9.4), which
        takes as long as searching these images; saved memories include them. 0.4 if no class has examples on two
        images, if the memory was saved with another matcher, or with `evaluation.thresholds=fixed`; the same score for
        all classes with `visualisation.score_threshold`.
        """
        config = self._models.config
        fixed, proposed = config.visualisation.score_threshold, self._saved_thresholds.get(self._scoring, {})
        if fixed is not None or config.evaluation.thresholds == "fixed" or not self._can_propose:
            return lowest_scores(self._memory.categories, fixed, proposed)
        return lowest_scores(self._memory.categories, None, self._check.thresholds)

    @cached_property
    def _check(self) -> ReferenceCheck:
        if not self._examples:
            raise ConfigError("matcher=auto needs the examples, not only their memory. Give them, or name a matcher.")
        with self._references() as (references, source):
            return self._check_references(references, source)

    def _check_references(self, references: ReferenceSet, source: CandidateSource) -> ReferenceCheck:
        answer, objects_of_image = self._models.config.dataset.references_complete, references.instances_of_image
        return check_references(
            references=references,
            objects=reference_targets(references, objects_of_image),
            is_complete=are_complete(references, objects_of_image, answer=answer),
            memory=self._memory,
            matcher=self._matcher,
            source=source,
            group=ProcessGroup(),
        )

    @contextmanager
    def _references(self) -> Iterator[tuple[ReferenceSet, CandidateSource]]:
        """Return the examples, and a source that finds the candidates of their images once, even without a store."""
        source = self._models.source
        with tempfile.TemporaryDirectory(prefix="ntt-") as folder:
            if isinstance(source.store, _NoStore):
                source = replace(source, store=Store(Path(folder, "store")))
            yield reference_set(self._examples, Path(folder)), source

    def __repr__(self) -> str:
        """Return one line: classes and models."""
        config = self._models.config
        used = "" if self._matcher == config.matcher else f": {self._matcher.name}"
        options = ", ".join(option.name for option in (config.backbone, config.segmenter, config.matcher)) + used
        return f"Predictor({counted(len(self.classes), 'class', 'classes')}: {', '.join(self.classes)}; {options})"

    def _fill(self, references: ReferenceSet, source: CandidateSource) -> MemoryBank:
        encoder = self._models.encoder(references.instances_of_image)
        read = source if self._matcher.reads_full_images else None
        return fill_memory(references=references, encoder=encoder, group=ProcessGroup(), source=read)

    @property
    def _settings(self) -> str:
        """Digest of what decides the memory, except the examples."""
        matcher = self._matcher
        segmenter = dict(self._models.segmenter.fingerprint) if matcher.reads_full_images else None
        surroundings = matcher.reads_clear_surroundings
        return content_key({**self._models.encoder(None).fingerprint, "full": segmenter, "clear": surroundings})

    @property
    def _scoring(self) -> str:
        """Digest of what decides the scores, except the memory."""
        return content_key([dict(self._matcher.fingerprint), self._models.source.fingerprint])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the searched classes. Assign some of them, in any order, to search only those."""
        return tuple(category.name for category in self._prototypes.categories)

    @classes.setter
    def classes(self, names: Iterable[str]) -> None:
        selected = [names] if isinstance(names, str) else list(names)
        all_names = [category.name for category in self._memory.categories]
        if not selected or len(set(selected)) < len(selected) or not set(selected) <= set(all_names):
            raise ConfigError(
                f"The classes {selected} cannot be searched. Choose one or more of {all_names}, each once."
            )
        labels = [all_names.index(name) for name in selected]
        fields = {field: getattr(self._memory, field) for field in ("categories", *MEMORY_FIELDS.values())}
        selection = {field: tuple(values[label] for label in labels) for field, values in fields.items() if values}
        self._prototypes = build_prototypes(memory=replace(self._memory, **selection), matcher=self._scorer)

    def save_memory(self, path: PathLike) -> None:
        """Write the memory of all examples and the `thresholds` as safetensors.

        `Predictor(memory=path)` with the same backbone and settings reads the file. Thresholds that nobody has asked
        for are proposed now, which searches the images of all examples.
        """
        thresholds = {**self._saved_thresholds, self._scoring: self.thresholds}
        write_memory(Path(path).expanduser(), self._memory, made_with=self._settings, thresholds=thresholds)

    def __call__(self, image: ImageLike) -> Instances:
        """Search one image; a DataError if it cannot be read."""
        with as_file(image) as record:
            candidates = self._models.source.get(record)
            detections = self._scorer.match(record.id, candidates, self._prototypes)
        categories = self._prototypes.categories
        return Instances(**vars(detections), categories=categories, image=image, thresholds=lambda: self.thresholds)

    def search(self, images: ImageLike | Iterable[ImageLike], *, progress: bool = True) -> Iterator[Instances]:
        """Search many images, each one once the result before it has been consumed.

        Args:
            images: a folder, whose images are taken in order of name; or images in any form, also from a generator; or
                one image.
            progress: show a bar on a terminal; elsewhere, log the progress.

        Yields:
            The instances of each image, which is `Instances.image`.
        """
        if isinstance(images, str | os.PathLike) and not Path(images).expanduser().is_file():
            folder = Folder(Path(images).expanduser())
            raise_all(folder.problems, DataError, summary="Some files cannot be used")
            images = list(folder.images)
        elif isinstance(images, str | os.PathLike | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim in (2, 3)
        ):
            images = [images]
        return map(self, track(images, "searching", unit="image", visible=progress))


class _NoStore(Store):
    def read(self, kind: str, key: str, parse: Any) -> None:
        pass

    def write(self, kind: str, key: str, arrays: Arrays, *, notes: Any) -> None:
        pass
