"""Tables as markdown, CSV and LaTeX.

Markdown and LaTeX are for reading: one decimal, and a mean with its spread in one cell. CSV is for further processing:
all digits, and a mean as three columns.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd

from ntt.errors import one_line

Format: TypeAlias = Literal["markdown", "csv", "latex"]
SUFFIXES: dict[Format, str] = {"markdown": ".md", "csv": ".csv", "latex": ".tex"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Table:
    """A table with a title above it and notes below it; `name` is its file name without suffix."""

    name: str
    title: str
    frame: pd.DataFrame
    """The cells. Columns "X mean", "X std" and "X n" are read as one column X of means over n runs."""

    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    """Columns that group the rows whose means are compared: LaTeX sets the best one bold. None: no bold."""

    def columns(self) -> "list[Column]":
        """Return the columns in readable form, without entirely empty ones."""
        names = [str(name) for name in self.frame]
        means = {name.removesuffix(" mean") for name in names if name.endswith(" mean")}
        columns = []
        for name in names:
            base, _, last = name.rpartition(" ")
            if last == "mean":
                parts = (self.frame[f"{base} {part}"] for part in ("mean", "std", "n"))
                texts = [_mean_text(*cell) for cell in zip(*parts, strict=True)]
                columns.append(Column(base, texts, self.frame[name], is_mean=True))
            elif base not in means or last not in ("std", "n"):
                columns.append(Column(name, [cell_text(cell) for cell in self.frame[name]], self.frame[name]))
        return [column for column in columns if column.values.notna().any() or self.frame.empty]


@dataclass(frozen=True)
class Column:
    """A column of a table: its cells as text, and the values behind them."""

    name: str
    texts: list[str]
    values: "pd.Series[Any]"
    is_mean: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether to set it flush right: it has only numbers, and at least one."""
        present = self.values.dropna()
        return len(present) > 0 and not any(isinstance(value, str) for value in present)


def cell_text(cell: Any) -> str:
    """Return a cell in readable form, without control characters."""
    if pd.isna(cell):
        return "–"
    return f"{cell:.1f}" if isinstance(cell, float) else one_line(str(cell))


def render(table: Table, form: Format) -> str:
    """Return a table as text in one of the three formats, ending with a line break."""
    if form == "csv":
        return str(table.frame.map(_csv_cell).to_csv(index=False, lineterminator="\n"))
    return _markdown(table) if form == "markdown" else _latex(table)


def escape_latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def _mean_text(mean: float, std: float, n: int) -> str:
    """Return text such as "36.8 ± 1.2 (5)"."""
    if pd.isna(mean):
        return "–"
    spread = "" if pd.isna(std) else f" ± {std:.1f}"
    return f"{mean:.1f}{spread} ({n})"


def _markdown(table: Table) -> str:
    cells = []
    for column in table.columns():
        texts = [_escape_markdown(text) for text in (column.name, *column.texts)]
        width = max(3, *map(len, texts))
        rule = "-" * (width - 1) + (":" if column.is_numeric else "-")
        texts = [text.rjust(width) if column.is_numeric else text.ljust(width) for text in texts]
        cells.append([texts[0], rule, *texts[1:]])
    lines = [f"### {_escape_markdown(table.title)}", ""]
    lines += [f"| {' | '.join(row)} |" for row in zip(*cells, strict=True)]
    if table.notes:
        lines += ["", *(f"- {_escape_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _latex(table: Table) -> str:
    columns = table.columns()
    frame = pd.DataFrame({escape_latex(column.name): _latex_cells(table, column) for column in columns})
    text: str = frame.style.hide(axis="index").to_latex(
        column_format="".join("r" if column.is_numeric else "l" for column in columns),
        caption=escape_latex(table.title),
        position_float="centering",
        hrules=True,
    )
    notes = "".join(rf"\par\footnotesize {escape_latex(note)}" + "\n" for note in table.notes)
    return r"% needs \usepackage{booktabs}" + "\n" + text.replace(r"\end{table}", notes + r"\end{table}")


def _latex_cells(table: Table, column: Column) -> list[str]:
    """Escape the cells of a column, the best mean of each group in bold unless all are equal; of FPPI the lowest."""
    texts = [escape_latex(text) for text in column.texts]
    if not column.is_mean or table.groups is None:
        return texts
    rounded = (-column.values if "FPPI" in column.name else column.values).astype(float).round(1)
    groups = rounded.groupby([table.frame[name] for name in table.groups])
    is_best = (rounded == groups.transform("max")) & (groups.transform("min") < groups.transform("max"))
    return [rf"\textbf{{{text}}}" if best else text for text, best in zip(texts, is_best, strict=True)]


def _csv_cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    # Spreadsheets treat text that begins like this as a formula, and names come from annotation files.
    return f"'{one_line(cell)}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else one_line(cell)


def _escape_markdown(text: str) -> str:
    """Keep names from breaking the table or becoming markup."""
    text = one_line(text)
    for character in ("\\", "|", "`", "*", "<", "["):
        text = text.replace(character, f"\\{character}")
    return text
