"""Arms made equally large, or equally costly, by one of their sizes: the *dial*."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from lolm.accounting.count import account_run, count_parameters
from lolm.config import ConfigError, RunConfig, SizeConfig
from lolm.config.mixers import WHOLE
from lolm.config.sizes import PARTS
from lolm.config.strict import nearest, whole_numbers
from lolm.mixers.registry import MIXERS

Quantity = Literal["parameters", "active", "flops"]
LARGEST_UNIT = 4096  # a size that must be a multiple of more than this is no dial
LARGEST_MULTIPLE = 10**9
LARGEST_STEP = 1000  # by which the search grows at most, where a count begins flat


def quantity(run: RunConfig, of: Quantity) -> float:
    """Parameters, parameters that a token meets, or training FLOPs per token."""
    if of == "flops":
        return account_run(run).flops_per_token.training
    total, active = count_parameters(run)
    return total if of == "parameters" else active


def default_dial(run: RunConfig) -> str:
    """``d_ff`` where the arm has an MLP, else the inner width of its first mixer that has one, else ``n_layers``."""
    blocks = run.architecture.surface.blocks
    if any(block.mlp != "none" for block in blocks.values()):
        return "d_ff"
    for name in (blocks[block].mixer.name for block in run.architecture.surface.pattern):
        for option in ("d_inner", "width"):
            if option in inspect.signature(MIXERS[name]).parameters:
                return f"mixers.{name}.{option}"
    return "n_layers"


class DialError(ConfigError):
    """An arm has no such size."""


def turn(run: RunConfig, dial: str, value: int) -> RunConfig:
    """The run with one size changed.

    Args:
        dial: key below ``scales.<scale>.sizes.<arm>``: ``d_ff``, ``d_model``, ``n_layers``, ``latent.layers``,
            ``mixers.<name>.<option>`` …; an option alone, as ``d_inner``, where one mixer of the arm takes it.

    Raises:
        DialError: there is no such size.
        ConfigError: it cannot have this value.
    """
    size = run.size
    owner, key = _found(run, dial)
    if owner.startswith("mixers."):
        name = owner.removeprefix("mixers.")
        return replace(run, size=replace(size, mixers=size.mixers | {name: size.mixers.get(name, {}) | {key: value}}))
    if owner:
        changed: dict[str, Any] = {owner: replace(getattr(size, owner), **{key: value})}
    else:
        changed = {key: value}
    return replace(run, size=replace(size, **changed))


def full_name(run: RunConfig, dial: str) -> str:
    """The key of a dial below ``scales.<scale>.sizes.<arm>``; raises DialError where there is none."""
    owner, key = _found(run, dial)
    return f"{owner}.{key}" if owner else key


def _found(run: RunConfig, dial: str) -> tuple[str, str]:
    """What a dial belongs to (``""``, ``latent`` …, ``mixers.<name>``), and its name there."""
    known = set(whole_numbers(SizeConfig))
    for part, size in PARTS.items():
        if getattr(run.size, part) is not None:
            known |= {f"{part}.{name}" for name in whole_numbers(size)}
    options: dict[str, set[str]] = {}
    for name in sorted({block.mixer.name for block in run.architecture.surface.blocks.values()}):
        for option in WHOLE[name]:
            known.add(f"mixers.{name}.{option}")
            options.setdefault(option, set()).add(f"mixers.{name}.{option}")
    if dial not in known and len(options.get(dial, ())) == 1:
        (dial,) = options[dial]
    if dial not in known:
        close = options.get(dial) or known
        raise DialError(f"dial {dial!r}: arm {run.arm!r} has no such size{nearest(dial, close)}")
    owner, _, key = dial.rpartition(".")
    return owner, key


@dataclass(frozen=True)
class Match:
    """The value of a dial that brings a run closest to a budget, the relative mismatch that remains, and the steps it goes by."""

    value: int
    mismatch: float
    step: int


def closest(run: RunConfig, budget: float, of: Quantity = "parameters", dial: str | None = None, multiple_of: int = 1) -> Match:
    """Find the value of a dial that brings a run closest to a budget.

    Counts are exact (models on the meta device) and grow with the dial, so bisection finds the value. Where a size must be
    divisible, as ``d_model`` by the heads, only its multiples are tried.

    Args:
        budget: in units of ``of``.
        dial: as in :func:`turn`; default :func:`default_dial`.
        multiple_of: the value is rounded to its nearest multiple, the larger of two equally near ones.

    Raises:
        ConfigError: there is no such dial, or it does not change the count.
    """
    dial = default_dial(run) if dial is None else dial

    @cache
    def count_at(value: int) -> float:
        return quantity(turn(run, dial, value), of)

    unit = _unit(run, dial, count_at)

    def count(multiple: int) -> float:
        return count_at(multiple * unit)

    if count(2) == count(1):
        raise ConfigError(f"{dial} does not change the {of} of arm {run.arm!r}; turn another dial")
    below, above = 1, 2
    while count(above) < budget:  # most counts are straight lines, so that the next guess is the answer or its neighbour
        slope = (count(above) - count(below)) / (above - below)
        if slope <= 0 or above > LARGEST_MULTIPLE:
            raise ConfigError(
                f"{dial} brings arm {run.arm!r} to {count(above):,.0f} {of} at most, {budget:,.0f} are wanted; turn another dial"
            )
        below, above = above, max(above + 1, min(int(above + (budget - count(above)) / slope) + 1, LARGEST_STEP * above))
    while above - below > 1:
        share = (budget - count(below)) / (count(above) - count(below))
        middle = min(max(below + int(share * (above - below)), below + 1), above - 1)
        below, above = (middle, above) if count(middle) < budget else (below, middle)
    best = min((below, above), key=lambda multiple: abs(count(multiple) - budget))
    step = math.lcm(unit, multiple_of) // unit
    best = max(1, (2 * best + step) // (2 * step)) * step
    return Match(best * unit, count(best) / budget - 1, step * unit)


def _unit(run: RunConfig, dial: str, count_at: Callable[[int], float]) -> int:
    """The smallest value that the run accepts. Dials are sizes that may have to be divisible, so the others are its multiples.

    Counts that must divide another size, as ``kv_heads`` the heads, are no dials: a message of the arm says which is in the way.
    """
    reason = ConfigError()
    for value in range(1, LARGEST_UNIT + 1):
        try:
            count_at(value)
        except DialError:
            raise
        except ConfigError as error:
            reason = error
        else:
            return value
    raise ConfigError(f"dial {dial!r}: arm {run.arm!r} accepts no value up to {LARGEST_UNIT}: {reason}")
