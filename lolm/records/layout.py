"""Where everything of a scale lies: small records in ``reports/`` (git), data and weights in ``artifacts/`` (DVC)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FINAL_WEIGHTS = "model.safetensors"  # of a run, in its folder of weights and before that in its scratch folder


def snapshot_path(folder: Path, step: int) -> Path:
    """Weights inside a run, in its folder of weights or its scratch folder."""
    return folder / "snapshots" / f"step-{step:06d}.safetensors"


def cooldown_path(folder: Path, step: int) -> Path:
    """Weights of a copy of the run that was annealed to a shorter end."""
    return folder / "cooldowns" / f"step-{step:06d}.safetensors"


class RunKey(NamedTuple):
    """One run of a scale; as text the name of its folders and files, ``<arm>-<seed>``."""

    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Layout:
    """Paths of one scale's records, data and weights below a project's root."""

    scale: str
    root: Path = Path()

    @property
    def reports(self) -> Path:
        return self.root / "reports" / self.scale

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts" / self.scale

    # records

    def train(self, arm: str, seed: int) -> Path:
        """Folder with header, series and summary of a run, or with its divergence."""
        return self.reports / "train" / str(RunKey(arm, seed))

    def header(self, arm: str, seed: int) -> Path:
        return self.train(arm, seed) / "config.json"

    def series(self, arm: str, seed: int) -> Path:
        return self.train(arm, seed) / "metrics.jsonl.xz"

    def summary(self, arm: str, seed: int) -> Path:
        return self.train(arm, seed) / "summary.json"

    def divergence(self, arm: str, seed: int) -> Path:
        return self.train(arm, seed) / "diverged.json"

    def evaluation(self, arm: str, seed: int) -> Path:
        return self.reports / "evaluate" / f"{RunKey(arm, seed)}.json"

    def text_losses(self, arm: str, seed: int) -> Path:
        """Losses of the evaluation by piece of text."""
        return self.reports / "evaluate" / f"{RunKey(arm, seed)}.text.json.xz"

    def ablation(self, arm: str, seed: int) -> Path:
        return self.reports / "ablate" / f"{RunKey(arm, seed)}.json.xz"

    def layers(self, arm: str, seed: int) -> Path:
        return self.reports / "layers" / f"{RunKey(arm, seed)}.json.xz"

    def recall(self, arm: str, seed: int) -> Path:
        return self.reports / "recall" / f"{RunKey(arm, seed)}.json"

    def downstream(self, arm: str, seed: int) -> Path:
        return self.reports / "downstream" / f"{RunKey(arm, seed)}.json"

    def sweep(self, arm: str) -> Path:
        return self.reports / "sweep" / f"{arm}.json"

    def metrics(self, arm: str, seed: int) -> Path:
        """The few headline numbers of a run that `dvc metrics show` prints."""
        return self.reports / "metrics" / f"{RunKey(arm, seed)}.json"

    @property
    def corpus_record(self) -> Path:
        return self.reports / "corpus.json"

    @property
    def tokenizer_record(self) -> Path:
        return self.reports / "tokenizer.json"

    @property
    def shards_record(self) -> Path:
        return self.reports / "shards.json"

    def study(self, name: str) -> Path:
        """Folder of a study's page, ledger and figures."""
        return self.reports / name

    def recorded_runs(self) -> Iterator[RunKey]:
        """Every run of the scale that left a record, of whatever study, by name."""
        folder = self.reports / "train"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            arm, dash, seed = path.name.rpartition("-")
            if path.is_dir() and dash and seed.isdecimal():
                yield RunKey(arm, int(seed))

    # data and weights

    def plan(self, stage: str) -> Path:
        """What a stage is to make, resolved from ``params.yaml``: the one file of parameters that the stage depends on."""
        return self.artifacts / "plan" / f"{stage}.json"

    @property
    def corpus(self) -> Path:
        return self.artifacts / "corpus"

    @property
    def tokenizer(self) -> Path:
        return self.artifacts / "tokenizer"

    @property
    def shards(self) -> Path:
        return self.artifacts / "shards"

    def weights(self, arm: str, seed: int) -> Path:
        """Folder of a run's weights: at its end, at its snapshots, at the ends of its annealed copies."""
        return self.artifacts / "runs" / str(RunKey(arm, seed))


def run_of(weights: str | Path) -> tuple[Layout, RunKey] | None:
    """The run that a folder of weights belongs to, by its place in a project; None where that is no place of weights."""
    folder = Path(weights).absolute()
    arm, dash, seed = folder.name.rpartition("-")
    if not (dash and seed.isdecimal()) or len(folder.parts) < 5 or (folder.parts[-2], folder.parts[-4]) != ("runs", "artifacts"):
        return None
    return Layout(folder.parts[-3], folder.parents[3]), RunKey(arm, int(seed))


def scale_of_path(path: str | Path) -> str | None:
    """The scale of which a path holds a record, data or weights, by its place in a project; None elsewhere."""
    parts = Path(path).parts
    places = [i for i, part in enumerate(parts[:-2]) if part in ("reports", "artifacts")]
    return parts[places[-1] + 1] if places else None


def budgets_record(root: str | Path = ".") -> Path:
    """What the study over sizes and budgets found, over its scales."""
    return Path(root) / "reports" / "budgets" / "budgets.json"


def external_record(name: str, root: str | Path = ".") -> Path:
    """What was measured on a public model, which is of no scale."""
    return Path(root) / "reports" / "external" / f"{name}.json"


def recorded_scales(root: str | Path = ".") -> list[str]:
    """Scales of which a run left a record, or a study a ledger, by name."""
    reports = Path(root) / "reports"
    return sorted({path.parents[1].name for pattern in ("*/train/*-*", "*/*/claims.json") for path in reports.glob(pattern)})
