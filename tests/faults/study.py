"""A study of one run that takes seconds: the project the faults happen in, and what must be the same after them."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import yaml
from minicorpus import make_texts, write_jsonl
from processes import KILL, SHORT, SIGNAL, STAGES, TORN, Ended, Forge
from projects import ROOT

ARM, SEED = "lolm", 1
RUN = ("--arm", ARM, "--seed", str(SEED))
PIECES = {stage: RUN for stage in ("train", "evaluate", "ablate", "layers", "recall")} | {
    "sweep": ("--arm", ARM),
    "report": ("--scale", "smoke", "--study", "one"),
    "front": ("--scale", "smoke"),
}
TIMES = {"seconds", "annealing_seconds", "tokens_per_second", "speed/tokens_per_second", "mfu", "speed/mfu"}
MEASURED = ("seconds", "hours", "efficiency", "speed")  # files of a report that show times
CHANGES = {
    "corpus": {"source": "local", "path": "text.jsonl", "validation": [], "test": [], "validation_fraction": 0.1, "test_fraction": 0.1},
    "tokenizer": {"vocab_size": 400},
    "shards": {"shard_tokens": 2000},
    "training": {"steps": 8, "seq_len": 16, "batch_size": 2, "cooldowns": [0.5], "snapshots": [0.5], "warmup_steps": 2,
                 "log_every": 2, "eval_every": 4, "eval_tokens": 64, "checkpoint_every": 2},
    "sweep": {"steps": 2, "factors": [0.5, 1.0, 2.0], "extensions": 0},
    "evaluation": {"tokens": 128, "subset_tokens": 64, "samples": 1, "sample_tokens": 4, "prompt_tokens": 4},
    "recall": {"steps": 2, "batch_size": 2, "eval_sequences": 4},
    "ablation": {"tokens": 64, "gate_values": [0.0, 1.0], "calibration_tokens": 32, "dimension_draws": 1, "split_draws": 1,
                 "refit_tokens": 64, "refit_validation_tokens": 32, "refit_checks": 1, "refit_steps": 2, "fine_tune_steps": 1},
    "layers": {"tokens": 64, "draws": 1},
}  # fmt: skip


def make(root: Path, forge: Forge) -> dict[str, int]:
    """A project with this code, one run of a tiny model on sixty documents, and all its results, in ``root/made``; how it was
    before each stage, in ``root/<stage>``. Returns how often each stage wrote."""
    before, root = root, root / "made"
    root.mkdir(parents=True)
    for name in ("lolm", "pipeline", "dvc.yaml"):
        (root / name).symlink_to(ROOT / name)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n", encoding="utf-8")
    write_jsonl(root / "text.jsonl", make_texts())
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")) | {"scale": "smoke", "study": "one"}
    params["studies"] = {"one": {"arms": [ARM], "seeds": [SEED], "subject": ARM, "baseline": ARM, "matched": False}}
    params |= {"architectures": {ARM: params["architectures"][ARM]}, "budgets": {}, "external": {}}
    params["scales"] = {name: params["scales"][name] for name in ("tiny", "smoke")}
    for scale in params["scales"].values():
        scale["sizes"] = {ARM: scale["sizes"][ARM]}
    for section, changes in CHANGES.items():
        scale[section] = scale.get(section, {}) | changes
    scale["sizes"][ARM] |= {"d_model": 16, "d_ff": 32}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    written = {}
    for stage in STAGES:
        copied(root, before / stage)
        ended = run(forge, root, stage)
        assert ended.status == 0, f"{stage}: {ended.said}"
        written[stage] = len(ended.calls)
    return written


def copied(project: Path, folder: Path) -> Path:
    return shutil.copytree(project, folder, symlinks=True)


def run(forge: Forge, root: Path, stage: str, **how: Any) -> Ended:
    return forge.run(root, f"pipeline.{stage}", *PIECES.get(stage, ()), **how)


def outputs(root: Path, *tops: str) -> dict[str, Any]:
    """Everything that stages have left, by path: bytes, or records without what a clock has written into them."""
    files = (path for top in tops or ("artifacts", "reports", ".scratch") for path in (root / top).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path for path in sorted(files)}


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes() or timeless(one) == timeless(other)


def timeless(path: Path) -> Any:
    name, content = path.name, path.read_bytes()
    if name.endswith(".xz"):
        content, name = lzma.decompress(content), name.removesuffix(".xz")
    if name.endswith(".json"):
        return _without_times(json.loads(content))
    if name.endswith(".jsonl"):
        return [_without_times(json.loads(line)) for line in content.splitlines()]
    return content


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def half(root: Path, made: Path) -> list[str]:
    """What a struck stage has left under a final name that is not what an undisturbed one leaves."""
    found, whole = (outputs(where, "artifacts", "reports") for where in (root, made))
    return [name for name, path in found.items() if "/." not in name and not (name in whole and same(path, whole[name]))]


def different(root: Path, made: Path) -> list[str]:
    """Files that are missing, too many or other than after an undisturbed stage."""
    found, whole = outputs(root), outputs(made)
    return [
        *(f"-{name}" for name in whole.keys() - found.keys()),
        *(f"+{name}" for name in found.keys() - whole.keys()),
        *(f"!{name}" for name in found.keys() & whole.keys() if not same(found[name], whole[name])),
    ]


def faults_of(ended: Ended, kind: int) -> list[str]:
    """What is wrong with how a struck process ended, and with what it said."""
    lines = [line for line in ended.said.splitlines() if line.startswith("error:")]
    if kind in (KILL, TORN):
        return [] if ended.status == -9 else [f"ended with {ended.status}"]
    if kind >= SIGNAL:
        return [] if ended.status in (130, SIGNAL - kind, 0) else [f"ended with {ended.status}: {ended.said[-300:]}"]
    if ended.status == 0:  # what failed was not needed
        return []
    found = [f"ended with {ended.status}"] if kind == SHORT or ended.status != 2 else []
    found += ["a traceback"] if "Traceback" in ended.said else []
    named = len(lines) == 1 and any(top in lines[0] for top in ("artifacts/", "reports/", ".scratch/", "mlflow.db"))
    return found + ([] if named else [f"no one line that names a file: {ended.said[-300:]!r}"])
