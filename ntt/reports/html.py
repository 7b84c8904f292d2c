"""A report as one HTML page that needs nothing else: no network, no further file.

Names of classes, files and folders come from annotation files and command lines. They enter the page as escaped text
or as JSON that a script reads as data, and a content security policy keeps the page from running or loading anything
it does not itself hold.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template

from ntt.reports import figures
from ntt.reports.gallery import Gallery
from ntt.reports.plots import Plot
from ntt.reports.summary import Statistic
from ntt.reports.tables import Cell, Table, cell_text, is_numeric

_OPEN_ROWS = 40
_LONG_TEXT = 60


@dataclass(frozen=True)
class Page:
    """What a page is made of, in its order."""

    title: str
    subtitle: str
    tables: Sequence[Table]
    plots: Sequence[Plot]
    gallery: Gallery


def render_page(page: Page) -> str:
    """Return the page as text."""
    style, script = _asset("page.css"), _asset("page.js")
    sections = [("Tables", _tables(page.tables)), ("Plots", _plots(page.plots)), ("Gallery", _gallery(page.gallery))]
    shown = [(name, content) for name, content in sections if content]
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name, _ in shown)
    return Template(_asset("page.html")).substitute(
        title=escape(page.title),
        subtitle=escape(page.subtitle),
        policy=_policy(style, script),
        style=style,
        script=script,
        navigation=links,
        sections="\n".join(content for _, content in shown),
        data=_json_for_script(page.gallery.sets),
    )


def _asset(name: str) -> str:
    return resources.files("ntt.reports").joinpath(f"assets/{name}").read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Allow this style, this script and pictures within the page; nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"


def _json_for_script(value: object) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _tables(tables: Sequence[Table]) -> str:
    if not tables:
        return ""
    return "\n".join(['<section id="tables">', "<h2>Tables</h2>", *map(_table, tables), "</section>"])


def _table(table: Table) -> str:
    numeric = [is_numeric(table, column) for column in range(len(table.columns))]
    heading = "".join(
        f'<th scope="col"{_class(flush)}><button type="button">{escape(name)}</button></th>'
        for name, flush in zip(table.columns, numeric, strict=True)
    )
    rows = "\n".join(
        f"<tr>{''.join(_cell(cell, flush) for cell, flush in zip(row, numeric, strict=True))}</tr>"
        for row in table.rows
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    content = (
        f'<div class="scroll"><table id="table-{escape(table.name)}"><thead><tr>{heading}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>" + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )
    if len(table.rows) > _OPEN_ROWS:
        return f"<details><summary>{escape(table.title)} ({len(table.rows)} rows)</summary>{content}</details>"
    return f"<h3>{escape(table.title)}</h3>{content}"


def _class(flush: bool) -> str:
    return ' class="number"' if flush else ""


def _cell(cell: Cell, flush: bool) -> str:
    text = cell_text(cell)
    number = cell.mean if isinstance(cell, Statistic) else cell
    value = f' data-value="{number}"' if isinstance(number, int | float) else ""
    kind = ' class="long"' if not flush and len(text) > _LONG_TEXT else _class(flush)
    return f"<td{kind}{value}>{escape(text)}</td>"


def _plots(plots: Sequence[Plot]) -> str:
    if not plots:
        return ""
    shown = []
    for plot in plots:
        data = base64.b64encode(figures.to_bytes(plot.figure, "png")).decode("ascii")
        width = round(plot.figure.get_size_inches()[0] * 96)
        text = escape(plot.description)
        shown.append(
            f'<figure id="plot-{escape(plot.name)}"><img width="{width}" alt="{text}" '
            f'src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
        )
    return "\n".join(['<section id="plots">', "<h2>Plots</h2>", '<div class="plots">', *shown, "</div>", "</section>"])


def _gallery(gallery: Gallery) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in gallery.notes)
    listed = f'<ul class="notes">{notes}</ul>' if notes else ""
    if gallery.sets:
        return Template(_asset("gallery.html")).substitute(notes=listed)
    return f'<section id="gallery"><h2>Gallery</h2>{listed}</section>' if listed else ""
