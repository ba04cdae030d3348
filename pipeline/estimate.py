"""How long pieces of stages will take, from earlier runs of an arm where there are any, else from its FLOPs."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lolm.accounting.resolve import resolve_run
from lolm.config import Params, ScaleConfig, scale_of, tuned_arm
from lolm.records import Layout, RecordError, read, read_mapping
from lolm.records.schema import RunHeader, Summary
from pipeline.stage import training_device

PER_ARM, PER_RUN = ("sweep",), ("train", "evaluate", "ablate", "layers", "recall")
FRACTION_OF_PEAK = 0.5  # of one matrix product's speed that a small model reaches in training: 47 to 52 of 98 GFLOP/s
FORWARD_SHARE = 1 / 3  # of a training token's cost
START = 4.0  # seconds of a piece's process before it computes: its imports


@dataclass(frozen=True)
class Estimate:
    """Seconds of each piece, and whether every arm was measured before on such a device."""

    pieces: tuple[float, ...]
    measured: bool

    @property
    def seconds(self) -> float:
        return sum(self.pieces)

    @property
    def known(self) -> bool:
        return not math.isnan(self.seconds)

    def text(self, jobs: int) -> str:
        if not self.known:
            return "how long it takes is unknown before the first run on this device"
        basis = "from the speed of earlier runs" if self.measured else "roughly, from FLOPs and this machine's matrix product"
        return f"about {duration(max(ends(self.pieces, jobs), default=0.0))} ({basis})"


def ends(seconds: Sequence[float], jobs: int) -> list[float]:
    """When each of some pieces will have ended, ascending, begun in order as one of ``jobs`` places is free."""
    places, found = [0.0] * jobs, []
    for one in seconds:
        found.append(heapq.heappop(places) + one)
        heapq.heappush(places, found[-1])
    return sorted(found)


def duration(seconds: float) -> str:
    """A span of time in words."""
    minutes, years = seconds / 60, seconds / (365.25 * 86400)
    if minutes < 1.5:
        return "a minute or two"
    if minutes <= 120:
        return f"{minutes:.0f} minutes"
    if minutes <= 2 * 1440:
        return f"{minutes / 60:.1f} hours"
    return f"{minutes / 1440:,.0f} days" if years < 2 else f"{years:,.0f} years"


def pieces_of(params: Params) -> list[tuple[str, str]]:
    """(stage, arm) of everything that takes time in the selected study."""
    study = params.selected
    swept = dict.fromkeys(tuned_arm(params, params.scale, arm) for arm in study.arms)
    pieces = [(stage, arm) for stage in PER_ARM for arm in swept]
    return pieces + [(stage, arm) for stage in PER_RUN for arm in arms_of(params, stage) for _ in study.seeds]


def arms_of(params: Params, stage: str) -> Sequence[str]:
    """Arms of the selected study that a stage of runs is for."""
    study = params.selected
    return {"layers": params.layers_arms, "recall": study.recall_arms}.get(stage, study.arms)


def estimate(params: Params, pieces: Iterable[tuple[str, str]]) -> Estimate:
    """Time for pieces (stage, arm) at the selected scale."""
    preset, found, measured = scale_of(params, params.scale), [], True
    speeds: dict[str, tuple[float, bool]] = {}
    test_tokens = _test_tokens(Layout(params.scale).shards_record) if preset.evaluation.tokens == "all" else 0
    for stage, arm in pieces:
        if arm not in speeds:
            seen = earlier_speed(params, arm)
            rough = math.nan if seen is not None else flops_per_token(params, arm) / (FRACTION_OF_PEAK * matmul_speed())
            speeds[arm] = (rough, False) if seen is None else (seen, True)
        per_token, known = speeds[arm]
        fused = params.architectures[arm].family == "lolm"
        found.append(START + per_token * training_tokens(preset, stage, fused, test_tokens))
        measured = measured and known
    return Estimate(tuple(found), measured)


def _test_tokens(path: Path) -> int:
    """Of the whole test split; before it is made, 0."""
    if not path.exists():
        return 0
    return int(read_mapping(path, test={"tokens": int})["test"]["tokens"])


def training_tokens(preset: ScaleConfig, stage: str, fused: bool = True, test_tokens: int = 0) -> float:
    """Tokens of training that cost as much as one piece of a stage, for an arm with a fusion or for a plain stack.

    Args:
        test_tokens: of the whole test split; before it is known, 0.
    """
    training, sweep, recall = preset.training, preset.sweep, preset.recall
    if stage == "sweep":
        trials = len(sweep.factors) * len(sweep.seeds)
        return trials * (sweep.steps * training.tokens_per_step + 2 * FORWARD_SHARE * training.eval_tokens)
    if stage == "train":
        evaluations = training.steps / training.eval_every + 1 + len(training.cooldowns)
        return training.all_tokens + FORWARD_SHARE * evaluations * training.eval_tokens
    if stage in ("downstream", "export"):
        return math.nan  # tasks are read where they are scored; an export is files
    if stage == "recall":
        return len(recall.tasks) * recall.steps * recall.batch_size * recall.seq_len
    if stage == "evaluate":
        scored = preset.evaluation
        whole = test_tokens if scored.tokens == "all" else scored.tokens
        passes = 2 + 2 * len(training.cooldowns) + 2 * len(scored.lengths)
        return FORWARD_SHARE * (passes * (scored.subset_tokens or whole) + whole)
    if stage == "layers":  # three types, some six layers with two sites each; the controls; a pass starts half-way on average
        last = 24 * 2 + 6 * preset.layers.draws + preset.layers.labellings / 2
        return FORWARD_SHARE * (16 * (1 + len(training.snapshots)) + 0.5 * last) * preset.layers.tokens
    ablation, draws = preset.ablation, preset.ablation.dimension_draws
    groups = 2 * len(ablation.dimension_shares) * (4 * (1 + draws) + draws)
    conditions = len(ablation.gate_values) + groups + 2 * ablation.split_draws + 40 if fused else 5
    weights = 1 + len(training.cooldowns if ablation.annealed else training.snapshots)
    return FORWARD_SHARE * (0.2 * conditions * weights * ablation.tokens + ablation.boundary_tokens)


def earlier_speed(params: Params, arm: str) -> float | None:
    """Seconds per training token at the speed of the arm's earlier runs on such a device, in FLOP/s and so for the sizes of now;
    None if there are none."""
    layout = Layout(params.scale)
    here: list[tuple[RunHeader, Summary]] = []
    for seed in params.selected.seeds:
        with suppress(RecordError):  # none yet, or a broken one, which is made again
            header, summary = read(layout.header(arm, seed), RunHeader), read(layout.summary(arm, seed), Summary)
            here += [(header, summary)] if header.device == training_device() else []
    if not here:
        return None
    flops = sum(header.flops_per_token.training * summary.tokens for header, summary in here)
    return flops_per_token(params, arm) * sum(summary.seconds for _, summary in here) / flops


def study_flops(params: Params) -> float:
    """Training FLOPs, or as much work as so many, of everything that takes time in the selected study."""
    preset, pieces = scale_of(params, params.scale), pieces_of(params)
    costs = {arm: flops_per_token(params, arm) for arm in {arm for _, arm in pieces}}
    fused = {arm: params.architectures[arm].family == "lolm" for arm in costs}
    return sum(training_tokens(preset, stage, fused[arm]) * costs[arm] for stage, arm in pieces)


@cache
def matmul_speed() -> float:
    """FLOP/s of a float32 matrix product on one thread of a CPU, the fastest of several: what else is running now slows some of
    them, up to threefold. NaN on a GPU, whose use by a model it would not tell."""
    import torch

    if torch.cuda.is_available():
        return math.nan
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a = torch.randn(512, 512)
    fastest = math.inf
    for _ in range(30):
        start = time.perf_counter()
        a @ a
        fastest = min(fastest, time.perf_counter() - start)
    torch.set_num_threads(threads)
    return 2 * 512**3 / fastest


def flops_per_token(params: Params, arm: str) -> float:
    """Training FLOPs of one token."""
    from lolm.accounting.count import account_run

    return account_run(resolve_run(params, params.scale, arm, params.selected.seeds[0])).flops_per_token.training
