"""Tables for people: metrics as plain text."""

from collections.abc import Sequence

from ntt.types import Metrics

_COLUMNS = ("AP", "AP50", "AP75", "AR100")
_KIND_NAMES = {"bbox": "box", "segm": "mask"}


def metrics_table(metrics: Metrics) -> str:
    """Return AP, AP50, AP75 and AR in percent, over all classes and per class, for boxes and for masks."""
    kinds = [kind for kind in _KIND_NAMES if kind in metrics.overall]
    if not kinds:
        return "The target images have no annotations, so there is nothing to compare the predictions with."
    heading = ["class", *(_heading(kind, column) for kind in kinds for column in _COLUMNS)]
    classes = list(metrics.per_class[kinds[0]])
    rows = [[name, *_cells(metrics, kinds, name)] for name in classes]
    rows.append(["all classes", *_cells(metrics, kinds, None)])
    lines = _align([heading, *rows])
    rule = "-" * max(len(line) for line in lines)
    table = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
    if "segm" not in kinds:
        table.append("Masks are not evaluated: not every object of the ground truth has one.")
    return "\n".join(table)


def _heading(kind: str, column: str) -> str:
    return f"{_KIND_NAMES[kind]} {'AR' if column == 'AR100' else column}"


def _cells(metrics: Metrics, kinds: Sequence[str], label: str | None) -> list[str]:
    cells = []
    for kind in kinds:
        values = metrics.overall[kind] if label is None else metrics.per_class[kind][label]
        cells += [f"{values[column]:.1f}" if column in values else "-" for column in _COLUMNS]
    return cells


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
