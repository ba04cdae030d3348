"""What it takes to test a claim that these runs do not: the study, the command, and what training its arms costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from lolm.accounting.resolve import resolve_run
from lolm.config import ArchitectureConfig, Params, RunConfig, SizeConfig, TrainingConfig, arms_of, from_mapping, to_mapping

PEAK_FLOPS = 989e12  # bf16 without sparsity, of one H100 SXM by its data sheet
UTILISATION = 0.4
DEVICE = f"one H100 at {100 * UTILISATION:g} % of {PEAK_FLOPS / 1e12:g} TFLOP/s in bf16"


@dataclass(frozen=True)
class Needs:
    """Attributes:
    scale, study: keys of ``params.yaml``.
    arms: that are trained, each with ``seeds`` seeds.
    training_flops: of all of them together, schedules with their annealed copies; None where ``params.yaml`` has no such study.
    """

    scale: str
    study: str
    arms: tuple[str, ...]
    seeds: int
    training_flops: float | None

    @property
    def command(self) -> str:
        return f"make repro SCALE={self.scale} STUDY={self.study}"

    @property
    def hours(self) -> float | None:
        """On the device of DEVICE."""
        return None if self.training_flops is None else self.training_flops / (UTILISATION * PEAK_FLOPS) / 3600

    @property
    def shown(self) -> str:
        """Command and cost as people read them."""
        if self.training_flops is None or self.hours is None:
            return f"{self.command} (params.yaml has no such study at this scale)"
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


def needs(params: Params, scale: str, study: str) -> Needs:
    """What a study costs at a scale; sweeps, measurements and recall tasks come on top."""
    chosen = params.studies.get(study)
    if chosen is None or scale not in params.scales or not set(chosen.arms) <= set(arms_of(params, scale)):
        arms, seeds = ((), 0) if chosen is None else (chosen.arms, len(chosen.seeds))
        return Needs(scale, study, arms, seeds, None)
    each = [training_flops(resolve_run(params, scale, arm, chosen.seeds[0])) for arm in chosen.arms]
    return Needs(scale, study, chosen.arms, len(chosen.seeds), len(chosen.seeds) * sum(each))


def training_flops(run: RunConfig) -> float:
    """FLOPs of one run's training: steps, and the decays of the copies that are annealed earlier."""
    training = run.training
    decays = sum(horizon - training.decay_starts(horizon) for horizon in training.cooldown_steps)
    return (training.steps + decays) * training.tokens_per_step * flops_per_token(run)


def flops_per_token(run: RunConfig) -> float:
    """Training FLOPs of one token, by :mod:`lolm.accounting.count`."""
    about = {"architecture": run.architecture, "size": run.size, "training": run.training}
    return _flops_per_token(json.dumps({k: to_mapping(v) for k, v in about.items()} | {"vocab_size": run.vocab_size}))


@cache
def _flops_per_token(text: str) -> float:
    from lolm.accounting.count import account_run  # needs torch, which nothing else here does

    raw = json.loads(text)
    run = RunConfig(
        scale="any",
        arm="any",
        seed=0,
        vocab_size=raw["vocab_size"],
        architecture=from_mapping(ArchitectureConfig, raw["architecture"]),
        size=from_mapping(SizeConfig, raw["size"]),
        training=from_mapping(TrainingConfig, raw["training"]),
    )
    return account_run(run).flops_per_token.training


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.0f} days"
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else "under a minute"
