"""What every stage shares: its arguments, where things lie, and how errors reach the user."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm import LolmError
from lolm.accounting.resolve import resolve_run
from lolm.config import Params, RunConfig
from lolm.records import read_json


@dataclass(frozen=True)
class Paths:
    """Locations of one scale's inputs and results, relative to the project root."""

    scale: str

    @property
    def artifacts(self) -> Path:
        return Path("artifacts") / self.scale

    @property
    def reports(self) -> Path:
        return Path("reports") / self.scale

    @property
    def corpus(self) -> Path:
        return self.artifacts / "corpus"

    @property
    def tokenizer(self) -> Path:
        return self.artifacts / "tokenizer"

    @property
    def shards(self) -> Path:
        return self.artifacts / "shards"

    def run(self, arm: str, seed: int) -> Path:
        return self.artifacts / "runs" / f"{arm}-{seed}"

    def evaluation(self, arm: str, seed: int) -> Path:
        return self.artifacts / "evaluate" / f"{arm}-{seed}.json"

    def ablation(self, arm: str, seed: int) -> Path:
        return self.artifacts / "ablate" / f"{arm}-{seed}.json"

    def recall(self, arm: str, seed: int) -> Path:
        return self.artifacts / "recall" / f"{arm}-{seed}.json"

    def sweep(self, arm: str) -> Path:
        return self.artifacts / "sweep" / f"{arm}.json"

    def metrics(self, arm: str, seed: int, stage: str) -> Path:
        return self.reports / "runs" / f"{arm}-{seed}" / f"{stage}.json"

    def study(self, name: str) -> Path:
        return self.reports / name


def arguments(description: str | None, *, arm: bool = False, run: bool = False) -> argparse.Namespace:
    """Parse the arguments of a stage: ``--scale``; with ``arm`` also ``--arm``; with ``run`` also ``--arm`` and ``--seed``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scale", required=True, help="name of a preset under `scales` in params.yaml")
    if arm or run:
        parser.add_argument("--arm", required=True, help="name under `architectures` in params.yaml")
    if run:
        parser.add_argument("--seed", required=True, type=int)
    return parser.parse_args()


def training_device() -> str:
    """``cuda`` where PyTorch sees a device, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def main(stage: Callable[[], None]) -> None:
    """Run a stage; an expected error becomes one line on stderr and exit status 2.

    Expected errors are LolmError and OSError; anything else is a bug and keeps its traceback.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        stage()
    except (LolmError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def resolved(params: Params, scale: str, arm: str, seed: int) -> RunConfig:
    """The configuration of a run with the learning rate that its arm's sweep chose.

    Raises:
        RecordError: the sweep has not been made.
    """
    return resolve_run(params, scale, arm, seed, read_json(Paths(scale).sweep(arm))["chosen"])


def flat_scalars(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a record, nested mappings kept, lists and texts left out: what `dvc metrics show` can print."""
    kept: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            value = flat_scalars(value)
        if value and isinstance(value, dict) or isinstance(value, int | float) and not isinstance(value, bool):
            kept[name] = value
    return kept
