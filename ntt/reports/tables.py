"""Tables as markdown, CSV and LaTeX.

A cell is text, a number, a mean with its spread, or nothing. Markdown and LaTeX are for reading: one decimal. CSV is
for going on with: a mean becomes three columns (mean, std, n), with all its digits.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ntt.reports.summary import Statistic

Format: TypeAlias = Literal["markdown", "csv", "latex"]
Cell: TypeAlias = str | int | float | Statistic | None
SUFFIXES: dict[Format, str] = {"markdown": ".md", "csv": ".csv", "latex": ".tex"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
}


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: file name without suffix.
        title: one line above it.
        columns: headings.
        rows: cells, as many a row as there are columns.
        notes: sentences below it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse rows of another length than the heading's."""
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.name}: every row needs {len(self.columns)} cells.")


def cell_text(cell: Cell) -> str:
    """Return a cell as a person reads it: "36.8 ± 1.2 (5)" is a mean, a standard deviation and a number of runs."""
    if cell is None:
        return "–"
    if isinstance(cell, Statistic):
        spread = "" if cell.std is None else f" ± {cell.std:.1f}"
        return f"{cell.mean:.1f}{spread} ({cell.n})"
    if isinstance(cell, float):
        return f"{cell:.1f}"
    return str(cell)


def render(table: Table, form: Format) -> str:
    """Return a table as text of one of the three formats, with a line break at its end."""
    if form == "csv":
        return _csv(table)
    return _markdown(table) if form == "markdown" else _latex(table)


def is_numeric(table: Table, column: int) -> bool:
    """Say whether a column is set flush right: it holds nothing but numbers, and at least one."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and not any(isinstance(cell, str) for cell in cells)


def _markdown(table: Table) -> str:
    texts = [[_escape_markdown(cell_text(cell)) for cell in row] for row in table.rows]
    heading = [_escape_markdown(name) for name in table.columns]
    widths = [max(3, len(heading[i]), *(len(row[i]) for row in texts)) for i in range(len(heading))]
    right = [is_numeric(table, column) for column in range(len(heading))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(w) if flush else cell.ljust(w) for cell, w, flush in zip(cells, widths, right, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * (width - 1)}{':' if flush else '-'}" for width, flush in zip(widths, right, strict=True)]
    lines = [f"### {_escape_markdown(table.title)}", "", line(heading), line(rule), *map(line, texts)]
    if table.notes:
        lines += ["", *(f"- {_escape_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _latex(table: Table) -> str:
    columns = "".join("r" if is_numeric(table, column) else "l" for column in range(len(table.columns)))
    rows = [" & ".join(escape_latex(cell_text(cell)) for cell in row) + r" \\" for row in table.rows]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(table.title)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(escape_latex, table.columns)) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {escape_latex(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    spread = [any(isinstance(row[i], Statistic) for row in table.rows) for i in range(len(table.columns))]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heading: list[str] = []
    for name, wide in zip(table.columns, spread, strict=True):
        heading += [f"{name} mean", f"{name} std", f"{name} n"] if wide else [name]
    writer.writerow(heading)
    for row in table.rows:
        cells: list[object] = []
        for cell, wide in zip(row, spread, strict=True):
            cells += _csv_cells(cell) if wide else [_csv_text(cell)]
        writer.writerow(cells)
    return stream.getvalue()


def _csv_cells(cell: Cell) -> list[object]:
    if isinstance(cell, Statistic):
        return [cell.mean, "" if cell.std is None else cell.std, cell.n]
    return [_csv_text(cell), "", ""]


def _csv_text(cell: Cell) -> object:
    if cell is None:
        return ""
    # A spreadsheet takes text that begins so for a formula, and names come from annotation files.
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{cell}"
    return cell


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _escape_markdown(text: str) -> str:
    """Keep names from breaking the table or becoming markup."""
    flat = " ".join(text.split())
    for character in ("\\", "|", "`", "*", "<", "["):
        flat = flat.replace(character, f"\\{character}")
    return flat


def with_note(table: Table, note: str) -> Table:
    """Return the table with one more sentence below it."""
    return replace(table, notes=(*table.notes, note))
