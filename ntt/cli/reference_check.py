"""The work of `ntt references check`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import pandas as pd

from ntt.base.files import write_json, write_text
from ntt.config.command_line import check_overrides
from ntt.config.compose import compose_config
from ntt.data.references import reference_targets
from ntt.reports.tables import SUFFIXES, Format, Table, render
from ntt.run.checks import check_run
from ntt.run.pipeline import Pipeline
from ntt.run.stages import LEAVE_ONE_OUT, MEMORY, matcher_of
from ntt.stages.pictures import draw_references
from ntt.stages.reference_effects import reference_effects
from ntt.types import ReferenceCheck, ReferenceSet

_APART = -1.0
"""A reference whose absence raises the AP of the others by so many points stands apart."""


def check_settings(overrides: Sequence[str], table_format: Format, out: Path | None) -> None:
    """Check the references of a run with these settings, print tables, and write files if `out` is given."""
    words = ["matcher=auto", *overrides, "stage=leave_one_out"]
    check_overrides(words)
    run = Pipeline(compose_config(words), keeps_results=False)
    check_run(run)
    check, references = run.result(LEAVE_ONE_OUT), run.references
    effects = reference_effects(
        references=references,
        objects=reference_targets(references, run.objects_of_image),
        memory=run.result(MEMORY),
        matcher=matcher_of(run),
        source=run.models.source,
        group=run.group,
    )
    tables = [_classes(check, references), _matchers(check), _references(effects, references)]
    texts = [render(table, table_format) for table in tables]
    click.echo("\n".join(texts).rstrip())
    if out is not None:
        for table, text in zip(tables, texts, strict=True):
            write_text(out / f"{table.name}{SUFFIXES[table_format]}", text)
        effects_by_id = {str(annotation_id): effect for annotation_id, effect in effects.items()}
        write_json(out / "check.json", {**asdict(check), "effects": effects_by_id})
        notes = {annotation_id: f"effect {effect:+.1f}" for annotation_id, effect in effects.items()}
        draw_references(references=references, masks=run.encoder.masks, folder=out, notes=notes)
        click.echo(f"\nwritten to {out}")


def _classes(check: ReferenceCheck, references: ReferenceSet) -> Table:
    rows = []
    for category, members in zip(references.categories, references.instances, strict=True):
        row = {"class": category.name, "references": len(members)}
        row |= {f"AP {name}": of_class.get(category.name) for name, of_class in check.expected.items()}
        rows.append({**row, "threshold": _two_digits(check.thresholds.get(category.name))})
    notes = [f"{check.num_images} reference images. Target images give about 0.6 of this AP in the median."]
    if not check.is_complete:
        notes.append(
            "Not all objects of these images seem to be annotated (dataset.references_complete): AP is too low."
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
    return Table("matchers", "Matchers", pd.DataFrame(rows))


def _references(effects: Mapping[int, float], references: ReferenceSet) -> Table:
    names = {category.id: category.name for category in references.categories}
    measured = [each for members in references.instances for each in members if each.id in effects]
    rows = [
        {
            "class": names[instance.category_id],
            "image": references.images[instance.image_id].file_name,
            "annotation": instance.id,
            "effect": effects[instance.id],
            "stands apart": "yes" if effects[instance.id] <= _APART else "",
        }
        for instance in sorted(measured, key=lambda instance: effects[instance.id])
    ]
    notes = ["Effect: AP of the class on its other reference images with this reference minus without it."]
    if not rows:
        notes = ["No class has references on three images: none can be left out."]
    return Table("references", "References, the most harmful first", pd.DataFrame(rows), tuple(notes))


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
