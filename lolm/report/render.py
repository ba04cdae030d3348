"""How pages are made: templates, figures that follow the page's colours, and numbers as people read them."""

from __future__ import annotations

import base64
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lolm.analysis.statistics import Estimate
from lolm.claims.ledger import VERDICTS
from lolm.records.escape import markdown, markdown_code
from lolm.report.figures.picture import Picture

TABLE_ROWS = 240  # a longer table is cut in the page; its link holds all rows
SIZES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def render(template: str, **context: Any) -> str:
    """A template of this package, filled; text is escaped for HTML or Markdown, and a name that the context lacks is an error."""
    html = template.endswith(".html")
    text = _environment(html).get_template(template).render(**context)
    return text if html else re.sub(r"^(?!\|).*", lambda line: line[0].replace(r"\|", "|"), text, flags=re.M)  # no table's row


@cache
def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("lolm.report"), autoescape=True, finalize=None if html else markdown, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals["slug"] = slug
    environment.filters["code"] = code if html else markdown_code
    environment.globals["verdicts"] = VERDICTS
    for name, file in (("style", "style.css"), ("script_text", "page.js")):
        environment.globals[name] = files("lolm.report").joinpath("templates", file).read_text(encoding="utf-8")
    return environment


def slug(verdict: str) -> str:
    """A verdict as a class of the style sheet: ``not-testable``."""
    return verdict.split(" at")[0].replace(" ", "-")


def code(text: str) -> Markup:
    """Text as HTML in which `what stands between backticks` is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def figure(picture: Picture) -> dict[str, Any]:
    """A picture as the templates take it: inline SVG, the first rows of its table, and a link that holds all of them."""
    columns = list(picture.table.columns)
    head = picture.table.head(TABLE_ROWS)
    return {
        "name": picture.name,
        "title": picture.title,
        "caption": picture.caption,
        "svg": described(picture),
        "columns": columns,
        "rows": [[cell(value) for value in row] for row in head.astype(object).where(head.notna(), None).to_numpy()],
        "count": len(picture.table),
        "cut": TABLE_ROWS,
        "href": "data:text/csv;charset=utf-8;base64," + base64.b64encode(picture.csv().encode()).decode(),
    }


def described(picture: Picture) -> str:
    """The SVG with a role and a name for screen readers, as wide as the page, in colours that the page can change."""
    svg = picture.svg
    end = svg.index(">")
    opening = re.sub(r' (width|height)="[^"]*"', "", svg[:end])
    body = re.sub(r"(fill|stroke): #([0-9a-f]{6})", r"\1: var(--c-\2, #\2)", svg[end:])
    return f'{opening} role="img" aria-label="{escape(picture.alt)}"{body}'


def estimate(found: Estimate | None, form: str) -> str:
    """``1.20 [1.17 to 1.23]``, in a number's format."""
    if found is None:
        return "—"
    value, *ends = (form.format(number).replace("-", "−") for number in (found.value, *(found.interval or ())))
    return f"{value} [{' to '.join(ends)}]" if ends else value


def si(value: float | None) -> str:
    """Three digits and a prefix: ``1.16 M``."""
    if value is None:
        return "—"
    for size, letter in SIZES:
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def cell(value: Any) -> str:
    """A cell of a table of data."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
