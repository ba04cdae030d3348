"""What every record begins with, and what training leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

from lolm.config import RunConfig
from lolm.config.ranges import Label


@dataclass(frozen=True)
class Identity:
    """Whose record it is.

    Attributes:
        name: of the run, for people and for MLflow.
        fingerprint: of the run (configuration, data, code, device, kernels).
        inputs: hash of what a measurement was made from (settings, weights, data, code), see :mod:`pipeline.identity`.
    """

    arm: str
    seed: int
    name: str
    fingerprint: str
    inputs: str = field(default="", kw_only=True)


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
        micro_batch: sequences at a time, where the device's memory holds fewer than ``training.batch_size``.
    """

    name: str
    label: Label
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
    micro_batch: int | None = None


@dataclass(frozen=True)
class Summary:
    """``summary.json``: last values of training.

    Attributes:
        seconds: of training steps; ``annealing_seconds`` of annealed copies.
        backends: what computed each op: ``cpu``, ``reference``, ``torch``, ``triton``, or the library whose kernel it was.
        alone: whether this run alone was being made, so that its seconds compare with those of others that were.
        weights: SHA-256 of each file of weights; empty in records from before they were taken.
    """

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
    backends: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True)
class Divergence(Identity):
    """A run whose loss was not finite: in the place of its other records, so that it shows as such everywhere.

    ``header`` is what the run's ``config.json`` would be; None in records from before it was kept.
    """

    step: int
    reason: str = ""
    header: RunHeader | None = field(default=None, repr=False)
