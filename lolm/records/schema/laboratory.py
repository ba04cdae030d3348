"""What the dependency laboratory measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lolm.records import names
from lolm.records.schema.boundaries import Boundary
from lolm.records.schema.training import Identity, References


@dataclass(frozen=True)
class Condition:
    """Scores under one intervention at the weights of one step.

    Attributes:
        intervention, value: what was done (names in :mod:`lolm.records.names`), and its parameter if it has one.
        kl_to_full: KL from the learned to the changed model, nats a token.
        top1_agreement: share of the tokens on which both guess the same first.
        temperature, nats_fitted: fitted on validation text, and the loss at that temperature.
        window_nats: loss of each window of the text, nats a token, in their order; of final weights without a branch alone, so
            that text can be resampled for the difference of two.
    """

    step: int
    intervention: str
    value: float | None
    nats: float
    bits_per_byte: float
    accuracy: float
    kl_to_full: float
    top1_agreement: float
    temperature: float | None = None
    nats_fitted: float | None = None
    window_nats: tuple[float, ...] = ()


@dataclass(frozen=True)
class Addend:
    """What one addend of the fusion contributes, see :func:`lolm.laboratory.contributions.contributions`.

    Attributes:
        share, spread_share: of a branch, in the power of both branches as they stand in o, and in how much they vary; None for
            memory and regime, and in records made before these were measured.
    """

    mean_norm: float
    variance_share: float | None
    logit: float
    logit_centred: float
    share: float | None = None
    spread_share: float | None = None


@dataclass(frozen=True)
class Contribution:
    """Addends of the fusion at the weights of one step; ``gate`` is the mean gate, None without one."""

    step: int
    gate: float | None
    addends: dict[str, Addend]


@dataclass(frozen=True)
class Readout:
    """A readout refitted under an intervention, test losses in nats a token.

    Attributes:
        intact: loss of the learned model with the same readout refitted; None in records whose refits validation text did not
            stop.
        recovered: 1 − (refitted − intact) / (damaged − full), the share of the damage that is won back beyond what the same
            refit does to the learned model; None without damage.
        kept: gradient steps after which the loss on validation text was lowest; None for the temperature.
    """

    step: int
    intervention: str
    value: float | None
    readout: str
    full: float
    damaged: float
    refitted: float
    recovered: float | None
    temperature: float | None = None
    intact: float | None = None
    kept: int | None = None


@dataclass(frozen=True)
class TokenClass:
    """Gate and damage over one class of tokens. Key ``class`` in the record; None where a model or a class lacks it."""

    step: int
    token_class: str
    tokens: int
    nats: float | None
    gate_mean: float | None
    gate_std: float | None
    damage_latent_mean: float | None
    damage_surface_mean: float | None


@dataclass(frozen=True)
class Ablation(Identity):
    """``ablate/<arm>-<seed>.json.xz``: interventions, contributions, readouts and token classes."""

    split: Literal["test"]
    tokens: int
    bytes: int
    references: References
    conditions: tuple[Condition, ...]
    contributions: tuple[Contribution, ...]
    readouts: tuple[Readout, ...]
    token_classes: tuple[TokenClass, ...]
    boundaries: tuple[Boundary, ...] = ()
    annealed: bool = False  # whether its steps are ends of schedules, instead of snapshots of the trunk and its end

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Checkpoints the interventions were measured at, ascending."""
        return tuple(sorted({condition.step for condition in self.conditions}))

    def condition(self, intervention: str, value: float | None = None, step: int | None = None) -> Condition | None:
        """The measurement under one intervention at one checkpoint (default: the last); None if it was not made.

        Raises:
            RecordError: there is no such intervention.
        """
        names.check_intervention(intervention)
        if step is None:
            step = self.steps[-1] if self.steps else -1
        for found in self._by_name.get((intervention, step), ()):
            if _same(found.value, value):
                return found
        return None

    def readout(self, readout: str, intervention: str, value: float | None = None) -> Readout | None:
        """The readout refitted under an intervention at the last checkpoint; None if it was not made; RecordError as above."""
        names.check_readout(readout)
        names.check_intervention(intervention)
        rows = [row for row in self.readouts if row.readout == readout and row.intervention == intervention]
        return next((row for row in rows if _same(row.value, value)), None)

    def token_class(self, name: str) -> TokenClass | None:
        """Gate and damage over one class of tokens; None if it was not measured or has no token; RecordError as above."""
        names.check_token_class(name)
        return next((row for row in self.token_classes if row.token_class == name), None)

    @cached_property
    def _by_name(self) -> dict[tuple[str, int], list[Condition]]:
        rows: dict[tuple[str, int], list[Condition]] = {}
        for condition in self.conditions:
            rows.setdefault((condition.intervention, condition.step), []).append(condition)
        return rows


def _same(measured: float | None, asked: float | None) -> bool:
    if measured is None or asked is None:
        return measured is asked
    return abs(measured - asked) < 1e-9
