"""Text of users and files as it has to stand in Markdown and in CSV. Jinja escapes HTML; figures take no text for mathematics."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    import pandas as pd

# Outside of code: what begins an element, a cell, or mathematics. An underscore within a word begins nothing, nor does a star
# between blanks, nor a bracket that no address or definition follows.
_MARKS = re.compile(r"\\|\||`|~|\$|(?<![^\W_])_(?=\S)|(?<=\S)_(?![^\W_])|(?<!\s)\*|\*(?!\s|$)|\](?=[(\[:])|^(?:#|>|[-+](?=\s))")
_CODE = re.compile(r"(`[^`]+`)")
_BREAK = re.compile(r"\s*[\x00-\x08\n-\x1f\x7f-\x9f\u2028\u2029]\s*")
_DIRECTION = re.compile(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet computes


def markdown(value: Any) -> Any:
    """Text as one line of Markdown, or a cell of its tables, that shows it; `what stands between backticks` stays code.

    Other values, and what is Markdown already (``Markup``), stay as they are.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    line = _DIRECTION.sub("\ufffd", _BREAK.sub(" ", value))
    parts = [part.replace("|", r"\|") if i % 2 else _plain(part) for i, part in enumerate(_CODE.split(line))]
    return Markup("".join(parts))


def _plain(text: str) -> str:
    text = re.sub(r"&(?=#?\w+;)", "&amp;", _MARKS.sub(r"\\\g<0>", text))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def markdown_code(value: str) -> Markup:
    """Text as a code span of Markdown: it is delimited by more backticks than it has in a row."""
    line = _BREAK.sub(" ", value).replace("|", r"\|")
    fence = "`" * (1 + max(map(len, re.findall(r"`+", line)), default=0))
    blank = " " if len(fence) > 1 else ""
    return Markup(f"{fence}{blank}{line}{blank}{fence}")


def csv_cell(value: Any) -> Any:
    """A value of a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(FORMULA) else value


def csv_text(table: pd.DataFrame) -> str:
    """A table as a CSV file, its text as :func:`csv_cell` has it."""
    text = table.select_dtypes(["object", "string"])
    return table.assign(**text.map(csv_cell)).to_csv(index=False, lineterminator="\n")  # numbers stay as they are
