"""The work of `ntt references check`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
import pandas as pd

from ntt.base.files import write_text
from ntt.config.compose import compose_config
from ntt.data.references import reference_targets
from ntt.reports.tables import SUFFIXES, Format, Table, render
from ntt.run.checks import check_run
from ntt.run.pipeline import Pipeline
from ntt.run.stages import LEAVE_ONE_OUT, MEMORY, matcher_of
from ntt.stages.leave_one_out import reference_agreement, reference_effects
from ntt.stages.pictures import draw_references
from ntt.types import ReferenceCheck, ReferenceSet

_APART = -1.0
"""Points of AP by which the absence of a reference that stands apart raises the AP of the others."""


def check_settings(overrides: Sequence[str], table_format: Format, out: Path | None) -> None:
    """Check the references of a run with these settings, print tables, and write files if `out` is given."""
    run = Pipeline(compose_config(["matcher=auto", *overrides, "stage=leave_one_out"]), keeps_results=False)
    check_run(run)
    check, memory = run.result(LEAVE_ONE_OUT), run.result(MEMORY)
    agreement = reference_agreement(run.references, memory)
    references = _ranked(run.references, agreement)
    effects = reference_effects(
        references=run.references,
        objects=reference_targets(run.references, run.objects_of_image),
        memory=memory,
        matcher=matcher_of(run),
        source=run.models.source,
        group=run.group,
    )
    tables = [_classes(check, references), _matchers(check), _references(references, agreement, effects, check.scoring)]
    texts = [render(table, table_format) for table in tables]
    click.echo("\n".join(texts).rstrip())
    if out is not None:
        for table, text in zip(tables, texts, strict=True):
            write_text(out / f"{table.name}{SUFFIXES[table_format]}", text)
        notes = {key: f"agree {value:.2f}" for key, value in agreement.items()}
        notes |= {key: f"{notes[key]}, effect {effect:+.1f}" for key, effect in effects.items()}
        title = "References, the most typical of each class first"
        draw_references(references=references, masks=run.encoder.masks, folder=out, notes=notes, title=title)
        click.echo(f"\nwritten to {out}")


def _ranked(references: ReferenceSet, agreement: Mapping[int, float]) -> ReferenceSet:
    """Return the references of each class by descending agreement with the others."""
    ranked = (sorted(members, key=lambda each: -agreement.get(each.id, 0.0)) for members in references.instances)
    return replace(references, instances=tuple(map(tuple, ranked)))


def _classes(check: ReferenceCheck, references: ReferenceSet) -> Table:
    rows = []
    for category, members in zip(references.categories, references.instances, strict=True):
        row = {"class": category.name, "references": len(members)}
        row |= {f"AP {name}": of_class.get(category.name) for name, of_class in check.expected.items()}
        rows.append({**row, f"threshold {check.scoring}": _two_digits(check.thresholds.get(category.name))})
    notes = [f"{check.num_images} reference images. Target images give about 0.6 of this AP in the median."]
    if not check.is_complete:
        notes.append(
            "Not all objects of these images seem to be annotated (dataset.references_complete): AP is too low, and "
            "thresholds may be too high."
        )
    return Table("classes", "Box AP on left-out reference images", pd.DataFrame(rows), tuple(notes))


def _matchers(check: ReferenceCheck) -> Table:
    first = next(iter(check.expected))
    rows = [
        {
            "matcher": name,
            "AP": values.get(""),
            f"better than {first}": f"{check.better[name]:.0%} of draws" if name in check.better else "-",
            "choice": "yes" if name == check.scoring else "",
        }
        for name, values in check.expected.items()
    ]
    notes = [f"The references may not choose: {check.obstacle}."] if check.obstacle else []
    return Table("matchers", "Matchers", pd.DataFrame(rows), tuple(notes))


def _references(
    references: ReferenceSet, agreement: Mapping[int, float], effects: Mapping[int, float], scoring: str
) -> Table:
    rows = [
        {
            "class": category.name,
            "image": references.images[instance.image_id].file_name,
            "annotation": instance.id,
            "agreement": _two_digits(agreement.get(instance.id)),
            "effect": effects.get(instance.id),
            "stands apart": "yes" if effects.get(instance.id, 0.0) <= _APART else "",
        }
        for category, members in zip(references.categories, references.instances, strict=True)
        for instance in members
    ]
    notes = [
        "Agreement: cosine of its feature with the mean of those of its class on other images; highest first.",
        f"Effect: AP of the class on its other reference images with this reference minus without it ({scoring}).",
    ]
    if not effects:
        notes[1] = "No class has references on three images: no effect can be measured."
    return Table("references", "References", pd.DataFrame(rows, dtype=object), tuple(notes))


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
