"""What `make status` says of a study that is under way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from builders import three_seeds_of_main

from pipeline import runs, status
from pipeline.estimate import Estimate
from pipeline.runs import Piece
from pipeline.stage import Stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A study at scale smoke in another folder: of its six runs the first three are trained, and the first is evaluated."""
    params = three_seeds_of_main()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOLM_JOBS", "2")
    made = {"sweep": 2, "train": 3, "evaluate": 1, "ablate": 6}  # ablation is of other weights, where the run is trained again

    def why(stage, name, piece):
        return None if status.pieces(stage, name).index(piece) < made.get(name, 0) else "no record"

    monkeypatch.setattr(status, "why", why)
    monkeypatch.setattr(status, "opened", lambda args: Stage(params))
    monkeypatch.setattr(status, "arguments", lambda doc: None)
    monkeypatch.setattr(status, "estimate", lambda params, pieces: Estimate((600.0,) * len(pieces), True))
    return Stage(params)


def test_it_says_what_is_made_and_left(stage, capsys):
    status.status()
    said = capsys.readouterr().out
    assert said.startswith("study main at scale smoke: lolm, transformer; seeds 1, 2, 3\n")
    counts = {name: (int(done), int(of)) for name, done, of in re.findall(r"(\w+) +(\d+) of (\d+) made", said)}
    assert counts["sweep"] == (2, 2)
    assert counts["train"] == (3, 6)
    assert counts["evaluate"] == (1, 6)
    assert counts["ablate"] == (3, 6)
    assert "left, no record: transformer-1, transformer-2, transformer-3" in said
    assert "left, not trained: transformer-1, transformer-2, transformer-3" in said
    left = sum(of - done for done, of in counts.values())
    assert f"left: about {10 * -(-left // 2)} minutes" in said


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at /proc")
def test_it_sees_what_is_being_made_in_this_folder(stage, capsys, tmp_path):
    words = runs.command("train", stage, Piece("transformer", 2))[1:]
    stand_in = [sys.executable, "-c", "print(flush=True), __import__('time').sleep(60)", *words]
    runs.LOGS.mkdir(parents=True)
    (runs.LOGS / "smoke-train-transformer-2.log").write_text("begun\nstep 20/40, 3 s left\n", encoding="utf-8")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    children = [subprocess.Popen(stand_in, cwd=folder, stdout=subprocess.PIPE) for folder in (tmp_path, elsewhere)]
    try:
        for child in children:
            child.stdout.readline()
        assert status.running(stage) == {"train": [Piece("transformer", 2)]}
        status.status()
    finally:
        for child in children:
            child.kill()
            child.communicate()
    said = capsys.readouterr().out
    assert "running transformer-2: step 20/40, 3 s left\n" in said
    assert "left, no record: transformer-1, transformer-3\n" in said
