"""Counts of runs that are asked for again and again, as the ledger of claims asks for them."""

from __future__ import annotations

from lolm.accounting.count import account_run
from lolm.accounting.resolve import resolve_run
from lolm.config import Params, RunConfig


class Counting:
    """Resolved runs and their exact costs by ``params.yaml``; each arm is resolved and counted once a scale."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._training_flops: dict[tuple[str, str], float] = {}

    def resolve(self, scale: str, arm: str) -> RunConfig:
        """The run that ``params.yaml`` stands for, of no seed in particular.

        Raises:
            ConfigError: unknown scale or arm, or an arm that has no size there.
        """
        return resolve_run(self.params, scale, arm, 0)

    def flops_per_token(self, run: RunConfig) -> float:
        """Training FLOPs of one token, heads of the objectives included."""
        return account_run(run).flops_per_token.training

    def training_flops(self, scale: str, arm: str) -> float:
        """FLOPs of one run's training: its steps, and the decays of the copies that are annealed earlier. Raises as resolve."""
        if (scale, arm) not in self._training_flops:
            run = self.resolve(scale, arm)
            self._training_flops[scale, arm] = run.training.all_tokens * self.flops_per_token(run)
        return self._training_flops[scale, arm]
