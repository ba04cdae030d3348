"""What is measured of a trained run, and how results are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from lolm.config.ranges import (
    LARGEST,
    MANY,
    Count,
    InnerShare,
    Name,
    Natural,
    NonNegative,
    Positive,
    PositiveShare,
    Seed,
    Share,
    Size,
    SizeOrZero,
    Text,
)
from lolm.config.strict import Items, Range, refuse


@dataclass(frozen=True)
class EvaluationConfig:
    """The final measurement on the test split.

    Attributes:
        tokens: of the test split that the final weights are scored on; ``all``: the whole split.
        subset_tokens: of each split, spread evenly over it, for what needs less or costs more: earlier ends of schedules, the
            validation split, streams, longer windows. None: as many as ``tokens``.
    """

    tokens: Count | Literal["all"] = 131_072
    subset_tokens: Count | None = None
    batch_size: Size = 8
    # Windows of the length extrapolation, as multiples of training.seq_len.
    lengths: Annotated[tuple[Size, ...], Items(least=1, distinct=True)] = (1, 2, 4)
    samples: SizeOrZero = 16  # texts that are generated, for their diversity
    sample_tokens: Size = 96
    prompt_tokens: Size = 32


@dataclass(frozen=True)
class SweepConfig:
    """Choice of each arm's peak learning rate, by the validation loss of short runs; every arm has the same grid.

    The rates are the arm's ``learning_rate`` times each factor. While the best is at an edge, the grid grows there by the
    ratio of its last two factors, at most ``extensions`` times. Of the rates whose loss is within ``tie`` nats of the best, what
    another seed would change, the lowest is taken.
    """

    factors: Annotated[tuple[Positive, ...], Items(ascending=True)] = ()  # none: the learning rate is taken as given
    steps: Annotated[int, Range(least=2, most=LARGEST)] = 500  # the first warms up
    seeds: Annotated[tuple[Seed, ...], Items(least=1, distinct=True)] = (0,)
    extensions: SizeOrZero = 2
    tie: NonNegative = 0.0

    def __post_init__(self) -> None:
        few = len(self.factors) in (1, 2)
        refuse([(few, "factors", f"at least three, or none; got {list(self.factors)}")])


@dataclass(frozen=True)
class RecallConfig:
    """Synthetic tasks that an arm of this size is trained on from scratch: loss on text hides recall."""

    tasks: Annotated[tuple[Literal["mqar", "induction"], ...], Items(distinct=True)] = ()
    steps: Count = 1000
    batch_size: Size = 32
    seq_len: Size = 64
    vocab_size: Annotated[int, Range(least=4, most=MANY)] = 128
    pairs: Size = 8  # mqar: key-value pairs to remember
    learning_rate: Positive = 1.0e-3  # the same for every arm
    eval_sequences: Size = 512

    def __post_init__(self) -> None:
        mqar, induction = "mqar" in self.tasks, "induction" in self.tasks
        length, vocabulary, half = 3 * self.pairs, 2 * self.pairs + 2, self.seq_len // 2
        refuse(
            [
                (mqar and length > self.seq_len, "pairs", f"{self.pairs} need seq_len of at least {length}"),
                (mqar and vocabulary > self.vocab_size, "pairs", f"{self.pairs} need vocab_size of at least {vocabulary}"),
                (induction and self.seq_len < 8, "seq_len", f"induction needs at least 8, got {self.seq_len}"),
                (induction and self.vocab_size < half, "vocab_size", f"induction needs at least {half}: half of seq_len"),
            ]
        )


@dataclass(frozen=True)
class AblationConfig:
    """The dependency laboratory: interventions with their controls, on the test split."""

    tokens: Count = 32_768  # scored, and of validation text for the statistics that removed branches are replaced by
    batch_size: Size = 8
    gate_values: Annotated[tuple[Share, ...], Items(distinct=True)] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    calibration_tokens: Count = 4096  # of validation text, on which each intervention's temperature is fitted
    # Of a branch's dimensions that are removed together.
    dimension_shares: Annotated[tuple[PositiveShare, ...], Items(distinct=True)] = (0.125, 0.5)
    dimension_draws: SizeOrZero = 2  # random groups of dimensions beside each chosen one
    split_draws: SizeOrZero = 19  # random halves of all dimensions, the null of the inversion: p can reach 1 / 20
    refit_tokens: Count = 32_768  # of training text, from which readouts are refitted at the final weights
    refit_validation_tokens: Count = 16_384  # of validation text, whose loss says which step of a refit is kept
    refit_checks: Size = 10  # evenly over the steps of a refit, beside its start
    refit_steps: Natural = 200
    refit_rate: Positive = 1.0e-2
    fine_tune_steps: Natural = 100  # of all weights, with the intervention in place
    fine_tune_rate: Positive = 0.3  # as a share of the run's peak learning rate
    annealed: bool = False  # measured where schedules end, instead of at the snapshots of the trunk
    boundary_tokens: Natural = 0  # scored by what they follow: a sentence, a paragraph, a document; 0: not measured


@dataclass(frozen=True)
class LayersConfig:
    """Interventions by layer and by type of layer, on the test split."""

    tokens: Count = 32_768  # scored, and of validation text for the statistics that removed writes are replaced by
    batch_size: Size = 8
    draws: SizeOrZero = 8  # random sets of mixers beside each type, of equal number, of equal parameters, and of equal norm
    labellings: SizeOrZero = 70  # at most so many ways to name the mixers' types are all tried: the exact permutation


@dataclass(frozen=True)
class DownstreamConfig:
    """What `make downstream` scores: tasks of lm-evaluation-harness, and two of our own made from the test split.

    Attributes:
        tasks: names of tasks, groups or tags of the harness; ``cloze`` and ``minimal_pairs`` are ours.
        data: folder with the tasks' files; None: the Hugging Face hub.
        limit: most items of each task, and of each part of a group; None: all.
    """

    tasks: Annotated[tuple[Name, ...], Items(least=1, distinct=True)] = ("cloze", "minimal_pairs")
    data: Text | None = None
    limit: Count | None = None


@dataclass(frozen=True)
class AnalysisConfig:
    """Statistics: what decides a claim, and how."""

    confidence: InnerShare = 0.95
    parameter_tolerance: PositiveShare = 0.005  # largest relative mismatch of arms that are called matched
    inversion_statistic: Literal["gate", "zero", "mean", "resample", "gaussian"] = "mean"  # what stands for a removed branch
    inversion_margin: NonNegative = 0.05  # nats; a smaller difference of damages is not called an inversion
    inversion_band: Positive = 0.1  # nats; an S whose interval lies inside +- this shows that there is no inversion
    type_statistic: Literal["zero", "mean", "resample", "gaussian"] = "mean"  # what stands for the removed layers of a type
    type_margin: NonNegative = 0.05  # nats; a smaller difference of damages says that neither type is missed more
    equivalence_margin: NonNegative = 0.01  # nats; "no difference" needs an interval inside +- this margin
    gate_margin: NonNegative = 0.05  # two gate levels, or shares, closer than this are called equal
    published_window: Count = 50  # steps averaged in the published training loss
    huber: Positive = 1.0e-3  # residual of ln L from which on the loss of a fit of L(N, D) is linear
    replicates: Annotated[int, Range(least=100, most=100_000)] = 400  # bootstrap draws of such a fit
    path_range: Annotated[float, Range(least=1, most=LARGEST)] = 3.0  # of compute, over which a law's change is read at least
    shared_floor: bool = False  # whether the laws of all arms share one irreducible loss
    boundary_tokens: Literal[1, 2, 4, 8, 16, 32] = 8  # predictions after a boundary in the text that count as made at it
    solved_accuracy: PositiveShare = 0.9  # of a recall task, from which on a run counts as having solved it
    # Variance over seeds: below so many seeds it is pooled over the arms of a study, unless their variances are shown to differ.
    pool_below: Count = 5
    pooling_level: InnerShare = 0.1
    # Text is resampled by document where they are worth so many of equal length, else by block of so many tokens of one document.
    least_documents: Annotated[int, Range(least=2, most=LARGEST)] = 30
    block_tokens: Annotated[int, Range(least=1024, most=LARGEST)] = 16_384
    bootstrap_draws: Annotated[int, Range(least=100, most=100_000)] = 1000
    bootstrap_seed: Seed = 0
    drawn_share: InnerShare = 0.9  # of the draws of text in which a number must exist for text to count in its interval
    # Multipliers that differ by a smaller share, or miss 2x by it, may do so because losses are interpolated.
    interpolation_margin: NonNegative = 0.02
    chance_errors: NonNegative = 2  # standard errors over items from which on a task's score has left chance
    power: InnerShare = 0.8  # of the seeds that `make power` asks for
