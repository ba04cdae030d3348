"""What an intervention may know besides the tensor it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lolm.data.batches import stream_seed
from lolm.interventions.errors import InterventionError
from lolm.interventions.sites import is_inside
from lolm.interventions.statistics import Statistics


@dataclass(frozen=True)
class Context:
    """What an intervention may need to know.

    Attributes:
        statistics: of the model on a data set, see :func:`lolm.interventions.measure`.
        other: gives what :func:`lolm.interventions.observe` sees on as many other documents; called at most when needed.
        other_writes: the same for :func:`lolm.interventions.observe_writes`.
        full: the o of the unchanged model on this batch, (B, T, D).
        seed: of all random choices.
        batch: number of the batch; draws of different batches are independent.
    """

    statistics: Statistics | None = None
    other: Callable[[], Mapping[str, torch.Tensor]] | None = None
    full: torch.Tensor | None = None
    seed: int = 0
    batch: int = 0
    other_writes: Callable[[], Mapping[str, torch.Tensor]] | None = None

    def measured(self) -> Statistics:
        """The statistics; raises InterventionError without any."""
        if self.statistics is None:
            raise InterventionError("this intervention needs statistics of the model; give Context(statistics=measure(...))")
        return self.statistics

    def mean(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Mean over tokens of the thing ``name`` (a key of Statistics), expanded to the shape of ``like``."""
        return self._found(self.measured().mean, name).to(like).expand_as(like)

    def std(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Standard deviation over tokens, as :meth:`mean`."""
        return self._found(self.measured().std, name).to(like).expand_as(like)

    def elsewhere(self, name: str) -> torch.Tensor:
        """The thing ``name`` in other documents, (B, T, ·); raises InterventionError where none were given."""
        other = self.other_writes if is_inside(name) else self.other
        if other is None:
            raise InterventionError(
                "this intervention needs other documents; score at least two windows, or give Context(other=, other_writes=)"
            )
        return self._found(other(), name)

    def generator(self, name: str, every_batch: bool = True) -> torch.Generator:
        """A fresh CPU generator for one purpose, so that no intervention's draws depend on which others are scored.

        Args:
            every_batch: draw anew in each batch; else the same in all of them.
        """
        return seeded(self.seed, f"{name}/{self.batch}" if every_batch else name)

    @staticmethod
    def _found(things: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        if name not in things:
            raise InterventionError(f"this model has no {name!r} to go by, only {', '.join(sorted(things))}")
        return things[name]


EMPTY = Context()


def seeded(seed: int, name: str) -> torch.Generator:
    """The CPU generator of one random choice."""
    return torch.Generator().manual_seed(stream_seed(seed, f"interventions/{name}") % 2**63)
