"""The protocol that every arm of a scale is trained under."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lolm.config.ranges import (
    Count,
    InnerShare,
    Natural,
    NonNegative,
    Positive,
    PositiveShare,
    Share,
    ShareBelowOne,
    Size,
    Workers,
    WorkersOrZero,
)
from lolm.config.strict import refuse


@dataclass(frozen=True)
class TrainingConfig:
    """The protocol every arm of a scale is trained under."""

    steps: Count
    seq_len: Size
    batch_size: Size  # sequences per micro-batch
    accumulation: Size = 1  # micro-batches per optimiser step
    schedule: Literal["cosine", "wsd"] = "cosine"
    schedule_steps: Count | None = None  # cosine: what the schedule is laid out for, where a run stops before its end
    warmup_steps: Natural = 0
    lr_floor: Share = 0.1  # final learning rate as a share of the peak
    decay_fraction: PositiveShare = 0.2  # wsd: share of the steps spent decaying
    # wsd: shares of the run at which a copy is annealed too, for matched end-of-schedule points
    cooldowns: tuple[InnerShare, ...] = ()
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.95)
    epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    clip: Positive = 1.0
    log_every: Count = 10
    eval_every: Count = 100
    eval_tokens: Count = 65_536  # size of the fixed validation set that is scored at each evaluation
    eval_batch_size: Size = 8
    checkpoint_every: Count = 100
    snapshots: tuple[InnerShare, ...] = (0.1, 0.25, 0.5)  # shares of the run at which weights are kept for the ablations
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast over fp32 master weights
    kernels: Literal["auto", "reference", "cpu", "triton", "cuda"] = "auto"  # backend of scans, convolutions, attention, norm
    compile: bool = False  # each block by torch.compile
    # On CUDA each step as one launch, for models whose kernels are shorter than their launches: `20m`, not `149m`.
    cuda_graph: bool = field(default=False, metadata={"identity": False})
    activation_checkpointing: bool = False
    threads: WorkersOrZero = 1  # CPU threads of one run; 0 = all
    # Processes of one run on each node, each with a GPU where there are such, and nodes; they share the micro-batches of a step,
    # so that a run on two devices goes on on one or on four.
    devices: Workers = field(default=1, metadata={"identity": False})
    nodes: Size = field(default=1, metadata={"identity": False})

    def __post_init__(self) -> None:
        ends, whole = self.cooldown_steps, self.steps if self.schedule_steps is None else self.schedule_steps
        sequences = self.batch_size * self.accumulation
        fitting = next((size for size in range(self.batch_size, 0, -1) if sequences % (size * self.processes) == 0), None)
        early = any(end >= self.steps or self.decay_starts(end) < max(1, self.warmup_steps) for end in ends)
        refuse(
            [
                (self.warmup_steps >= whole, "warmup_steps", f"{self.warmup_steps} leaves nothing of steps {whole}"),
                (
                    self.accumulation % self.processes != 0,
                    "devices",
                    f"{self.devices} on {self.nodes} node(s) cannot share {self.accumulation} micro-batch(es) a step evenly; "
                    + (
                        f"the same {sequences} sequences: batch_size: {fitting}, accumulation: {sequences // fitting}"
                        if fitting
                        else f"a step has {sequences} sequences, give every process as many"
                    ),
                ),
                (
                    bool(ends) and self.schedule != "wsd",
                    "cooldowns",
                    "need schedule: wsd; a point inside a cosine run is not the end of one",
                ),
                (
                    self.schedule_steps is not None and (self.schedule != "cosine" or self.schedule_steps < self.steps),
                    "schedule_steps",
                    f"{self.schedule_steps} is for schedule: cosine and a run that stops before its end; got {self.schedule} and "
                    f"steps {self.steps}",
                ),
                (
                    early or len(set(ends)) != len(ends),
                    "cooldowns",
                    f"are different shares of the run whose decay starts after the warm-up of {self.warmup_steps} steps; got "
                    f"{list(self.cooldowns)}, which end at {list(ends)} of {self.steps} steps",
                ),
            ]
        )

    @property
    def cooldown_steps(self) -> tuple[int, ...]:
        """Ends of the annealed copies, in steps, ascending; the run's own end is not among them."""
        return tuple(sorted(max(1, round(share * self.steps)) for share in self.cooldowns))

    def decay_starts(self, end: int) -> int:
        """Steps done when a ``wsd`` schedule that ends at ``end`` begins to decay."""
        return end - max(1, round(self.decay_fraction * end))

    @property
    def processes(self) -> int:
        """Of one run, on all nodes together."""
        return self.devices * self.nodes

    @property
    def tokens_per_step(self) -> int:
        return self.seq_len * self.batch_size * self.accumulation

    @property
    def all_tokens(self) -> int:
        """Tokens that a run is trained on: those of its steps, and of the decays of its annealed copies."""
        decays = sum(end - self.decay_starts(end) for end in self.cooldown_steps)
        return (self.steps + decays) * self.tokens_per_step

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps whose weights are kept besides the last one."""
        return tuple(sorted({max(1, round(share * self.steps)) for share in self.snapshots} - {self.steps}))
