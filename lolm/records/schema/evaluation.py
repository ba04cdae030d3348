"""The final measurement of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lolm.records.schema.training import Identity, References, Score


@dataclass(frozen=True)
class ScheduleEnd:
    """Costs and scores where a learning-rate schedule ended: the run's own end, or that of an annealed copy."""

    step: int
    tokens: int
    flops: float
    seconds: float
    validation: Score
    test: Score


@dataclass(frozen=True)
class PositionScore:
    """Scores over a range of positions in the window; ``bits_per_byte`` None where no byte of text is scored."""

    nats: float
    bits_per_byte: float | None
    accuracy: float


@dataclass(frozen=True)
class PositionBin:
    """Scores of the positions start … stop − 1."""

    start: int
    stop: int
    nats: float
    bits_per_byte: float | None
    accuracy: float


@dataclass(frozen=True)
class PositionChange:
    """late / early − 1 of each score; None where it has no meaning."""

    nats: float | None
    bits_per_byte: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Positions:
    """Held-out loss by position: doubling bins, the first and the last quarter, and the relative change between them."""

    bins: tuple[PositionBin, ...]
    early: PositionScore
    late: PositionScore
    change: PositionChange


@dataclass(frozen=True)
class Beyond:
    """Targets after the first training length of a longer window, and the same targets in windows of the training length."""

    tokens: int
    nats: float
    nats_trained: float


@dataclass(frozen=True)
class LengthScore:
    """One text in windows of ``seq_len`` tokens; ``beyond`` None for the training length itself."""

    seq_len: int
    tokens: int
    nats: float
    bits_per_byte: float
    beyond: Beyond | None


@dataclass(frozen=True)
class Lengths:
    """By multiple of the training length; ``left_out`` says why a length is missing."""

    windows: dict[str, LengthScore]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Histogram:
    edges: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True)
class GateSummary:
    """The gate on held-out text.

    Attributes:
        mean: over tokens and dimensions.
        per_dimension: means over tokens.
        saturated_low, saturated_high: shares of values below 0.05 and above 0.95.
        share: of the surface branch in the power of the gated signal, |g u|² / (|g u|² + |(1 − g) v|²).
        target: mean of what the competitive loss pulls the gate to, σ(5 (u_h − u_z)); None where sequences are too short for one.
    """

    mean: float
    std_over_positions: float
    std_over_dimensions: float
    per_dimension: tuple[float, ...]
    histogram: Histogram
    saturated_low: float
    saturated_high: float
    share: float
    target: float | None


@dataclass(frozen=True)
class RegimeSummary:
    """Regime codes: how many are ever chosen, and the entropy of their usage (nats, at most ``max_entropy`` = ln codes), sampled
    with Gumbel noise as published, for pure noise, and without noise."""

    codes: int
    max_entropy: float
    alive_sampled: int
    usage_entropy_sampled: float
    alive_noise: int
    usage_entropy_noise: float
    alive_eval: int
    usage_entropy_eval: float


@dataclass(frozen=True)
class ContrastiveSummary:
    """The contrastive loss beside its chance level ln(candidates), nats."""

    nats: float
    chance: float
    candidates: int


@dataclass(frozen=True)
class Diversity:
    """Of word bigrams within a text, and of all texts pooled."""

    words: int
    distinct_2: float | None
    distinct_2_pooled: float | None
    bigram_repetition: float | None


@dataclass(frozen=True)
class Example:
    prompt: str
    generated: str
    real: str


@dataclass(frozen=True)
class Samples:
    """Texts a model wrote after prompts of the test split, beside the text's own continuations."""

    texts: int
    prompt_tokens: int
    sample_tokens: int
    temperature: float
    top_k: int
    generated: Diversity
    real: Diversity
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class TextLosses(Identity):
    """``evaluate/<arm>-<seed>.text.json.xz``: test losses by piece of text, for intervals that cover the choice of text.

    A piece is ``piece_tokens`` tokens of one document, the last of it shorter; pieces that were not scored are left out.

    Attributes:
        documents: ids, in the order of the split.
        document, piece: of each entry below, the document's index and the piece's number within it.
        tokens, bytes, nats: sums over the scored targets of a piece, under the final weights.
        subset_tokens: the same targets or fewer, on which ``ends`` has the sums of nats by step, at each end of a schedule.
    """

    documents: tuple[str, ...]
    piece_tokens: int
    document: tuple[int, ...]
    piece: tuple[int, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]
    nats: tuple[float, ...]
    subset_tokens: tuple[int, ...]
    ends: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class TrainingStream:
    """Losses at kept weights, in evaluation mode, on the first batches that the run was trained on: what the authors' forced gate
    was scored on (facts D3). ``gate_one`` and ``gate_zero`` with the gate forced; they and ``gate`` None for a model without one.
    """

    step: int
    tokens: int
    nats: float
    gate: float | None = None
    gate_one: float | None = None
    gate_zero: float | None = None


@dataclass(frozen=True)
class Evaluation(Identity):
    """``evaluate/<arm>-<seed>.json``: the final measurement; None for what a model lacks.

    Attributes:
        tokens, bytes: of the test text that ``test``, its references and ``positions`` are of.
        subset_tokens: of the subset of a split that everything else is of; None: of the same text.
        objectives: auxiliary losses by term, unweighted means.
        schedule_ends: by ascending step, the run's own end last.
        training_stream: by ascending step of the weights that were kept.
    """

    step: int
    split: Literal["test"]
    tokens: int
    bytes: int
    validation: Score
    test: Score
    references: References
    references_validation: References
    objectives: dict[str, float] | None
    cpc: ContrastiveSummary | None
    gate: GateSummary | None
    regime: RegimeSummary | None
    positions: Positions
    lengths: Lengths
    samples: Samples | None
    schedule_ends: tuple[ScheduleEnd, ...]
    subset_tokens: int | None = None
    training_stream: tuple[TrainingStream, ...] = ()
