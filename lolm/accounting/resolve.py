"""The run that ``params.yaml`` stands for: what an arm is joined with how large it is, derived sizes included."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lolm.config import ConfigError, Params, RunConfig, SizeConfig, from_mapping, nearest, scale_of, to_mapping
from lolm.config.sizing import has_size, is_pinned, rule_of, size_values

if TYPE_CHECKING:
    from lolm.accounting.matching import Quantity


@dataclass(frozen=True)
class SizeOrigin:
    """A size that was derived: ``dial`` of an arm has ``value``, so that it has as many parameters as the arm ``like``.

    Attributes:
        of: what is made equal: all parameters, or the active ones.
        budget: parameters of ``like``.
        mismatch: relative, that remains.
        step: what the value is a multiple of: what the arm accepts, and what ``multiple_of`` asks for.
    """

    dial: str
    value: int
    like: str
    of: Quantity
    budget: int
    mismatch: float
    step: int

    def __str__(self) -> str:
        active = " active" if self.of == "active" else ""
        steps = f", in steps of {self.step}" if self.step > 1 else ""
        budget = f"the {self.budget:,}{active} parameters of {self.like}"
        return f"{self.dial} {self.value} derived{steps}: {self.mismatch:+.3%} from {budget}"


def resolve_run(params: Params, scale: str, arm: str, seed: int, learning_rate: float | None = None) -> RunConfig:
    """Join what an arm is with how large it is at a scale.

    Args:
        learning_rate: the peak that a sweep chose; default is the one in the arm's size.

    Raises:
        ConfigError: unknown scale or arm, the scale gives no size for the arm, or no value of a derived size reaches its budget.
    """
    run = _resolved(params, scale, arm, ())[0]
    size = run.size if learning_rate is None else replace(run.size, learning_rate=learning_rate)
    return replace(run, seed=seed, size=size)


def size_origin(params: Params, scale: str, arm: str) -> SizeOrigin | None:
    """Which size of an arm was derived, and from what; None where all are written in ``params.yaml``. Raises as resolve_run."""
    return _resolved(params, scale, arm, ())[1]


def _resolved(params: Params, scale: str, arm: str, above: tuple[str, ...]) -> tuple[RunConfig, SizeOrigin | None]:
    preset = scale_of(params, scale)
    if arm not in params.architectures:
        raise ConfigError(f"no arm {arm!r} under 'architectures'{nearest(arm, params.architectures)}")
    if not has_size(arm, params.sizes, preset) or arm in above:
        raise ConfigError(
            f"scales.{scale}.sizes has no entry for arm {arm!r}, and its block no size that follows from another arm's"
            f"{nearest(arm, preset.sizes)}"
        )
    rule, architecture = rule_of(arm, params.sizes, preset), params.architectures[arm]
    like, origin = _resolved(params, scale, rule.like, (*above, arm)) if rule.like is not None else (None, None)
    values = size_values(rule, architecture, None if like is None else to_mapping(like.size))
    derived = rule.match is not None and not is_pinned(rule)
    size = from_mapping(SizeConfig, values, f"scales.{scale}.sizes.{arm}")
    run = RunConfig(scale, arm, 0, preset.tokenizer.vocab_size, architecture, size, preset.training)
    if rule.match is None:
        return run, origin if like is not None and _same_size(run, like, origin) else None
    if not derived or like is None:
        return run, None
    of, multiple = rule.of or "parameters", rule.multiple_of or preset.width_multiple
    try:
        size, origin = _match(_Key.of(run), _Key.of(like), rule.match, of, multiple)
    except ConfigError as error:
        raise ConfigError(f"scales.{scale}.sizes.{arm}: {rule.match} cannot be derived from {rule.like}: {error}") from None
    return replace(run, size=size), origin


def _same_size(run: RunConfig, like: RunConfig, origin: SizeOrigin | None) -> bool:
    """Whether a size that the arm ``like`` has derived is also this arm's."""
    return origin is not None and _value(run.size, origin.dial) == _value(like.size, origin.dial) == origin.value


def _value(size: SizeConfig, dial: str) -> object:
    value: object = to_mapping(size)
    for key in dial.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


@dataclass(frozen=True)
class _Key:
    """A run, known by all that its parameters rest on."""

    text: str
    run: RunConfig = field(compare=False)

    @classmethod
    def of(cls, run: RunConfig) -> _Key:
        parts = [run.arm, run.vocab_size, to_mapping(run.architecture), to_mapping(run.size)]
        return cls(json.dumps(parts, sort_keys=True), run)


@lru_cache(maxsize=4096)
def _match(run: _Key, like: _Key, dial: str, of: Quantity, multiple: int) -> tuple[SizeConfig, SizeOrigin]:
    from lolm.accounting.matching import closest, turn  # these need torch, which nothing else here does

    budget = _budget(like, of)
    found = closest(run.run, budget, of, dial, multiple)
    origin = SizeOrigin(dial, found.value, like.run.arm, of, budget, found.mismatch, found.step)
    return turn(run.run, dial, found.value).size, origin


@lru_cache(maxsize=1024)
def _budget(like: _Key, of: Quantity) -> int:
    from lolm.accounting.matching import quantity

    return int(quantity(like.run, of))
