"""A text whose tokens are coloured by a value, as HTML that needs no script: for notebooks.

Colours are told apart by colour-blind readers, letters are black or white, whichever stands out more, and every token says its
value in words where the pointer rests.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lolm import LolmError

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


class HeatMapError(LolmError):
    """Values that do not go with the text, or with the scale."""


@dataclass(frozen=True)
class Scale:
    """From numbers to colours: straight lines through ``stops``, evenly spread from ``low`` to ``high``; the ends hold beyond.

    Attributes:
        names: what the ends mean, in words, for the legend.
        digits: decimals shown.
        signed: whether numbers are shown with their sign.
    """

    low: float
    high: float
    stops: tuple[Colour, ...]
    names: tuple[str, str] = ("", "")
    digits: int = 2
    signed: bool = False

    def colour(self, value: float) -> Colour:
        """RGB of a value; white where it is not a number."""
        if not np.isfinite(value):
            return WHITE
        place = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low) * (len(self.stops) - 1)
        left = min(int(place), len(self.stops) - 2)
        share = place - left
        red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(*self.stops[left : left + 2], strict=True))
        return red, green, blue

    def show(self, value: float) -> str:
        text = f"{value:{'+' if self.signed else ''}.{self.digits}f}"
        return text.replace("-", "\N{MINUS SIGN}")


def loss_scale(uniform: float) -> Scale:
    """From nothing to the loss of a uniform guess, ln V nats: white to deep blue through blue-green."""
    return Scale(
        0.0, uniform, (WHITE, (198, 224, 236), (86, 157, 200), (8, 69, 120)), ("sure and right", "a uniform guess or worse")
    )


def change_scale(values: Sequence[float] | np.ndarray) -> Scale:
    """Blue for less, vermilion for more, white for no change; ends at the 95th percentile of the sizes."""
    limit = _limit(np.abs(np.asarray(values, dtype=np.float64)))
    stops = ((0, 90, 160), (122, 178, 216), WHITE, (244, 166, 110), (190, 70, 0))
    return Scale(-limit, limit, stops, ("better", "worse"), signed=True)


def gate_scale(values: Sequence[float] | np.ndarray, change: bool = False) -> Scale:
    """Purple for the latent branch, green for the surface one; symmetric about 0.5, or about 0 for a change of the gate."""
    limit = _limit(np.abs(np.asarray(values, dtype=np.float64) - (0.0 if change else 0.5)), 0.05)
    stops = ((106, 45, 130), (190, 160, 208), WHITE, (150, 204, 150), (16, 105, 50))
    if change:
        return Scale(-limit, limit, stops, ("more latent", "more surface"), signed=True)
    limit = min(limit, 0.5)
    return Scale(0.5 - limit, 0.5 + limit, stops, ("latent", "surface"))


@dataclass(frozen=True)
class Panel:
    """One value for each token of a text, with a title, the unit of the values, and the colours."""

    title: str
    values: np.ndarray
    unit: str
    scale: Scale


def heat_map(texts: Sequence[bytes], panels: Sequence[Panel], columns: int = 3, caption: str = "") -> str:
    """A text once for each panel, side by side, under its title, its mean and its legend.

    Args:
        texts: UTF-8 bytes of each of n tokens; the bytes of a character in parts are shown in hexadecimal.
        panels: each with n values.
        columns: panels beside one another, where the page is wide enough.
        caption: a line above all of them.

    Raises:
        HeatMapError: a panel has another number of values, or a scale without extent.
    """
    for panel in panels:
        if len(panel.values) != len(texts):
            raise HeatMapError(f"{panel.title}: {len(panel.values)} values for {len(texts)} tokens")
        if not panel.scale.high > panel.scale.low:
            raise HeatMapError(f"{panel.title}: the scale goes from {panel.scale.low} to {panel.scale.high}; it needs an extent")
    above = f'<p class="caption">{html.escape(caption)}</p>' if caption else ""
    cells = "".join(_panel(texts, panel) for panel in panels)
    return f'<div class="lolm-heat" style="--columns:{columns}"><style>{_STYLE}</style>{above}{cells}</div>'


_STYLE = """
.lolm-heat{--gap:18px;--share:calc((100% - (var(--columns) - 1)*var(--gap))/var(--columns));display:grid;
grid-template-columns:repeat(auto-fit,minmax(max(260px,var(--share)),1fr));gap:var(--gap);padding:16px;background:#fff;color:#1b1b1b;border-radius:8px;
font:14px/1.4 system-ui,"DejaVu Sans",Verdana,sans-serif}
.lolm-heat section{min-width:0}
.lolm-heat .caption{grid-column:1/-1;margin:0;font-size:15px;overflow-wrap:anywhere}
.lolm-heat h4{margin:0;overflow-wrap:anywhere;font-size:14px;font-weight:600;color:#1b1b1b}
.lolm-heat .mean{color:#555;font-size:12.5px;margin:0 0 6px}
.lolm-heat .bar{height:9px;border-radius:2px;outline:1px solid #bbb}
.lolm-heat .ends{display:flex;justify-content:space-between;gap:12px;color:#555;font-size:12px;margin:3px 0 9px}
.lolm-heat .ends span:last-child{text-align:right}
.lolm-heat .text{white-space:pre-wrap;overflow-wrap:anywhere;font:14.5px/1.85 Georgia,"DejaVu Serif",serif;border:1px solid #ddd;
border-radius:4px;padding:8px 10px;margin:0}
.lolm-heat .text span{padding:2px 0;border-right:1px solid #fff}
.lolm-heat .text small{font:10px monospace;opacity:.75}
""".replace("\n", "")


def _panel(texts: Sequence[bytes], panel: Panel) -> str:
    scale, values = panel.scale, np.asarray(panel.values, dtype=np.float64)
    tokens = "".join(_token(text, float(value), panel) for text, value in zip(texts, values, strict=True))
    gradient = ",".join(_css(stop) for stop in scale.stops)
    ends = []
    for end, name, sign in ((scale.low, scale.names[0], "≤"), (scale.high, scale.names[1], "≥")):
        beyond = (values < scale.low).any() if sign == "≤" else (values > scale.high).any()
        ends.append(f"<span>{sign + ' ' if beyond else ''}{scale.show(end)} {html.escape(name)}</span>")
    mean = f"mean {scale.show(float(values.mean()))} {html.escape(panel.unit)}" if len(values) else "no token"
    return (
        f'<section><h4>{html.escape(panel.title)}</h4><p class="mean">{mean}</p>'
        f'<div class="bar" style="background:linear-gradient(90deg,{gradient})"></div>'
        f'<div class="ends">{"".join(ends)}</div><p class="text">{tokens}</p></section>'
    )


def _token(text: bytes, value: float, panel: Panel) -> str:
    colour = panel.scale.colour(value)
    shown = visible(text)
    content = f"<small>{html.escape(shown)}</small>" if shown.startswith("⟨") else html.escape(shown)
    said = html.escape(f"{shown.replace(' ', '␣').strip()}: {panel.scale.show(value)} {panel.unit}", quote=True)
    return f'<span title="{said}" style="background:{_css(colour)};color:{letters(colour)}">{content}</span>'


def visible(text: bytes) -> str:
    """A token to look at: line breaks marked, parts of a character in hexadecimal, what has no text as ``⟨end⟩``."""
    if not text:
        return "⟨end⟩"
    try:
        return text.decode().replace("\n", "↵\n")
    except UnicodeDecodeError:
        return f"⟨{text.hex().upper()}⟩"


def letters(background: Colour) -> str:
    """Black or white, whichever stands out more against a background; the contrast is 4.5 : 1 at least."""
    return "#000" if contrast(background, (0, 0, 0)) >= contrast(background, WHITE) else "#fff"


def contrast(one: Colour, other: Colour) -> float:
    """Ratio of relative luminances as WCAG 2 defines it, 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: Colour) -> float:
    parts = (c / 255 for c in colour)
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _limit(sizes: np.ndarray, least: float = 0.01) -> float:
    """The 95th percentile, in two significant digits, at least ``least``."""
    finite = sizes[np.isfinite(sizes)]
    return max(least, float(f"{np.quantile(finite, 0.95):.1e}")) if len(finite) else least


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
