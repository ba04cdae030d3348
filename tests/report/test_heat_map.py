"""The heat map over a text: every token is there, says its value, and can be read on its colour."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lolm.report.figures.heat_map import (
    WHITE,
    HeatMapError,
    Panel,
    Scale,
    change_scale,
    contrast,
    gate_scale,
    heat_map,
    letters,
    loss_scale,
    visible,
)

TEXTS = [b" <b>", b"&", b"\n", "é".encode()[:1], "é".encode()[1:], b'"x"', b""]
VALUES = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0])


class Spans(HTMLParser):
    """The tokens of a page as (text, title, style); checks that every tag that is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tokens, self.open, self.inside = [], [], False
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        found = dict(attrs)
        if "title" in found:
            self.tokens.append(["", found["title"], found["style"]])
            self.inside = True

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.inside = self.inside and tag != "span"

    def handle_data(self, data):
        if self.inside:
            self.tokens[-1][0] += data


def test_every_token_with_its_value():
    page = heat_map(TEXTS, [Panel("Loss <of>", VALUES, "nats", loss_scale(6.0))], caption="a & b")
    tokens = Spans(page).tokens
    assert [text for text, _, _ in tokens] == [visible(text) for text in TEXTS]
    assert [title.split(": ")[-1] for _, title, _ in tokens] == [f"{value:.2f} nats" for value in VALUES]
    assert "<b>" not in page
    assert "Loss &lt;of&gt;" in page
    assert "a &amp; b" in page
    assert "mean 3.43 nats" in page
    assert "≥ 6.00 a uniform guess or worse" in page  # one value lies beyond
    assert "≤" not in page


def test_tokens_to_look_at():
    assert [visible(text) for text in TEXTS] == [" <b>", "&", "↵\n", "⟨C3⟩", "⟨A9⟩", '"x"', "⟨end⟩"]


def test_colours_go_through_the_stops_and_end_there():
    scale = Scale(-1.0, 1.0, ((0, 0, 0), WHITE, (200, 100, 0)))
    assert [scale.colour(value) for value in (-5, -1, 0, 1, 7)] == [(0, 0, 0), (0, 0, 0), WHITE, (200, 100, 0), (200, 100, 0)]
    assert scale.colour(0.5) == (228, 178, 128)
    assert scale.colour(float("nan")) == WHITE


def test_ends_of_scales():
    many = np.concatenate([np.full(99, -0.5), [40.0]])
    assert (change_scale(many).low, change_scale(many).high) == (-0.5, 0.5)
    assert (gate_scale([0.3, 0.7]).low, gate_scale([0.3, 0.7]).high) == pytest.approx((0.3, 0.7))
    assert gate_scale([0.5]).colour(0.5) == WHITE
    assert change_scale([0.0]).high > 0
    assert change_scale([0.0]).show(-0.5) == "−0.50"
    assert change_scale([0.0]).show(0.5) == "+0.50"


@pytest.mark.parametrize(
    "scale", [loss_scale(6.0), change_scale([1.0]), gate_scale([0.0]), gate_scale([1.0], change=True)], ids=range(4)
)
def test_letters_can_be_read_on_every_colour(scale):
    found = [scale.colour(value) for value in np.linspace(scale.low, scale.high, 101)]
    for colour in found:
        ink = {"#000": (0, 0, 0), "#fff": WHITE}[letters(colour)]
        assert contrast(colour, ink) >= 4.5
    assert {letters(colour) for colour in found} == {"#000", "#fff"}
    assert contrast((0, 0, 0), WHITE) == pytest.approx(21)


@pytest.mark.parametrize(("red", "blue"), [(0.11238, 0.00401), (0.29275, -0.02234)], ids=["protanopia", "deuteranopia"])
@pytest.mark.parametrize("make", [change_scale, gate_scale])
def test_both_ends_are_told_apart_by_colour_blind_readers(make, red, blue):
    """As dichromats see linear RGB, after Viénot, Brettel and Mollon (1999): red and green are one, blue is left."""
    scale = make([1.0])

    def seen(colour):
        r, g, b = ((c / 255) ** 2.2 for c in colour)
        return np.array([red * r + (1 - red) * g, blue * (r - g) + b])

    assert np.abs(seen(scale.colour(scale.low)) - seen(scale.colour(scale.high))).max() > 0.1


def test_wrong_panels():
    with pytest.raises(HeatMapError, match="6 values for 7 tokens"):
        heat_map(TEXTS, [Panel("Loss", VALUES[:6], "nats", loss_scale(6.0))])
    with pytest.raises(HeatMapError, match="extent"):
        heat_map(TEXTS, [Panel("Loss", VALUES, "nats", Scale(1.0, 1.0, (WHITE, WHITE)))])


def test_style_needs_no_script():
    page = heat_map(TEXTS, [Panel("Loss", VALUES, "nats", loss_scale(6.0))])
    assert not re.search(r"<script|https?://|@import", page)
