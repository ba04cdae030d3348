"""Counts of runs that are asked for again and again, as the ledger of claims asks for them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

from lolm.accounting.count import account_run
from lolm.accounting.resolve import resolve_run
from lolm.config import Params, RunConfig, to_mapping


class Counting:
    """Resolved runs and their exact costs; a model of each architecture and size is built once, on the meta device."""

    def resolve(self, params: Params, scale: str, arm: str) -> RunConfig:
        """The run that ``params.yaml`` stands for, of no seed in particular.

        Raises:
            ConfigError: unknown scale or arm, or an arm that has no size there.
        """
        return resolve_run(params, scale, arm, 0)

    def flops_per_token(self, run: RunConfig) -> float:
        """Training FLOPs of one token, heads of the objectives included."""
        return _flops_per_token(_Run(run))


class _Run:
    """A run, known by all that its FLOPs rest on."""

    def __init__(self, run: RunConfig) -> None:
        self.run = replace(run, scale="", arm="", seed=0)
        self.text = json.dumps(to_mapping(self.run), sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Run) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@cache
def _flops_per_token(key: _Run) -> float:
    return account_run(key.run).flops_per_token.training
