"""The schema of everything a run leaves behind.

Records are JSON with the keys of these classes, read and written through :mod:`lolm.records.store` alone. A key that is missing,
unknown or of another type is an error that names file and key. Losses are nats a token unless a name says otherwise; ``None``
stands for what a model does not have, or what could not be measured, as its docstring says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from lolm.config import RunConfig
from lolm.records import names

# ---------------------------------------------------------------------------------------------- what every record begins with


@dataclass(frozen=True)
class Identity:
    """Whose record it is.

    Attributes:
        name: of the run, for people and for MLflow.
        fingerprint: of the run (configuration, data, code, device, kernels).
    """

    arm: str
    seed: int
    name: str
    fingerprint: str


@dataclass(frozen=True)
class Score:
    """Held-out loss of a model: nats a token, bits per byte of text, share of tokens whose first guess is right."""

    nats: float
    bits_per_byte: float
    accuracy: float


@dataclass(frozen=True)
class References:
    """Losses of trivial models on the same tokens, nats: a uniform guess (ln V), and n-grams of the tokens the run trained on;
    ``bigram_all_text`` of the whole training split."""

    uniform: float
    unigram: float
    bigram: float
    bigram_all_text: float


# ---------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Parameters:
    """Exact counts; ``active`` are those a token meets."""

    total: int
    active: int
    by_part: dict[str, int]


@dataclass(frozen=True)
class Flops:
    """FLOPs of one token: of a forward pass, of training (three times that, auxiliary heads included), by the PaLM rule."""

    forward: float
    training: float
    palm: float
    by_part: dict[str, float]


@dataclass(frozen=True)
class DataChecksums:
    """SHA-256 over the shards of the splits a run read."""

    train: str
    validation: str


@dataclass(frozen=True)
class RunHeader:
    """``config.json``: the resolved configuration of a run, its costs, and where it ran.

    Attributes:
        code: hash of the source that trained it, see :mod:`pipeline.code`.
        state_elements, state_bytes: what generation carries for one sequence of the training length.
    """

    name: str
    label: str
    fingerprint: str
    run: RunConfig
    parameters: Parameters
    flops_per_token: Flops
    state_elements: int
    state_bytes: int
    device: str
    kernels: str
    data: DataChecksums
    code: str


@dataclass(frozen=True)
class Summary:
    """``summary.json``: last values of training. ``seconds`` are of training steps; ``annealing_seconds`` of annealed copies."""

    arm: str
    seed: int
    step: int
    tokens: int
    flops: float
    seconds: float
    annealing_seconds: float
    parameters: int
    flops_per_token: float
    learning_rate: float
    train_loss: float
    tokens_per_second: float
    val_nats: float
    val_bits_per_byte: float
    val_accuracy: float
    val_gate_mean: float | None = None


# ---------------------------------------------------------------------------------------------- evaluation


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
        target: mean of what the competitive loss pulls the gate to, σ(5 (u_h − u_z)).
    """

    mean: float
    std_over_positions: float
    std_over_dimensions: float
    per_dimension: tuple[float, ...]
    histogram: Histogram
    saturated_low: float
    saturated_high: float
    share: float
    target: float


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
class Evaluation(Identity):
    """``evaluate/<arm>-<seed>.json``: the final measurement; None for what a model lacks.

    Attributes:
        tokens, bytes: of the test text that was scored.
        objectives: auxiliary losses by term, unweighted means.
        schedule_ends: by ascending step, the run's own end last.
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


# ---------------------------------------------------------------------------------------------- the dependency laboratory


@dataclass(frozen=True)
class Condition:
    """Scores under one intervention at the weights of one step.

    Attributes:
        intervention, value: what was done (names in :mod:`lolm.records.names`), and its parameter if it has one.
        kl_to_full: KL from the learned to the changed model, nats a token.
        top1_agreement: share of the tokens on which both guess the same first.
        temperature, nats_fitted: fitted on validation text, and the loss at that temperature.
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


@dataclass(frozen=True)
class Addend:
    """What one addend of the fusion contributes, see :func:`lolm.laboratory.contributions.contributions`."""

    mean_norm: float
    variance_share: float | None
    logit: float
    logit_centred: float


@dataclass(frozen=True)
class Contribution:
    """Addends of the fusion at the weights of one step; ``gate`` is the mean gate, None without one."""

    step: int
    gate: float | None
    addends: dict[str, Addend]


@dataclass(frozen=True)
class Readout:
    """A readout refitted under an intervention: ``recovered`` = (damaged − refitted) / (damaged − full), None without damage."""

    step: int
    intervention: str
    value: float | None
    readout: str
    full: float
    damaged: float
    refitted: float
    recovered: float | None
    temperature: float | None = None


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
    contributions: tuple[Contribution, ...] = ()
    readouts: tuple[Readout, ...] = ()
    token_classes: tuple[TokenClass, ...] = ()

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


# ---------------------------------------------------------------------------------------------- recall, sweeps, plans


@dataclass(frozen=True)
class RecallTask:
    """One synthetic task; a run that diverged has ``diverged`` set and no accuracy and loss."""

    steps: int
    seq_len: int
    pairs: int | None
    chance: float
    order_zero: float
    accuracy: float | None
    nats: float | None
    diverged: bool = False


@dataclass(frozen=True)
class Recall(Identity):
    """``recall/<arm>-<seed>.json``; ``model`` is the hash of architecture and size, all that it shares with the run on text."""

    model: str
    state_elements: int
    tasks: dict[str, RecallTask]


@dataclass(frozen=True)
class Rate:
    """A learning rate and the mean validation loss it reached; None where training diverged."""

    learning_rate: float
    nats: float | None


@dataclass(frozen=True)
class Trial:
    learning_rate: float
    seed: int
    nats: float | None


@dataclass(frozen=True)
class Sweep:
    """``sweep/<arm>.json``: how a learning rate was chosen; ``inside`` whether a worse rate was seen on both sides of it."""

    arm: str
    chosen: float
    inside: bool | None
    steps: int
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    rates: tuple[Rate, ...]


@dataclass(frozen=True)
class PlanRow:
    """Sizes and costs of an arm before it is run; ``mismatch`` of its parameters relative to the subject's."""

    parameters: int
    parameters_active: int
    mismatch: float
    flops_per_token_forward: float
    flops_per_token_training: float
    flops_per_token_palm: float
    state_elements: int
    state_bytes: int


@dataclass(frozen=True)
class Divergence(Identity):
    """A run whose loss was not finite: in the place of its other records, so that it shows as such everywhere."""

    step: int
    reason: str = field(default="")
