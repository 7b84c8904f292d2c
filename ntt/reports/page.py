"""A report as one HTML page that needs nothing else: no network, no further file.

Names of classes, files and folders come from annotation files and command lines. They are inserted into the page as
escaped text or as JSON that a script reads as data, and a content security policy keeps the page from running or
loading anything from elsewhere.
"""

import base64
import hashlib
import json
from collections.abc import Sequence

import jinja2

from ntt.reports import figures
from ntt.reports.gallery import Gallery
from ntt.reports.plots import Plot
from ntt.reports.tables import Table

_OPEN_ROWS = 40
_LONG_TEXT = 60


def render_page(title: str, subtitle: str, tables: Sequence[Table], plots: Sequence[Plot], gallery: Gallery) -> str:
    """Return the page as text."""
    loader = jinja2.PackageLoader("ntt.reports", "assets")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        tables=tables,
        plots=plots,
        gallery=gallery,
        images=[base64.b64encode(figures.to_bytes(plot.figure, "png")).decode() for plot in plots],
        policy=_policy(style, script),
        style=style,
        script=script,
        data=_json_for_script(gallery.sets),
        open_rows=_OPEN_ROWS,
        long_text=_LONG_TEXT,
    )


def _policy(style: str, script: str) -> str:
    """Allow this style, this script and pictures within the page; nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"


def _json_for_script(value: object) -> str:
    """Return JSON that cannot close its script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
