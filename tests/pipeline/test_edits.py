"""What an edit makes again: what it touches, through `extends:` too, and nothing else.

A copy of the project in which every stage counts as done: the plan is the real one, all other outputs are stand-ins.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import make_run
from projects import copy_of_project, dvc, edited, python, stale

from lolm.records import Layout, write
from lolm.records.schema import DataChecksums, Flops, Parameters, RunHeader
from pipeline import code

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
MADE = {name for name in STAGES if name != "plan"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = copy_of_project(tmp_path_factory.mktemp("project"), "notebooks", "docs", "benchmarks")
    dvc(root, "init", "--no-scm", "--quiet", "--force")
    plan(root)
    for path in outputs(root):
        if path.name != "plan":
            path.parent.mkdir(parents=True, exist_ok=True)
            stand_in = '{"test": {"tokens": 1}}' if path.name == "shards.json" else "{}"
            path.write_text(stand_in, encoding="utf-8") if path.suffix else path.mkdir(exist_ok=True)
            if not path.suffix:
                (path / "claims.json").write_text("{}", encoding="utf-8")
    dvc(root, "commit", "--force")
    assert stale(root) == {}
    return root


def plan(root: Path) -> None:
    """As DVC does, without the price of all arms."""
    python(root, "-m", "pipeline.plan", DVC_STAGE="plan@tiny")


def outputs(root: Path) -> list[Path]:
    from dvc.repo import Repo

    with Repo(root) as repo:
        return [Path(out.fs_path) for made in repo.index.stages for out in made.outs]


@pytest.fixture
def pristine(project):
    """The copy; files that the test edits are put back, the plan with them."""
    kept = {path: path.read_bytes() for path in [project / "params.yaml", *project.glob("artifacts/*/plan/*.json")]}
    yield project
    for path, content in kept.items():
        path.write_bytes(content)


def touched(root: Path) -> set[str]:
    """Stages whose own parameters or code an edit has changed, once it was planned."""
    plan(root)
    return {name.partition("@")[0] for name in stale(root)} - {"plan"}


def test_stages_carry_the_scale_and_the_study(project):
    names = set(dvc(project, "stage", "list", "--name-only").split())
    assert names == {f"{name}@tiny" for name in STAGES if name != "report"} | {"report@tiny-main"}
    assert "train@tiny" in dvc(project, "dag")


def test_an_edit_makes_again_what_it_touches(pristine):
    edited(pristine / "params.yaml", "\n  confidence: 0.95", "\n  confidence: 0.9")
    assert set(stale(pristine)) == {"plan@tiny"}, "before it is planned"
    assert touched(pristine) == {"report", "front"}


@pytest.mark.parametrize("module", ["lolm/training/loop.py", "lolm/tracking/store.py"])
def test_edited_code_reruns_the_stages_that_depend_on_it(pristine, module):
    path = pristine / module
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"\n# changed\n")
        found = {name.partition("@")[0] for name in stale(pristine)}
    finally:
        path.write_bytes(before)
    assert found >= {name for name in STAGES if module in code.closure(f"pipeline.{name}", ROOT)}
    assert bool(found) == ("tracking" not in module)


def test_caches_and_files_of_editors_rerun_nothing_and_a_new_file_what_rests_on_it(pristine):
    package = pristine / "lolm" / "mixers"
    caches = [package / name for name in ("__pycache__/scan.cpython-311.pyc", "old.pyc", "mamba1.py~", ".mamba1.py.swp")]
    added = package / "another.py"
    try:
        for path in caches:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x", encoding="utf-8")
        assert stale(pristine) == {}
        added.write_text("", encoding="utf-8")
        assert {name.partition("@")[0] for name in stale(pristine)} == {
            name for name in STAGES if "lolm/mixers" in STAGES[name]["deps"]
        }
    finally:
        for path in [*caches, added]:
            path.unlink(missing_ok=True)


def test_accepting_code_leaves_edits_of_parameters(pristine):
    """`make accept` records code alone: what an edit of the parameters touches is still made again."""
    lock = (pristine / "dvc.lock").read_bytes()
    loop = pristine / "lolm/training/loop.py"
    before = loop.read_bytes()
    try:
        loop.write_bytes(before + b"\n# a comment\n")
        edited(pristine / "params.yaml", "\n  confidence: 0.95", "\n  confidence: 0.9")
        assert "train" in touched(pristine)
        said = python(pristine, "-m", "pipeline.accept", "--scale", "tiny", "--study", "main")
        assert f"code recorded of {len(STAGES)} stages" in said
        assert touched(pristine) == {"report", "front"}
        assert re.search(r"plan@tiny", str(stale(pristine)))
    finally:
        loop.write_bytes(before)
        (pristine / "dvc.lock").write_bytes(lock)


@pytest.mark.parametrize("older", ["a run", "what is made"])
def test_what_older_code_has_made_is_made_again(pristine, older):
    """Where a golden has changed `dvc.lock` records the code of plan and pages alone, at this `make accept` and at later ones."""
    lock, path = pristine / "dvc.lock", pristine / "lolm/__init__.py"
    before, code_before, header = lock.read_bytes(), path.read_bytes(), Layout("tiny", pristine).header("lolm", 1)
    try:
        path.write_bytes(code_before + b"\n# a comment\n")
        if older == "a run":
            write_header(header)
        words = ["--scale", "tiny", "--study", "main", *([] if older == "a run" else ["--pages"])]
        said = python(pristine, "-m", "pipeline.accept", *words)
        assert "code recorded of 3 stages; what older code has made, `dvc repro` makes again" in said
        was, now = (
            {name: code_in(stage) for name, stage in yaml.safe_load(text)["stages"].items()}
            for text in (before, lock.read_bytes())
        )
        assert {name for name in was if was[name] != now[name]} == {"plan@tiny", "report@tiny-main", "front@tiny"}
        assert {name.partition("@")[0] for name in stale(pristine)} >= MADE - {"report", "front"}
    finally:
        shutil.rmtree(header.parent, ignore_errors=True)
        path.write_bytes(code_before)
        lock.write_bytes(before)


def code_in(stage: dict[str, Any]) -> list[str]:
    """Hashes of a stage's code in the lock."""
    return [dep["md5"] for dep in stage["deps"] if dep["path"].startswith(("lolm", "pipeline"))]


def write_header(path: Path) -> None:
    """Of a run that code trained which is not accepted."""
    run = make_run("lolm", "tiny")
    sizes, flops, data = Parameters(1, 1, {}), Flops(1.0, 3.0, 1.0, {}), DataChecksums("", "")
    write(path, RunHeader(run.name, "LOLM", "f" * 16, run, sizes, flops, 0, 0, "cpu", "cpu", data, "older"))


def test_code_is_recorded_where_the_outputs_are_not_there(pristine):
    """As in a fresh clone, which has neither weights nor shards."""
    lock = (pristine / "dvc.lock").read_bytes()
    away = pristine / "away"
    loop = pristine / "lolm/training/loop.py"
    before = loop.read_bytes()
    try:
        (pristine / "artifacts").rename(away)
        loop.write_bytes(before + b"\n# a comment\n")
        python(pristine, "-m", "pipeline.accept", "--scale", "tiny", "--study", "main")
        away.rename(pristine / "artifacts")
        assert stale(pristine) == {}
    finally:
        if away.exists():
            away.rename(pristine / "artifacts")
        loop.write_bytes(before)
        (pristine / "dvc.lock").write_bytes(lock)
