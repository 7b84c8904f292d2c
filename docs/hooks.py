"""Formulas of the documentation become MathML when the site is built, so that pages load no script for them."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(page_html: str, **_: Any) -> str:
    """Replace the formulas of a page: `$...$` in a line of text, `$$...$$` on lines of their own."""

    def mathml(match: re.Match[str]) -> str:
        return convert(html.unescape(match[3]).strip(), display="inline" if match[2] == "(" else "block")

    return _FORMULA.sub(mathml, page_html)
