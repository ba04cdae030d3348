"""What it takes to test a claim that these runs do not: the study, the command, and what training its arms costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from lolm.accounting.gpus import GPUS, TERA, UTILISATION
from lolm.config import ConfigError, Params, RunConfig

PEAK_FLOPS = TERA * GPUS["H100"].bf16
DEVICE = f"one H100 at {100 * UTILISATION:g} % of {PEAK_FLOPS / 1e12:g} TFLOP/s in bf16"


class Counting(Protocol):
    """Exact counts of a run before it is made: :class:`lolm.accounting.counting.Counting`. Who makes a ledger hands it over:
    counting builds models, and what reads records needs none."""

    def resolve(self, scale: str, arm: str) -> RunConfig:
        """The run that ``params.yaml`` stands for; raises ConfigError where the arm has no size."""

    def flops_per_token(self, run: RunConfig) -> float:
        """Training FLOPs of one token, auxiliary heads included."""

    def training_flops(self, scale: str, arm: str) -> float:
        """FLOPs of the whole training of one run; raises as resolve."""


@dataclass(frozen=True)
class Needs:
    """Attributes:
    scale, study: keys of ``params.yaml``.
    arms: that are trained, each with ``seeds`` seeds.
    over: scales of the study over sizes and budgets, where that is meant; ``seeds`` are then the most that a scale has.
    training_flops: of all of them together, schedules with their annealed copies; None where nobody counted them, or where
        ``params.yaml`` has no such study at this scale.
    """

    scale: str
    study: str
    arms: tuple[str, ...]
    seeds: int
    training_flops: float | None
    over: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        return "make budgets" if self.over else f"make repro SCALE={self.scale} STUDY={self.study}"

    @property
    def hours(self) -> float | None:
        """On the device of DEVICE."""
        return None if self.training_flops is None else self.training_flops / (UTILISATION * PEAK_FLOPS) / 3600

    @property
    def shown(self) -> str:
        """Command and cost as people read them."""
        if self.training_flops is None or self.hours is None:
            return self.command if self.arms else f"{self.command} (params.yaml has no such study at this scale)"
        if self.over:
            price = f"{self.training_flops:.2g} training FLOPs, {_duration(self.hours)} on {DEVICE}"
            return f"{self.command}: {len(self.over)} sizes, {price}"
        runs = (
            f"{len(self.arms)} {'arm' if len(self.arms) == 1 else 'arms'} x {self.seeds} {'seed' if self.seeds == 1 else 'seeds'}"
        )
        return f"{self.command}: {runs}, {self.training_flops:.2g} training FLOPs, {_duration(self.hours)} on {DEVICE}"

    def to_record(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "study": self.study,
            "command": self.command,
            "arms": list(self.arms),
            "seeds": self.seeds,
            "training_flops": self.training_flops,
            "hours": self.hours,
            "device": DEVICE,
        }


@dataclass(frozen=True)
class Measurement:
    """A measurement that is of no study: its command, and what to know before."""

    command: str
    note: str

    @property
    def shown(self) -> str:
        """As people read it."""
        return f"{self.command}: {self.note}"

    def to_record(self) -> dict[str, Any]:
        return {"command": self.command, "note": self.note}


def needs(params: Params, scale: str, study: str, counting: Counting | None = None, *, over_scales: bool = False) -> Needs:
    """What a study costs at a scale; sweeps, measurements and recall tasks come on top.

    Args:
        over_scales: a study of ``budgets`` is all of them, also at one of its scales.
    """
    chosen = params.studies.get(study)
    if study in params.budgets.values() and (over_scales or scale not in params.budgets):
        parts = [needs(params, *part, counting) for part in params.budgets.items()]
        arms = tuple(dict.fromkeys(arm for part in parts for arm in part.arms))
        flops = [part.training_flops for part in parts]
        whole = None if None in flops else sum(flops)  # type: ignore[arg-type]
        return Needs(scale, study, arms, max(part.seeds for part in parts), whole, tuple(params.budgets))
    scale = chosen.scale or scale if chosen else scale
    if chosen is None or scale not in params.scales:
        return Needs(scale, study, (), 0, None)
    if counting is None:
        return Needs(scale, study, chosen.arms, len(chosen.seeds), None)
    try:
        each = [counting.training_flops(scale, arm) for arm in chosen.arms]
    except ConfigError:
        return Needs(scale, study, (), 0, None)
    return Needs(scale, study, chosen.arms, len(chosen.seeds), len(chosen.seeds) * sum(each))


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.0f} days"
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else "under a minute"
