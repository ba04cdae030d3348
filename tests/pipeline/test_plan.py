"""The plan: what an edit of params.yaml changes of what each stage is to make, and what is refused before anything runs."""

from __future__ import annotations

import itertools
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lolm.config import ConfigError, load_params
from lolm.records import Layout
from pipeline import estimate, plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A folder with this project's params.yaml, planned."""
    folder = tmp_path_factory.mktemp("planned")
    shutil.copy(ROOT / "params.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert "train" in plan.write_plan(load_params())
    return folder


@pytest.fixture
def project(planned, tmp_path, monkeypatch):
    """A copy of it."""
    shutil.copytree(planned, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rewritten(change) -> None:
    """Edit params.yaml as DVC's own writer does: comments and flow style are gone afterwards."""
    path = Path("params.yaml")
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(params)
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def setting(scale: str, section: str, **values):
    return lambda params: params["scales"][scale].setdefault(section, {}).update(values)


def changed(**chosen) -> set[str]:
    return set(plan.write_plan(load_params().select(**chosen)))


RUNS = {"train", "evaluate", "ablate", "layers", "recall"}  # stages with a piece for each run
ALONE = {"arms": ["transformer"], "seeds": [1], "subject": "transformer", "baseline": ""}  # a step of LOLM takes longer to count


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (lambda params: None, set()),
        (lambda params: params["analysis"].update(confidence=0.9), {"report"}),
        (lambda params: params["architectures"]["lolm"]["gate"].update(bias=0.3), {"sweep", "train", "recall", "report"}),
        (lambda params: params["studies"]["main"].update(seeds=[1, 2]), {*RUNS, "report"}),
        (lambda params: params["scales"]["tiny"]["sizes"]["lolm"].update(d_model=120), {"sweep", "train", "recall", "report"}),
        (setting("tiny", "corpus", validation_fraction=0.05), {"corpus"}),
        (setting("tiny", "evaluation", samples=3), {"evaluate"}),
        (setting("tiny", "ablation", split_draws=3), {"ablate"}),
        (setting("tiny", "sweep", steps=33), {"sweep"}),
        (setting("tiny", "recall", steps=33), {"recall"}),
        (setting("tiny", "training", steps=3000), {"sweep", "train", "report"}),
        (setting("smoke", "training", steps=33), set()),
    ],
)
def test_an_edit_changes_the_plans_it_touches(project, edit, wanted):
    """What rests on these stages is made again after them: their outputs have changed by then."""
    rewritten(edit)
    assert changed() == wanted


def test_a_scale_that_extends_another_follows_its_edits_but_for_what_it_says_itself(project):
    assert changed(scale="smoke", study="smoke")
    rewritten(setting("tiny", "corpus", validation_fraction=0.05))
    rewritten(setting("tiny", "training", steps=3000))
    assert changed(scale="smoke", study="smoke") == {"corpus"}
    assert changed() == {"corpus", "sweep", "train", "report"}


def test_a_plan_is_written_only_where_it_changed(project):
    folder = Layout("tiny").plan("train").parent
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    rewritten(setting("tiny", "evaluation", samples=3))
    assert changed() == {"evaluate"}
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["evaluate.json"]


def test_the_table_has_every_arm_with_its_costs_and_what_is_not_matched(project):
    params = load_params().select("tiny", "main")
    rows = plan.plan_rows(params, "tiny", "main")
    lines = plan.table(rows).splitlines()
    assert lines[0].split()[:3] == ["parameters", "active", "mismatch"]
    assert [line.split()[0] for line in lines[1:]] == ["lolm", "transformer"]
    assert f"{rows['lolm'].parameters:,}" in lines[1]
    assert plan.plan_notes(params, "tiny", "main", rows) == []


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda params: params.update(study="mian"), "'main'"),
        (lambda params: params.update(study={"name": "main"}), "study"),
        (lambda params: params.update(scale="tyni"), "'tiny'"),
        (lambda params: params["studies"]["main"].update(arms=["lolmm", "transformer"]), "'lolm"),
        (lambda params: params["studies"]["main"].update(subject="mamba"), "mamba"),
        (lambda params: params["studies"]["main"].update(name="field"), "field"),
        (lambda params: params["analysis"].update(confidnce=1), "'confidence'"),
        (lambda params: params["scales"]["tiny"]["training"].update(steps=-1), "scales.tiny.training.steps"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(project, monkeypatch, edit, named):
    rewritten(edit)
    monkeypatch.setattr("sys.argv", ["plan"])
    before = {path: path.read_bytes() for path in Path("artifacts").rglob("*.json")}
    with pytest.raises(ConfigError, match=named):
        plan.plan()
    assert {path: path.read_bytes() for path in Path("artifacts").rglob("*.json")} == before


def test_the_price_names_memory_hours_and_disk_of_every_arm(project, monkeypatch, capsys):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr("sys.argv", ["plan", "--scale", "smoke", "--study", "smoke", "--gpu", "L4", "--utilisation", "0.5"])
    plan.plan()
    memory, hours = capsys.readouterr().out.split("\nmemory of a step, ")[1].split("\nhours of one run ")
    assert memory.startswith("GiB on each of 1 GPU: micro-batch 4 x 64 tokens, fp32, activation checkpointing off")
    assert [line.split()[0] for line in memory.splitlines()[2:]] == ["lolm", "transformer"]
    assert hours.startswith("on 1 GPU at 50% of the peak in fp32")
    assert "RTX 4090" in hours.splitlines()[1]
    assert "GPU-hours of the study" in hours
    assert "disk: weights and snapshots" in hours
    assert not Layout("smoke").plan("train").exists(), "stages that are at work depend on it"


def test_the_whole_study_is_timed_where_it_can_be_meant_to_run(project, monkeypatch):
    def said(scale, target, stage=False, devices=1):
        return plan.whole_study(load_params().select(scale, "main"), target, stage, devices, 0.35).removeprefix("about ")

    here, h200 = plan.Target("this machine", 1e11, False), plan.Target("NVIDIA H200", 1e12, True)
    monkeypatch.setattr("pipeline.estimate.matmul_speed", lambda: 1e11)
    assert "this machine's matrix product" in said("tiny", here)
    elsewhere = r"([\d.]+) hours on {} at 35% of its peak{}"
    asks = "; GPU=<name> asks for another"
    hours = float(re.fullmatch(elsewhere.format("one H100", asks), said("149m", here)).group(1))
    assert "this machine's matrix product" in said("149m", here, stage=True), "it is what runs"
    a100 = plan.Target.of("A100 80GB")
    assert float(re.fullmatch(elsewhere.format("one A100 80GB", ""), said("149m", a100)).group(1)) == pytest.approx(
        hours * 989 / 312, abs=0.3
    )
    assert float(re.fullmatch(elsewhere.format("2 A100 80GB", ""), said("149m", a100, devices=2)).group(1)) == pytest.approx(
        hours * 989 / 312 / 2, abs=0.3
    )
    assert said("tiny", plan.Target.of("L4")).endswith("on one L4 at 35% of its peak")
    monkeypatch.setattr("pipeline.estimate.matmul_speed", lambda: 1e5)  # a CPU that needs years
    assert " on one H100 at " in said("tiny", here)
    monkeypatch.setattr("pipeline.estimate.matmul_speed", lambda: math.nan)  # as on a GPU
    assert said("tiny", h200).endswith("on one H200 at 35% of its peak")
    unknown = plan.Target("a new card", 1e12, True)
    assert said("tiny", unknown) == "how long it takes is unknown before the first run on this device"


def test_a_busy_machine_is_taken_for_no_slower_one(monkeypatch):
    """Nine products of ten take three times as long, as beside other work."""

    def clock(now=0.0):
        for product in itertools.count():
            yield now
            now += 0.001 if product % 10 == 9 else 0.003
            yield now

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=clock().__next__))
    assert estimate.matmul_speed.__wrapped__() == pytest.approx(2 * 512**3 / 0.001)


def test_several_devices_share_weights_and_hours_or_are_refused_as_training_would(project, monkeypatch, capsys):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    rewritten(lambda params: params["studies"].update(alone=ALONE))
    words = ["plan", "--scale", "149m", "--study", "alone", "--devices"]
    hours = {}
    for devices in (1, 16):
        monkeypatch.setattr("sys.argv", [*words, str(devices)])
        plan.plan()
        said = capsys.readouterr().out
        assert f"hours of one run on {devices} GPU" in said
        memory, cells = (said.split(part)[1].splitlines() for part in ("\nmemory of a step", "\nhours of one run"))
        hours[devices] = float(cells[2].split()[2]), float(memory[2].split()[1])
    assert hours[1][0] == pytest.approx(16 * hours[16][0], abs=0.05 * 16)
    assert hours[1][1] == pytest.approx(16 * hours[16][1], abs=0.005 * 16)
    monkeypatch.setattr("sys.argv", [*words, "3"])
    with pytest.raises(ConfigError, match="devices: 3 on 1 node.s. cannot share 16 micro-batch"):
        plan.plan()


def test_a_step_that_does_not_fit_is_refused_by_the_stage_with_what_does(project, monkeypatch, capsys):
    rewritten(setting("smoke", "training", batch_size=2**8))
    rewritten(lambda params: params["studies"].update(alone=ALONE))
    monkeypatch.setattr(plan.Target, "here", lambda: plan.Target("a small machine", 2e7, False))
    monkeypatch.setattr("lolm.accounting.price.SURELY_FITS", 0)
    monkeypatch.setattr("sys.argv", ["plan", "--scale", "smoke", "--study", "alone"])
    monkeypatch.setenv("DVC_STAGE", "plan")
    with pytest.raises(
        ConfigError, match=r"step of transformer takes .* GiB a device with batch_size 256, .*what fits: batch_size: \d+"
    ):
        plan.plan()
    assert not Layout("smoke").plan("train").exists()
    monkeypatch.setenv("LOLM_LAUNCHER", "slurm")  # other machines run it
    plan.plan()
    assert Layout("smoke").plan("train").exists()
