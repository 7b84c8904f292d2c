"""Why ten references are hardly better than five: subsets of them, chosen in several ways, and weights.

    python -m benchmarks.slope FOLDER... [--set KEY=VALUE]

Each folder is a data set in COCO format whose references file has about ten instances per class. All numbers are box AP
of a class on the target images, in percent, averaged over the classes with eight references or more. References are
exchanged in all classes at once: "one 3" is a search with the third reference of every class. Choices take the five
references of a class with the highest, weights are

    effect    AP of the class on its other reference images with the reference minus without it (`ntt references check`)
    alone     AP of the class on its other reference images with this reference alone
    probe     score of the reference by a probe of the others
    typical   cosine with the mean of the others
    targets   AP on the targets with this reference alone: looks at the answer, a bound
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from benchmarks.shots import show
from ntt.config.compose import compose_config
from ntt.data.references import reference_targets
from ntt.matchers.auto import scorings
from ntt.matchers.probe import ProbeMatcher
from ntt.matchers.scoring import DetectingMatcher
from ntt.ops.pooling import l2_normalise
from ntt.run.pipeline import Pipeline
from ntt.run.stages import MEMORY
from ntt.stages.leave_one_out import box_ap, reference_effects, search_left_out
from ntt.stages.matching import build_prototypes, match_points
from ntt.types import MemoryBank

MATCHERS = ("ntt", "probe_half")
MIN_REFERENCES, CHOSEN = 8, 5
COUNTS, DRAWS = (2, 3, 5, 7), 10
MAX_REPEATS = 10
PROBE = ProbeMatcher(name="probe", reference_vectors="mean", full_share=0.25, surroundings="clear")
Rows = list[np.ndarray]
"""Per class, which references; an index that occurs twice counts twice."""
Rule = Callable[[int, int], np.ndarray]
"""Gives the rows of a class by its number of references and its label."""


@dataclass
class Slope:
    """One data set with all its references, and one matcher."""

    run: Pipeline
    matcher: DetectingMatcher

    def __post_init__(self) -> None:
        """Look up the references, and what there is to find in their images."""
        self.memory, self.references = self.run.result(MEMORY), self.run.references
        self.objects = reference_targets(self.references, self.run.objects_of_image)
        self.sizes = [len(members) for members in self.references.instances]
        self.is_measured = np.array(self.sizes) >= MIN_REFERENCES

    def subset(self, rows: Rows) -> MemoryBank:
        """Return the memory with some references of each class only."""
        vectors = {field.name: getattr(self.memory, field.name) for field in fields(MemoryBank)[1:]}
        cut = {name: tuple(own[index] for own, index in zip(of, rows, strict=True)) for name, of in vectors.items()}
        return replace(self.memory, **cut)

    def each(self, rule: Rule) -> Rows:
        """Return the rows of each class by a rule."""
        return [rule(size, label) for label, size in enumerate(self.sizes)]

    def search(self, subsets: dict[str, Rows]) -> dict[str, np.ndarray]:
        """Search the targets with several subsets in one pass: AP of each class, NaN without objects."""
        memories = map(self.subset, subsets.values())
        points = [(self.matcher, build_prototypes(memory=memory, matcher=self.matcher)) for memory in memories]
        images = match_points(images=self.run.targets, source=self.run.models.source, points=points)
        per_subset = zip(subsets, zip(*images, strict=True), strict=True)
        return {name: self.ap(detections, self.run.inputs.target_data) for name, detections in per_subset}

    def ap(self, detections: Sequence[Any], objects: Any) -> np.ndarray:
        """Return the AP of each class, NaN where there is none."""
        values = box_ap(list(detections), self.references, objects)
        return np.array([values.get(category.name, np.nan) for category in self.references.categories])

    def score_references(self, on_targets: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
        """Score the references of each class for every kind of choice; `on_targets` is AP with each one alone."""
        effects = reference_effects(
            references=self.references,
            objects=self.objects,
            memory=self.memory,
            matcher=self.matcher,
            source=self.run.models.source,
            group=self.run.group,
        )
        effect = [np.array([effects.get(each.id, 0.0) for each in own]) for own in self.references.instances]
        numbers = range(max(self.sizes))
        alone = [self.alone_on_references(number) for number in numbers]
        probe, typical = zip(*(self.by_the_others(number) for number in numbers), strict=True)
        tables = {"alone": alone, "probe": probe, "typical": typical, "targets": on_targets}
        return {"effect": effect} | {
            name: [np.nan_to_num(np.array(table)[:size, label]) for label, size in enumerate(self.sizes)]
            for name, table in tables.items()
        }

    def alone_on_references(self, number: int) -> np.ndarray:
        """Search the reference images with one reference per class: AP on the images that do not show it."""
        rows = self.each(only(number))
        members = tuple((own[index[0]],) for own, index in zip(self.references.instances, rows, strict=True))
        references, source = replace(self.references, instances=members), self.run.models.source
        (detections,) = search_left_out(references, self.subset(rows), [self.matcher], source, self.run.group)
        values = np.zeros(len(self.sizes))
        for label, (own,) in enumerate(members):
            if self.is_measured[label]:
                instances = tuple(each for each in self.objects.instances if each.image_id != own.image_id)
                digest = f"{self.objects.digest}{own.image_id}"
                values[label] = self.ap(detections, replace(self.objects, instances=instances, digest=digest))[label]
        return values

    def by_the_others(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the score of one reference per class by the probe of the others, and its cosine with their mean."""
        others = self.subset(self.each(without(number)))
        prototypes = build_prototypes(memory=others, matcher=PROBE)
        own = PROBE.select(self.subset(self.each(only(number)))).features
        features = l2_normalise(torch.cat(own).float())
        examples: Any = SimpleNamespace(
            features=features.numpy(), predicted_iou=np.ones(len(features), dtype=np.float32)
        )
        cosines = (features * prototypes.vectors_PD[: len(features)]).sum(dim=1).numpy()
        return PROBE.class_scores(examples, prototypes).diagonal().clip(min=0), cosines

    def measure(self) -> tuple[pd.DataFrame, "pd.Series[float]"]:
        """Return AP, one row per measured class and a column per subset; and what single references do."""
        generator, numbers = np.random.default_rng(0), range(max(self.sizes))
        subsets = {"all": [np.arange(size) for size in self.sizes]}
        for number in numbers:
            subsets[f"one {number}"] = self.each(only(number))
            subsets[f"without {number}"] = self.each(without(number))
        for count in COUNTS:
            for draw in range(DRAWS):
                subsets[f"{count} {draw}"] = [generator.permutation(size)[:count] for size in self.sizes]
        values = self.search(subsets)
        scores = self.score_references([values[f"one {number}"] for number in numbers])
        subsets = {f"best by {name}": self.each(best(own)) for name, own in scores.items()}
        subsets["worst by effect"] = self.each(best([-own for own in scores["effect"]]))
        for name in ("probe", "alone"):
            subsets[f"weighted by {name}"] = [repeats(own) for own in scores[name]]
        ap = pd.DataFrame(values | self.search(subsets))[self.is_measured].dropna()
        return ap, pd.DataFrame([self.singles(own, scores) for _, own in ap.iterrows()]).mean()

    def singles(self, ap: "pd.Series[float]", scores: dict[str, list[np.ndarray]]) -> dict[str, float]:
        """Compare what references of a class do on the targets with what they do among themselves."""
        numbers = range(self.sizes[ap.name])
        alone = np.array([ap[f"one {number}"] for number in numbers])
        effect = np.array([ap["all"] - ap[f"without {number}"] for number in numbers])
        row = {"AP of the worst alone": alone.min(), "AP of the best alone": alone.max()}
        row |= {"% whose absence lowers AP by 0.5": 100 * (effect >= 0.5).mean()}
        row |= {"% whose absence raises AP by 0.5": 100 * (effect <= -0.5).mean()}
        for name in ("effect", "alone", "probe", "typical"):
            pair = scores[name][ap.name], effect if name == "effect" else alone
            is_constant = any(np.ptp(values) == 0 for values in pair)
            row[f"rank correlation, {name}"] = np.nan if is_constant else float(spearmanr(*pair).statistic)
        return row


def only(number: int) -> Rule:
    """Take one reference of each class, counted round where there are fewer."""
    return lambda size, _: np.array([number % size])


def without(number: int) -> Rule:
    """Take all references but one; the only one there is stays."""
    return lambda size, _: np.delete(np.arange(size), number % size) if size > 1 else np.zeros(1, dtype=int)


def best(scores: list[np.ndarray]) -> Rule:
    """Take the references with the highest scores."""
    return lambda _, label: np.argsort(-scores[label], kind="stable")[:CHOSEN]


def repeats(weights: np.ndarray) -> np.ndarray:
    """Return indices, each of them as often as its weight asks for; all once where no weight is above 0."""
    if weights.max() <= 0:
        return np.arange(len(weights))
    return np.repeat(np.arange(len(weights)), np.rint(MAX_REPEATS * weights.clip(0) / weights.max()).astype(int))


def main() -> None:
    """Print the tables as markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    tables, singles = [], {}
    for folder in arguments.folders:
        words = ["dataset=coco_json", f"dataset.root={folder}", "shots=10shot", "matcher=auto", *arguments.overrides]
        run = Pipeline(compose_config(words), keeps_results=False)
        for matcher in MATCHERS:
            ap, singles[matcher, folder.name] = Slope(run, scorings(run.config.matcher)[matcher]).measure()
            tables.append(ap.assign(matcher=matcher, dataset=folder.name).set_index(["matcher", "dataset"]))
    ap = pd.concat(tables)
    for name, pattern in {"1": "^one ", **{str(count): rf"^{count} \d" for count in COUNTS}}.items():
        ap[name] = ap.filter(regex=pattern).mean(axis=1)
    by_set = ap.groupby(level=[0, 1])
    curve = by_set[["1", *map(str, COUNTS), "all"]].mean()
    show("AP by number of references, drawn at random", named(curve.assign(classes=by_set.size())))
    for base in ("all", str(CHOSEN)):
        differences = ap.filter(regex="best|worst|weighted").sub(ap[base], axis=0).groupby(level=[0, 1])
        means = differences.mean().groupby(level=0).agg(text)
        means.index = pd.MultiIndex.from_product([means.index, ["mean of sets"]])
        show(f"AP minus that of {base}", named(pd.concat([differences.agg(text), means]).sort_index().T))
    show("Single references", named(pd.DataFrame(singles).round(2).astype(str)))


def text(differences: pd.Series) -> str:
    """Return a mean ± its standard error."""
    return f"{differences.mean():+.1f}" + (f" ± {differences.sem():.1f}" if len(differences) > 1 else "")


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Join the levels of both axes into one name each."""
    for axis in ("index", "columns"):
        if getattr(frame, axis).nlevels > 1:
            frame = frame.set_axis([", ".join(names) for names in getattr(frame, axis)], axis=axis)
    return frame.rename_axis("")


if __name__ == "__main__":
    main()
