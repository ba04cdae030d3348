"""How numbers are shown to people: value, unit, interval."""

from __future__ import annotations

from lolm.analysis.statistics import Estimate


def show(value: float, unit: str) -> str:
    """A number as people read it, with its unit."""
    number, suffix = _parts(value, unit)
    return f"PPL {number}" if unit == "perplexity" else number + suffix


def show_estimate(estimate: Estimate, unit: str) -> str:
    """The value, and its interval where it has one: ``1.20× [1.17 to 1.23×]``."""
    text = show(estimate.value, unit)
    return text if estimate.interval is None else f"{text} [{show_interval(*estimate.interval, unit)}]"


def show_interval(low: float, high: float, unit: str) -> str:
    """The two ends, the unit once: ``1.17 to 1.23×``."""
    (left, _), (right, suffix) = _parts(low, unit), _parts(high, unit)
    return f"{left} to {right}{suffix}"


def show_level(confidence: float) -> str:
    """``95 %``."""
    return f"{100 * confidence:g} %"


def of_difference(unit: str) -> str:
    """The unit of a difference of two such numbers: of shares it is points, since it is no per cent of either."""
    return "points" if unit == "share" else unit


def _parts(value: float, unit: str) -> tuple[str, str]:
    if unit in ("share", "points"):
        return _signed(f"{100 * value:.1f}"), " %" if unit == "share" else " points"
    if unit == "x":
        return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}", "×"
    if unit == "bits" or unit.partition(" ")[0] == "nats":  # nats, nats a layer
        return _signed(f"{value:.3f}"), f" {unit}"
    if unit == "perplexity":
        return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}", ""
    if unit in ("steps", "tokens", "count"):
        return f"{value:,.0f}", " tokens" if unit == "tokens" else ""
    if unit in ("hours", "steps a second"):
        return f"{value:.3g}", f" {unit}"
    if unit in ("gradient", "rate"):
        return f"{value:.2g}", ""
    return _signed(f"{value:.3f}"), ""


def _signed(text: str) -> str:
    """A true minus sign, and no negative zero."""
    if text.startswith("-"):
        text = text[1:] if not text.strip("-0.") else "\u2212" + text[1:]
    return text
