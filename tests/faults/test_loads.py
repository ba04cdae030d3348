"""What large and many inputs cost: seconds and peak memory of whole stages as their input grows.

`make faults` takes sizes of minutes, ``LOLM_FAULTS=whole`` those that docs/reliability.md promises; `make test` a small sample.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import yaml
from projects import ROOT, environment
from study import parameters, sized
from synthetic import Truth, write_results
from table import LOADS

from lolm.config import load_params
from lolm.corpus.sources import read_documents

DOCUMENT = 10_000  # characters
WHOLE = os.environ.get("LOLM_FAULTS") == "whole"
STEEPEST = 1.5  # slope of log processor seconds over log size from which on growth is nearer to quadratic than to linear
WITHIN = """
import atexit, os, runpy, sys
path, name, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = name
def leave():
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
    open(path, "w").write(f"{peak} {sum(os.times()[:4])}")
atexit.register(leave)
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""  # peak memory of the process itself: what the system says of a child includes the parent's before it

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")


@dataclass(frozen=True)
class Load:
    """One measurement; ``note`` is what else was seen."""

    what: str
    size: float
    unit: str
    seconds: float
    processor_seconds: float
    mebibytes: float
    status: int
    said: str
    note: str = ""


@pytest.fixture
def measured(tmp_path, request):
    """Runs a stage in a folder and keeps what it took for the table."""
    kept: list[Load] = []

    def measure(folder: Path, what: str, size: float, unit: str, stage: str, *words: str) -> Load:
        command = [sys.executable, "-c", WITHIN, str(tmp_path / "peak"), f"pipeline.{stage}", *words]
        variables = environment(folder, PYTHONPATH=str(ROOT), DVC_ROOT=str(folder))
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        seconds, (peak, processor) = time.perf_counter() - start, (tmp_path / "peak").read_text(encoding="ascii").split()
        said = done.stdout + done.stderr
        kept.append(Load(what, size, unit, seconds, float(processor), int(peak) / 1024, done.returncode, said))
        return kept[-1]

    measure.kept = kept
    failed = request.session.testsfailed
    yield measure
    if "LOLM_FAULTS" in os.environ and request.session.testsfailed == failed:
        LOADS.mkdir(parents=True, exist_ok=True)
        rows = [{key: value for key, value in asdict(load).items() if key not in ("said", "status")} for load in kept]
        (LOADS / f"{time.time_ns()}.json").write_text(json.dumps(rows), encoding="utf-8")


def sizes(sample: list, some: list, whole: list) -> list:
    return sized([sample] if sample else [], [whole if WHOLE else some])


def grows_too_fast(loads: list[Load]) -> bool:
    """By the slope of log processor seconds over log size; of a few seconds it says nothing."""
    before, last = loads[-2:]
    slope = math.log(last.processor_seconds / before.processor_seconds) / math.log(last.size / before.size)
    return last.processor_seconds > 20 and slope > STEEPEST


def project(folder: Path, **changes: dict) -> Path:
    """A folder with this code and the parameters of the small study, ``changes`` by section of its scale."""
    (folder / ".dvc").mkdir(parents=True)
    params = parameters()
    for section, values in changes.items():
        params["scales"]["smoke"][section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return folder


@cache
def paragraphs() -> list[str]:
    """Of the corpus that comes with the project."""
    config = load_params(ROOT / "params.yaml").scales["tiny"].corpus
    config = replace(config, path=str(ROOT / config.path))
    return [part for document in read_documents(config) for part in document.text.split("\n\n") if len(part) > 100][:2000]


def write_corpus(path: Path, n_bytes: int, rng: random.Random) -> int:
    """Documents of paragraphs drawn at random, no two alike; returns how many."""
    drawn, written, count = paragraphs(), 0, 0
    with open(path, "w", encoding="utf-8") as file:
        while written < n_bytes:
            parts, length = [f"Document {count}."], 0
            while length < DOCUMENT:
                parts.append(rng.choice(drawn))
                length += len(parts[-1])
            line = json.dumps({"id": f"{count:07d}", "text": "\n\n".join(parts)}, ensure_ascii=False)
            written += file.write(line + "\n")
            count += 1
    return count


@pytest.mark.parametrize("megabytes", sizes([1, 2], [16, 64, 128], [512, 2048]))
def test_a_growing_corpus(tmp_path, measured, megabytes):
    """The data stages take time in proportion to the text, and memory that does not follow it."""
    by_stage: dict[str, list[Load]] = {}
    for size in megabytes:
        held_out = {"validation_fraction": 0.02, "test_fraction": 0.02}  # of which the comparison with training keeps an index
        folder = project(
            tmp_path / str(size), corpus=held_out, shards={"shard_tokens": 16_777_216}, tokenizer={"vocab_size": 4096}
        )
        count = write_corpus(folder / "text.jsonl", size * 1_000_000, random.Random(size))
        for stage in ("corpus", "tokenizer", "shards"):
            load = measured(folder, f"stage {stage}, documents of {DOCUMENT // 1000} kB", size, "MB", stage)
            assert load.status == 0, load.said
            by_stage.setdefault(stage, []).append(load)
        assert count == pytest.approx(size * 1_000_000 / DOCUMENT, rel=0.2)
    for stage, loads in by_stage.items():
        before, last = loads[-2:]  # buffers that are full
        assert last.mebibytes - before.mebibytes < max(64, 0.25 * (last.size - before.size)), f"{stage}: {loads}"
        assert not grows_too_fast(loads), f"{stage}: {loads}"


@pytest.mark.parametrize("megabytes", sizes([2], [200], [200]))
def test_one_long_line(tmp_path, measured, megabytes):
    """One document on a line of its own is read; a line that is no JSON is named by file and number."""
    size = megabytes[0]
    text = " ".join(paragraphs()[:200])
    text = text * (size * 1_000_000 // len(text) + 1)
    for name, line in (("one line, one document", json.dumps({"id": "long", "text": text})), ("one line that is no JSON", text)):
        folder = project(tmp_path / name.replace(" ", "-"))
        write_corpus(folder / "text.jsonl", 600_000, random.Random(1))
        with open(folder / "text.jsonl", "a", encoding="utf-8") as file:
            file.write(line.replace("\n", " ") + "\n")
        with open(folder / "text.jsonl", encoding="utf-8") as file:
            number = sum(1 for _ in file)
        load = measured(folder, name, size, "MB", "corpus")
        if "no JSON" in name:
            lines = [line for line in load.said.splitlines() if line.startswith("error:")]
            assert (load.status, len(lines)) == (2, 1), load.said[-500:]
            assert f"text.jsonl: line {number}" in lines[0]
            assert len(lines[0]) < 500
        else:
            assert load.status == 0, load.said[-500:]
        assert load.mebibytes < 400 + 10 * size


@pytest.mark.parametrize("runs", sizes([], [50, 200, 1000], [100, 1000, 10_000]))
def test_many_runs_in_the_store(tmp_path, measured, runs):
    """Filling the store takes time in proportion to the runs, and a second time almost none."""
    loads = []
    for count in runs:
        folder = tmp_path / str(count)
        (folder / ".dvc").mkdir(parents=True)
        seeds = tuple(range(1, count // 2 + 1))
        truth = Truth(steps=40, log_every=2, eval_every=20)
        write_results(folder, seeds=seeds, truth=truth, left_out=("ablate", "layers", "recall"))
        loads.append(measured(folder, "runs into an empty store", count, "runs", "track", "--scale", "smoke"))
        assert loads[-1].status == 0, loads[-1].said[-500:]
        again = measured(folder, "the same runs again", count, "runs", "track", "--scale", "smoke")
        assert again.status == 0
        assert again.seconds < 0.5 * loads[-1].seconds + 5
    assert not grows_too_fast(loads), loads
    assert loads[-1].mebibytes - loads[0].mebibytes < 64 + 0.2 * runs[-1]


@pytest.mark.parametrize("arms", sizes([], [25, 50, 100], [25, 50, 100, 200]))
def test_many_arms_in_a_report(tmp_path, measured, arms):
    loads = []
    for count in arms:
        names = ("lolm", "transformer", *(f"arm_{i:03d}" for i in range(count - 2)))
        folder = write_results(tmp_path / str(count), arms=names, seeds=(1, 2), left_out=("ablate", "layers", "recall"))
        (folder / ".dvc").mkdir()
        loads.append(measured(folder, "a study's report", count, "arms", "report", "--scale", "smoke", "--study", "main"))
        assert loads[-1].status == 0, loads[-1].said[-500:]
        page = folder / "reports/smoke/main/report.html"
        measured.kept[-1] = replace(loads[-1], note=f"page of {page.stat().st_size / 1e6:.1f} MB")
    assert not grows_too_fast(loads), loads
