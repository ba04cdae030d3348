"""How far a run is, and what ends one early."""

from __future__ import annotations

from dataclasses import dataclass, field

from lolm import LolmError


class TrainingError(LolmError):
    """Training cannot go on; the message says why and where the last good checkpoint lies."""


class DivergenceError(TrainingError):
    """A loss or gradient that is not finite.

    Attributes:
        step: the optimiser step, from 1, at which it was seen.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass
class Progress:
    """What a checkpoint must remember besides weights and optimiser."""

    step: int = 0
    schedule: int = 0  # 0: the trunk; then its cooldowns in turn
    seconds: float = 0.0  # spent training up to this step; evaluation and checkpoints are not counted
    seconds_at_branch: float = 0.0  # of which before the cooldown under way began
    annealing_seconds: float = 0.0  # spent on the cooldowns that are done
    window: dict[str, float] = field(default_factory=dict)  # sums since the last log line
    window_steps: int = 0
    window_seconds: float = 0.0
    records_length: int = 0  # bytes of the series that are durable; what lies behind belongs to steps that are taken again
    records_checksum: int | None = None  # of these bytes, see SeriesWriter; a checkpoint of an older version has none
    last_evaluation: dict[str, float] = field(default_factory=dict)
    last_loss: float = 0.0  # of the last step
    last_window_loss: float = 0.0  # mean over the last log window
