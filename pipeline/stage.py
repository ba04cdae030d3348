"""What every stage shares: its arguments, where things lie, and how errors reach the user."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm import LolmError


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

    def metrics(self, arm: str, seed: int, stage: str) -> Path:
        return self.reports / "runs" / f"{arm}-{seed}" / f"{stage}.json"


def arguments(description: str | None, *, run: bool = False) -> argparse.Namespace:
    """Parse the arguments of a stage: ``--scale``, and with ``run`` also ``--arm`` and ``--seed``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scale", required=True, help="name of a preset under `scales` in params.yaml")
    if run:
        parser.add_argument("--arm", required=True, help="name under `architectures` in params.yaml")
        parser.add_argument("--seed", required=True, type=int)
    return parser.parse_args()


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


def loaded_code() -> str:
    """Hash of the source of every module of ours that is loaded, tracking apart: what decides a run beside its inputs."""
    digest = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        source = getattr(module, "__file__", None)
        ours = name.split(".")[0] in ("lolm", "pipeline")
        if ours and source and name not in ("lolm.tracking", "lolm.points"):
            digest.update(name.encode() + b"\0" + Path(source).read_bytes() + b"\0")
    return digest.hexdigest()


def flat_scalars(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a record, nested mappings kept, lists and texts left out: what `dvc metrics show` can print."""
    kept: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            value = flat_scalars(value)
        if value and isinstance(value, dict) or isinstance(value, int | float) and not isinstance(value, bool):
            kept[name] = value
    return kept
