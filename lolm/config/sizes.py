"""How large an arm is at one scale, and how that follows from another arm's size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from lolm.config.mixers import WHOLE, wrong_options
from lolm.config.ranges import MANY, Count, Depth, Name, Positive, ShareBelowOne, Size, SizeOrZero, Text
from lolm.config.strict import PartOf, Range, nearest, refuse, whole_numbers


@dataclass(frozen=True)
class LatentSize:
    layers: Depth
    d_state: Size = 16
    expand: Size = 2
    d_ff: Size | None = None  # form: transformer, width of its MLP


@dataclass(frozen=True)
class MemorySize:
    slots: Annotated[int, Range(least=2, most=MANY)]  # the entropy of attention over one, over ln 1, is no number
    banks: Size = 3
    chunks: Size = 4  # chunking: count
    chunk_tokens: Size = 64  # chunking: tokens


@dataclass(frozen=True)
class RegimeSize:
    codes: Size
    width: Size
    tau_start: Positive = 1.0
    tau_end: Positive = 0.5
    tau_steps: Count = 1000


@dataclass(frozen=True)
class FutureSize:
    horizon: Size = 8  # k, tokens ahead
    hidden: Size = 512  # width of the CPC heads' hidden layer
    width: Size = 128  # width of the CPC embedding
    temperature: Positive = 0.07
    positions: Size = 256  # candidates are subsampled to at most about this many


@dataclass(frozen=True)
class SizeConfig:
    """How large an arm is at one scale, and the learning rate from which its sweep starts there."""

    d_model: Size
    n_layers: Depth
    n_heads: Size
    learning_rate: Positive
    d_ff: SizeOrZero = 0  # 0: no block of the arm has an MLP
    dropout: ShareBelowOne = 0.0
    mixers: dict[Name, dict[str, Any]] = field(default_factory=dict)  # options by mixer, beside those of the architecture
    latent: LatentSize | None = None
    memory: MemorySize | None = None
    regime: RegimeSize | None = None
    future: FutureSize | None = None

    def __post_init__(self) -> None:
        width, rest = divmod(self.d_model, self.n_heads)
        wrong = bool(rest or width % 2)
        heads = f"{self.d_model} must be a multiple of n_heads {self.n_heads} with an even head width: RoPE rotates pairs"
        refuse([(wrong, "d_model", heads), *wrong_options(self.mixers)])


PARTS = {"latent": LatentSize, "memory": MemorySize, "regime": RegimeSize, "future": FutureSize}  # of LOLM, not of a decoder


def dials() -> tuple[str, ...]:
    """What a width may be matched by, whole numbers all: sizes, those of LOLM's parts, options of mixers."""
    mixers = [(name, option) for name, options in WHOLE.items() for option in options]
    parts = (f"{part}.{name}" for part, size in PARTS.items() for name in whole_numbers(size))
    full = (f"mixers.{name}.{option}" for name, option in mixers)
    return (*whole_numbers(SizeConfig), *parts, *full, *dict.fromkeys(option for _, option in mixers))


@dataclass(frozen=True)
class SizeRule:
    """How large an arm is, as far as it is said: sizes of its own, and the arm that it has the others from.

    An arm says so for every scale in its block's ``size``; ``sizes`` of a scale says more, or otherwise, for that scale.

    Attributes:
        like: the arm whose sizes it has where nothing else is said; for an arm that ``extends`` another, that one.
        rate_of: the arm whose sweep chooses its learning rate, so that what the two differ in is not their rates; for an arm that
            ``extends`` another, that one. The arm itself: it has a sweep of its own, as where it gives a ``learning_rate``.
        match: a size (see :func:`lolm.accounting.matching.turn`) that is derived so that the arm has as many parameters as
            ``like``. Where it is given as well it stays as given, and is *pinned*.
        of: what is made equal: all parameters, or the active ones, which a token meets.
        multiple_of: a derived size is rounded to the nearest multiple, the larger of two equally near ones.
    """

    like: str | None = None
    rate_of: str | None = None
    match: Text | None = None
    of: Literal["parameters", "active"] | None = None
    multiple_of: Size | None = None
    d_model: Size | None = None
    n_layers: Depth | None = None
    n_heads: Size | None = None
    learning_rate: Positive | None = None
    d_ff: Size | None = None
    dropout: ShareBelowOne | None = None
    mixers: dict[Name, dict[str, Any]] | None = None
    latent: Annotated[dict[str, Any], PartOf(LatentSize)] | None = None
    memory: Annotated[dict[str, Any], PartOf(MemorySize)] | None = None
    regime: Annotated[dict[str, Any], PartOf(RegimeSize)] | None = None
    future: Annotated[dict[str, Any], PartOf(FutureSize)] | None = None

    def __post_init__(self) -> None:
        wrong = wrong_options(self.mixers)
        if self.match is not None and self.match not in (known := dials()):
            wrong.insert(0, (True, "match", f"there is no size {self.match!r}{nearest(self.match, known)}"))
        refuse(wrong)
