"""`dvc exp run -S` in a project with results: exactly what it names changes, and only what that touches is made again."""

from __future__ import annotations

import re

import pytest
import yaml
from projects import dvc, python
from smoke_study import copied

from lolm.records import Layout, read
from lolm.records.schema import Ablation, Evaluation, Recall

pytestmark = pytest.mark.system


def test_dvcs_own_overrides_change_exactly_what_they_name_and_the_runner_still_works(made, layout, tmp_path):
    copy = copied(made, tmp_path / "copy", "plots", ".scratch")
    ours, before = Layout("smoke", copy), yaml.safe_load((copy / "params.yaml").read_text(encoding="utf-8"))
    printed = dvc(copy, "exp", "run", "-S", "scales.smoke.evaluation.samples=2")
    shown = [line for line in dvc(copy, "params", "diff").splitlines() if line.startswith("params.yaml")]
    assert len(shown) == 1, "what an edit changes and nothing else"
    assert "scales.smoke.evaluation.samples" in shown[0]
    assert set(re.findall(r"Running stage '(\w+)@", printed)) == {"plan", "evaluate", "report", "front"}
    after = yaml.safe_load((copy / "params.yaml").read_text(encoding="utf-8"))
    before["scales"]["smoke"]["evaluation"]["samples"] = 2
    assert after == before, "exactly that key has changed"
    assert read(ours.evaluation("lolm", 1), Evaluation).samples.texts == 2
    ablation = read(ours.ablation("lolm", 1), Ablation)
    assert ablation == read(layout.ablation("lolm", 1), Ablation)

    printed = dvc(copy, "exp", "run", "-S", "study=smoke")
    assert "train: all 2 are made" in printed, "the runs that both studies name are made once"
    assert (ours.study("smoke") / "report.html").exists()
    assert ours.header("lolm", 2).exists(), "runs of the other study are kept"
    assert "to make" not in printed
    dvc(copy, "exp", "run", "-S", "scale=nano", "plan@nano")
    assert (copy / "artifacts/nano/plan/train.json").exists()

    chosen = (copy / "params.yaml").read_bytes()
    said = python(copy, "-m", "pipeline.run", "--scale", "smoke", "--study", "main")
    assert "evaluate: all 4 are made" in said, "after DVC's writer, whose file has no comment and no flow style left"
    assert (copy / "params.yaml").read_bytes() == chosen
    assert read(ours.recall("lolm", 1), Recall) == read(layout.recall("lolm", 1), Recall)
    assert "did you mean 'smoke'" in dvc(copy, "exp", "run", "-S", "study=smokes", status=None)  # DVC leaves it in the file
