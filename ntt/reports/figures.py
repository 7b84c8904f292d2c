"""What plots have in common: panels, colours, legends, heat maps, files.

Colours are those of Okabe and Ito ("Color universal design", 2008), which people with any kind of colour vision can
tell apart; markers, line styles and hatches repeat them. matplotlib is imported when a figure is made; its global
state is never touched.
"""

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ntt.errors import printable
from ntt.types import DoubleArray

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A2E")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "//", "..", "\\\\", "xx", "++", "oo", "--")
_DPI = 150
_PANEL_INCHES = (4.6, 3.4)
_CHARACTERS_PER_INCH = 13


def line_style(index: int) -> dict[str, Any]:
    """Return how the line of a series is drawn; after the eighth, colours repeat with other markers."""
    return {**_style(index, marker=_MARKERS), "linestyle": _LINES[index % len(_LINES)]}


def bar_style(index: int) -> dict[str, Any]:
    """Return how the bars of a series are drawn; after the eighth, colours repeat with other hatches."""
    return {**_style(index, hatch=_HATCHES), "edgecolor": "white", "linewidth": 0}


def _style(index: int, **shapes: Sequence[str]) -> dict[str, Any]:
    shape = index + index // len(_COLOURS)
    return {"color": _COLOURS[index % len(_COLOURS)]} | {key: of[shape % len(of)] for key, of in shapes.items()}


def panels(count: int, *, longest_name: int = 0) -> "tuple[Figure, list[Axes]]":
    """Return a figure with panels, at most three per row, sharing one y axis.

    There is room for tick labels of `longest_name` characters.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = math.ceil(count / columns)
    inches = (_PANEL_INCHES[0] * columns, (_PANEL_INCHES[1] + 0.04 * longest_name) * rows)
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def finish_axes(axes: "Axes", *, title: str, x: str, y: str) -> None:
    """Set title and axis labels, and draw only the lines that carry information."""
    axes.set_title(plain_text(title), fontsize=11)
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y if axes.yaxis.get_tick_params()["labelleft"] else "", fontsize=10)  # panels share one axis
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)


def name_ticks(axes: "Axes", names: Sequence[str]) -> None:
    """Name the values 0, 1, ... of the x axis; long names are rotated."""
    texts = [shorten(name, 34) for name in names]
    axes.set_xticks(range(len(texts)), texts)
    if sum(map(len, texts)) > 34:
        axes.set_xticks(range(len(texts)), texts, rotation=30, ha="right", rotation_mode="anchor")


def log_axis(axes: "Axes", values: Sequence[float]) -> None:
    """Make the x axis logarithmic, with plain numbers at 1, 2, 5; wide enough for `values`, which must be positive."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(values) * 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) / min(values) < 100 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def legend(figure: "Figure", all_axes: "Sequence[Axes]", *, common: str) -> None:
    """Draw one legend below all panels, each series once, titled `common`; the figure grows by its height."""
    entries: dict[str, Artist] = {}
    for axes in all_axes:
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            entries.setdefault(str(label), handle)
    if len(entries) < 2:
        return
    width, height = figure.get_size_inches()
    room = int(width * _CHARACTERS_PER_INCH)
    texts = [textwrap.fill(plain_text(label), room - 8) for label in entries]
    longest = max(len(line) for text in texts for line in text.split("\n"))
    columns = max(1, min(len(texts), room // (longest + 8)))
    lines = math.ceil(sum(text.count("\n") + 1 for text in texts) / columns) + bool(common)
    figure.set_size_inches(width, height + 0.2 * lines + 0.1)
    figure.legend(
        list(entries.values()),
        texts,
        loc="outside lower center",
        ncols=columns,
        fontsize=9,
        frameon=False,
        title=plain_text(common) or None,
        title_fontsize=9,
    )


def heat_map(values: DoubleArray, rows: Sequence[str], columns: Sequence[str], *, title: str) -> "Figure":
    """Return a figure with one coloured cell per value in [0, 100], its number in it; NaN is left white."""
    headings = [shorten(name, 40) for name in columns]
    height = 1.3 + 0.24 * len(rows) + 0.05 * max(map(len, headings)) + 0.2 * title.count("\n")
    figure, (axes,) = panels(1)
    figure.set_size_inches(min(max(3.4 + 0.62 * len(columns), 0.085 * max(map(len, title.split("\n")))), 14), height)
    top = max(float(np.nanmax(values)), 1.0)
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=top, aspect="auto")
    axes.set_yticks(range(len(rows)), [shorten(name, 28) for name in rows], fontsize=9)
    axes.set_xticks(range(len(columns)), headings, fontsize=9, rotation=35, ha="right", rotation_mode="anchor")
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            ink = "black" if value > 0.55 * top else "white"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=ink)
    figure.suptitle(plain_text(title), fontsize=11)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 4 / height), label="%")
    bar.outline.set_visible(False)
    return figure


def to_bytes(figure: "Figure", form: Literal["png", "pdf"]) -> bytes:
    """Return a figure as the content of a file, without a date, so that equal plots are equal files.

    Characters that the font lacks are drawn as empty boxes.
    """
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format=form, dpi=_DPI, metadata={"CreationDate": None} if form == "pdf" else {})
    return stream.getvalue()


def shorten(text: str, length: int) -> str:
    """Cut a name to `length` characters, with an ellipsis."""
    flat = plain_text(text)
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


def plain_text(text: str) -> str:
    """Keep matplotlib from reading dollar signs as formulas, and from failing on names that are not valid text."""
    return printable(text).replace("$", r"\$")
