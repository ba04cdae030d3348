"""What is found beside a run: learning rates, recall on synthetic tasks, sizes before anything is run."""

from __future__ import annotations

from dataclasses import dataclass

from lolm.records.schema.training import Identity


@dataclass(frozen=True)
class TypeRecall:
    """Accuracy and nats at the asked positions of a trained model whose writes of one type are replaced; see ``Removal``."""

    type: str
    by: str
    accuracy: float
    nats: float


@dataclass(frozen=True)
class RecallTask:
    """One synthetic task; a run that diverged has ``diverged`` set and no accuracy and loss. ``removed``: without each type of
    layer; empty where that was not measured."""

    steps: int
    seq_len: int
    pairs: int | None
    chance: float
    order_zero: float
    accuracy: float | None
    nats: float | None
    diverged: bool = False
    removed: tuple[TypeRecall, ...] = ()


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
    """``sweep/<arm>.json``: how a learning rate was chosen; ``inside`` whether a worse rate was seen on both sides of it.

    ``inputs`` as in :class:`Identity`.
    """

    arm: str
    chosen: float
    inside: bool | None
    steps: int
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    rates: tuple[Rate, ...]
    inputs: str = ""


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
