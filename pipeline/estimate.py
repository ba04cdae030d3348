"""How long the stages that are stale will take, from earlier runs of an arm where there are any, else from its FLOPs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache

from lolm.accounting.resolve import resolve_run
from lolm.config import Params, ScaleConfig, StudyConfig, scale_of
from lolm.records import read_json
from pipeline.stage import Paths

PER_RUN = ("train", "evaluate", "ablate", "recall")
FRACTION_OF_PEAK = 0.35  # of one matrix product's speed that a small model reaches in training
FORWARD_SHARE = 1 / 3  # of a training token's cost


@dataclass(frozen=True)
class Estimate:
    """Seconds of one process, and whether every arm was measured before."""

    seconds: float
    stages: int
    measured: bool

    def text(self, jobs: int) -> str:
        if not self.stages:
            return "nothing that takes long is left to make"
        if math.isnan(self.seconds):
            return f"expected: unknown before the first run on this device; {self.stages} stages"
        minutes = self.seconds / jobs / 60
        shown = (
            f"{minutes / 60:.1f} hours" if minutes > 120 else f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute or two"
        )
        basis = "from the speed of earlier runs" if self.measured else "roughly, from FLOPs and this machine's matrix product"
        return f"expected: about {shown} for {self.stages} stages ({basis})"


def stages_of_run(study: StudyConfig, scale: str, arm: str, seed: int) -> list[str]:
    """Names of the stages of one run of a study, in their order."""
    return [f"{kind}@{scale}-{arm}-{seed}" for kind in PER_RUN if kind != "recall" or arm in study.recall_arms]


def stages_to_make(stale: set[str], study: StudyConfig, scale: str, arm: str, seed: int) -> list[str]:
    """Those of a run that will be made: what is measured on it is only known to be stale once it has been made again."""
    stages = stages_of_run(study, scale, arm, seed)
    return stages if stages[0] in stale else [name for name in stages if name in stale]


def timed_stages(params: Params, scale: str) -> set[str]:
    """Names of the stages of a study that take time."""
    arms, seeds = params.selected.arms, params.selected.seeds
    per_run = {name for arm in arms for seed in seeds for name in stages_of_run(params.selected, scale, arm, seed)}
    return {f"sweep@{scale}-{arm}" for arm in arms} | per_run


def estimate(params: Params, scale: str, stale: set[str]) -> Estimate:
    """Time for the stale stages of a study."""
    preset, seconds, count, measured = scale_of(params, scale), 0.0, 0, True
    for arm in params.selected.arms:
        wanted = [f"sweep@{scale}-{arm}"] if f"sweep@{scale}-{arm}" in stale else []
        for seed in params.selected.seeds:
            wanted += stages_to_make(stale, params.selected, scale, arm, seed)
        if not wanted:
            continue
        per_token = earlier_speed(params, scale, arm)
        if per_token is None:
            per_token, measured = flops_per_token(params, scale, arm) / (FRACTION_OF_PEAK * matmul_speed()), False
        count += len(wanted)
        fused = params.architectures[arm].family == "lolm"
        seconds += per_token * sum(training_tokens(preset, name.partition("@")[0], fused) for name in wanted)
    return Estimate(seconds, count, measured)


def training_tokens(preset: ScaleConfig, stage: str, fused: bool = True) -> float:
    """Tokens of training that cost as much as a stage of an arm with a fusion, or of a plain stack."""
    training, sweep, recall = preset.training, preset.sweep, preset.recall
    if stage == "sweep":
        trials = len(sweep.factors) * len(sweep.seeds)
        return trials * (sweep.steps * training.tokens_per_step + 2 * FORWARD_SHARE * training.eval_tokens)
    if stage == "train":
        decays = sum(horizon - training.decay_starts(horizon) for horizon in training.cooldown_steps)
        evaluations = training.steps / training.eval_every + 1 + len(training.cooldowns)
        return (training.steps + decays) * training.tokens_per_step + FORWARD_SHARE * evaluations * training.eval_tokens
    if stage == "recall":
        return len(recall.tasks) * recall.steps * recall.batch_size * recall.seq_len
    if stage == "evaluate":
        passes = 2 + 2 * len(training.cooldowns) + 2 * len(preset.evaluation.lengths)
        return FORWARD_SHARE * passes * preset.evaluation.tokens
    ablation, draws = preset.ablation, preset.ablation.dimension_draws
    groups = 2 * len(ablation.dimension_shares) * (4 * (1 + draws) + draws)
    conditions = len(ablation.gate_values) + groups + 2 * ablation.split_draws + 40 if fused else 5
    return FORWARD_SHARE * 0.2 * conditions * (1 + len(training.snapshots)) * preset.ablation.tokens


def earlier_speed(params: Params, scale: str, arm: str) -> float | None:
    """Seconds per training token of the arm's earlier runs, the mean over seeds; None if there are none."""
    paths = [Paths(scale).metrics(arm, seed, "train") for seed in params.selected.seeds]
    records = [read_json(path) for path in paths if path.exists()]
    if not records:
        return None
    return sum(record["seconds"] for record in records) / sum(record["tokens"] for record in records)


@cache
def matmul_speed() -> float:
    """FLOP/s of a float32 matrix product on one thread of a CPU; NaN on a GPU, whose use by a model it would not tell."""
    import torch

    if torch.cuda.is_available():
        return math.nan
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a = torch.randn(512, 512)
    speeds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        speeds.append(2 * 512**3 / (time.perf_counter() - start))
    torch.set_num_threads(threads)
    return sorted(speeds)[2]


def flops_per_token(params: Params, scale: str, arm: str) -> float:
    """Training FLOPs of one token."""
    from lolm.accounting.count import account_run

    return account_run(resolve_run(params, scale, arm, params.selected.seeds[0])).flops_per_token.training
