"""A study of one run that takes seconds: the project the faults happen in, and what must be the same after them."""

from __future__ import annotations

import json
import lzma
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from minicorpus import make_texts, write_jsonl
from processes import GROUP, KILL, SHORT, SIGNAL, STAGES, TORN, TREE, Ended, Forge
from projects import DVC_CONFIG, ROOT

from lolm.records.names import CPU_PERCENT, MFU, PEAK_MEMORY, TOKENS_PER_SECOND

ARM, SEED = "lolm", 1
RUN = ("--arm", ARM, "--seed", str(SEED))
PIECES = dict.fromkeys(("train", "evaluate", "ablate", "layers", "recall"), RUN) | {
    "sweep": ("--arm", ARM),
    "report": ("--scale", "smoke", "--study", "one"),
    "front": ("--scale", "smoke"),
}
TIMES = {"seconds", "annealing_seconds", "tokens_per_second", TOKENS_PER_SECOND, "mfu", MFU, CPU_PERCENT, PEAK_MEMORY}
MEASURED = ("seconds", "hours", "efficiency", "speed")  # files of a report that show times
CHANGES = {
    "corpus": {"source": "local", "path": "text.jsonl", "validation": [], "test": [],
               "validation_fraction": 0.1, "test_fraction": 0.1},
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


def unshared(*flags: str) -> bool:
    """Whether a process can have a namespace of its own here."""
    return shutil.which("unshare") is not None and subprocess.run(["unshare", *flags, "true"], check=False).returncode == 0


OTHER_USER = pytest.mark.skipif(not unshared("-U"), reason="no namespaces of users here")
NAMESPACE = pytest.mark.skipif(not unshared("-p", "-f"), reason="no namespaces of processes here")
STRANGER = 54321  # a user id without a name


def sized(sample: Iterable[Any], whole: Iterable[Any]) -> list[Any]:
    """Parameters of a test: those of `make test`, and those of `make faults` alone."""
    values = lambda value: value if isinstance(value, tuple) else (value,)  # noqa: E731
    marks = [pytest.mark.faults, pytest.mark.slow]
    return [
        *(pytest.param(*values(value), marks=pytest.mark.slow) for value in sample),
        *(pytest.param(*values(value), marks=marks) for value in whole),
    ]


class Study:
    """A project with this code and one run of a tiny model on sixty documents; a stage is made when it is first asked for.

    ``written`` says how often each stage wrote.
    """

    def __init__(self, root: Path, forge: Forge) -> None:
        self.root, self.forge = root, forge
        self.written: dict[str, int] = {}
        now = root / STAGES[0]
        now.mkdir(parents=True)
        for name in ("lolm", "pipeline", "dvc.yaml"):
            (now / name).symlink_to(ROOT / name)
        (now / ".dvc").mkdir()
        (now / ".dvc/config").write_text(DVC_CONFIG, encoding="utf-8")
        write_jsonl(now / "text.jsonl", make_texts())
        (now / "params.yaml").write_text(yaml.safe_dump(parameters(), sort_keys=False), encoding="utf-8")

    def before(self, stage: str) -> Path:
        """The project as that stage finds it."""
        for number, name in enumerate(STAGES[: (*STAGES, "made").index(stage)], 1):
            if name not in self.written:
                after = copied(self.root / name, self.root / (*STAGES, "made")[number])
                ended = run(self.forge, after, name)
                assert ended.status == 0, f"{name}: {ended.said}"
                self.written[name] = len(ended.calls)
        return self.root / stage

    def after(self, stage: str) -> Path:
        return self.before((*STAGES, "made")[STAGES.index(stage) + 1])


def parameters() -> dict[str, Any]:
    """Of the project, with one arm, one study and a scale for seconds."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")) | {"scale": "smoke", "study": "one"}
    params["studies"] = {"one": {"arms": [ARM], "seeds": [SEED], "subject": ARM, "baseline": ARM, "matched": False}}
    params |= {"architectures": {ARM: params["architectures"][ARM]}, "budgets": {}, "external": {}}
    params["scales"] = {name: params["scales"][name] for name in ("tiny", "smoke")}
    for scale in params["scales"].values():
        scale["sizes"] = {ARM: scale["sizes"][ARM]}
    for section, changes in CHANGES.items():
        scale[section] = scale.get(section, {}) | changes
    scale["sizes"][ARM] |= {"d_model": 16, "d_ff": 32}
    return params


def copied(project: Path, folder: Path) -> Path:
    return shutil.copytree(project, folder, symlinks=True)


def run(forge: Forge, root: Path, stage: str, **how: Any) -> Ended:
    how = {"LOLM_LAUNCHER": "slurm"} | how if stage == "plan" else how  # then no memory is counted, which takes seconds
    return forge.run(root, f"pipeline.{stage}", *PIECES.get(stage, ()), **how)


def outputs(root: Path, *tops: str) -> dict[str, Path]:
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


def half(root: Path, before: Path, after: Path) -> list[str]:
    """What a struck stage has left under a final name that is neither what was there nor what an undisturbed one leaves."""
    found, old, new = (outputs(where, "artifacts", "reports") for where in (root, before, after))
    known = lambda name, path: any(name in there and same(path, there[name]) for there in (old, new))  # noqa: E731
    return [f"half-made {name}" for name, path in found.items() if "/." not in name and not known(name, path)]


def different(root: Path, made: Path) -> list[str]:
    """Files that are missing, too many or other than after an undisturbed stage."""
    found, whole = outputs(root), outputs(made)
    return [
        *(f"-{name}" for name in whole.keys() - found.keys()),
        *(f"+{name}" for name in found.keys() - whole.keys()),
        *(f"!{name}" for name in found.keys() & whole.keys() if not same(found[name], whole[name])),
    ]


# What a message may tell its reader to do.
VERBS = (
    "allow|bring|convert|copy|delete|end|free|give|hold|install|leave|let|lower|make|mend|move|name|put|raise|remove|run|see|set"
    "|shorten|start|take|unset|wait|write"
)
CURE = re.compile(rf"[;:,] (or |then )?({VERBS})\b|`[a-z]+ [^`]+`|JOBS=1")
FOREIGN = re.compile(r"\b(?:sqlalchemy|alembic|sqlite3)\.\S+|\[Errno \d+\]")  # no word of a user's


def cureless(line: str) -> list[str]:
    """What is wrong with a message: it does not say what to do, or speaks in terms of a library's classes."""
    found = [] if CURE.search(line) else [f"does not say what to do: {line!r}"]
    return found + [f"no word of a user's: {word!r}" for word in FOREIGN.findall(line)]


def only_error(said: str) -> list[str]:
    """The one line of an error in what a process said; none where there are more, or a traceback."""
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    return lines if len(lines) == 1 and "Traceback" not in said else []


def faults_of(ended: Ended, kind: int) -> list[str]:
    """What is wrong with how a struck process ended, and with what it said."""
    if kind in (KILL, TORN, GROUP, TREE):
        return [] if ended.status == -9 else [f"ended with {ended.status}"]
    if kind >= SIGNAL:
        return [] if ended.status in (130, SIGNAL - kind, 0) else [f"ended with {ended.status}: {ended.said[-300:]}"]
    if ended.status == 0:  # what failed was not needed
        return []
    found = [f"ended with {ended.status}"] if kind == SHORT or ended.status != 2 else []
    named = [
        line
        for line in only_error(ended.said)
        if any(top in line for top in ("artifacts/", "reports/", ".scratch/", "mlflow.db"))
    ]
    return found + (cureless(named[0]) if named else [f"no one line that names a file: {ended.said[-300:]!r}"])
