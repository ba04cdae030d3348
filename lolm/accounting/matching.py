"""Arms made equally large, or equally costly, by one of their sizes: the *dial*."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from functools import cache
from typing import Any, Literal

from lolm.accounting.count import account_run
from lolm.config import ConfigError, RunConfig, SizeConfig
from lolm.config.strict import nearest
from lolm.mixers.registry import MIXERS

Quantity = Literal["parameters", "active", "flops"]
LARGEST_UNIT = 4096  # a size that must be a multiple of more than this is no dial


def quantity(run: RunConfig, of: Quantity) -> float:
    """Parameters, parameters that a token meets, or training FLOPs per token."""
    costs = account_run(run)
    if of == "flops":
        return costs["flops_per_token"]["training"]
    return costs["parameters"]["total" if of == "parameters" else "active"]


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
    known = {f.name for f in fields(SizeConfig)} - {"mixers", "latent", "memory", "regime", "future"}
    for part in ("latent", "memory", "regime", "future"):
        if getattr(run.size, part) is not None:
            known |= {f"{part}.{f.name}" for f in fields(getattr(run.size, part))}
    options: dict[str, set[str]] = {}
    for name in sorted({block.mixer.name for block in run.architecture.surface.blocks.values()}):
        for option in set(inspect.signature(MIXERS[name]).parameters) - {"d_model", "n_heads", "dropout"}:
            known.add(f"mixers.{name}.{option}")
            options.setdefault(option, set()).add(f"mixers.{name}.{option}")
    if dial not in known and len(options.get(dial, ())) == 1:
        (dial,) = options[dial]
    if dial not in known:
        close = options.get(dial) or known
        raise DialError(f"dial {dial!r}: arm {run.arm!r} has no such size{nearest(dial, close)}")
    owner, _, key = dial.rpartition(".")
    return owner, key


def matching(run: RunConfig, budget: float, of: Quantity = "parameters", dial: str | None = None) -> tuple[int, float]:
    """The value of a dial that brings a run closest to a budget, and the relative mismatch that remains.

    Counts are exact (models on the meta device) and grow with the dial, so bisection finds the value. Where a size must be
    divisible, as ``d_model`` by the heads, only its multiples are tried.

    Args:
        budget: in units of ``of``.
        dial: as in :func:`turn`; default :func:`default_dial`.

    Raises:
        ConfigError: there is no such dial, or it does not change the count.
    """
    dial = default_dial(run) if dial is None else dial
    unit = _unit(run, dial)

    @cache
    def count(multiple: int) -> float:
        return quantity(turn(run, dial, multiple * unit), of)

    if count(2) == count(1):
        raise ConfigError(f"{dial} does not change the {of} of arm {run.arm!r}; turn another dial")
    below, above = 1, 2
    while count(above) < budget:
        if count(2 * above) <= count(above):
            raise ConfigError(
                f"{dial} brings arm {run.arm!r} to {count(above):,.0f} {of} at most, {budget:,.0f} are wanted; turn another dial"
            )
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if count(middle) < budget else (below, middle)
    best = min((below, above), key=lambda multiple: abs(count(multiple) - budget))
    return best * unit, count(best) / budget - 1


def _unit(run: RunConfig, dial: str) -> int:
    """The smallest value that the run accepts. Dials are sizes that may have to be divisible, so the others are its multiples.

    Counts that must divide another size, as ``kv_heads`` the heads, are no dials: a message of the arm says which is in the way.
    """
    reason = ConfigError()
    for value in range(1, LARGEST_UNIT + 1):
        try:
            account_run(turn(run, dial, value))
        except DialError:
            raise
        except ConfigError as error:
            reason = error
        else:
            return value
    raise ConfigError(f"dial {dial!r}: arm {run.arm!r} accepts no value up to {LARGEST_UNIT}: {reason}")
