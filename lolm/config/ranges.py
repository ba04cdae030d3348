"""The kinds of values that settings have, each with its range."""

from __future__ import annotations

from typing import Annotated

from lolm.config.strict import Pattern, Range

LARGEST = 2**53  # the whole numbers that every reader of JSON and YAML keeps exactly

MANY = 2**20  # what is held at once, or done one after another: products of several are still numbers of elements

Count = Annotated[int, Range(least=1, most=LARGEST)]  # of steps, tokens, bytes: what passes by
Natural = Annotated[int, Range(least=0, most=LARGEST)]
Size = Annotated[int, Range(least=1, most=MANY)]  # of a model, a batch, a sequence, a set that is drawn
SizeOrZero = Annotated[int, Range(least=0, most=MANY)]
Depth = Annotated[int, Range(least=1, most=1000)]
VOCABULARY = 2**31 - 1  # SentencePiece's ids have 32 bits
Workers = Annotated[int, Range(least=1, most=1024)]  # threads, devices or processes on one machine
WorkersOrZero = Annotated[int, Range(least=0, most=1024)]
Port = Annotated[int, Range(least=1, most=65_535)]
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
PositiveShare = Annotated[float, Range(above=0, most=1)]
InnerShare = Annotated[float, Range(above=0, below=1)]
ShareBelowOne = Annotated[float, Range(least=0, below=1)]

Text = Annotated[str, Pattern(r"(?s).*\S.*", "a text; it is empty")]
Label = Annotated[
    str,
    Pattern(
        r"(?=.*\S)[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+",
        "one line of text without control characters and marks of direction",
    ),
]
Name = Annotated[  # one that begins with - is an option to the commands that it is handed to
    str,
    Pattern(
        r"[A-Za-z0-9_][A-Za-z0-9_-]*",
        "made of letters, digits, _ and - alone, with no - in front, and DVC hands names to a shell",
    ),
]
