"""The pipeline file: what each stage depends on covers all the code that it imports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import forks
import pytest
import yaml

from pipeline import code

ROOT = Path(__file__).resolve().parents[2]
DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = DVC_YAML["stages"]


def covered(files, deps):
    return {file for file in files if any(file == dep or file.startswith(f"{dep}/") for dep in deps)}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_the_code_it_imports(name):
    """Also lazily, and through others. What fills MLflow or starts processes is left out on purpose (``code.NOT_AN_INPUT``)."""
    used, deps = code.closure(f"pipeline.{name}", ROOT), STAGES[name]["deps"]
    assert sorted(used - covered(used, deps)) == [], "missing in dvc.yaml"
    ours = [dep for dep in deps if dep.split("/")[0] in code.PACKAGES]
    assert [dep for dep in ours if not (ROOT / dep).exists()] == []
    assert [dep for dep in ours if not covered(used, [dep])] == [], "superfluous in dvc.yaml"


def test_what_a_run_rests_on_is_seen_through_lazy_imports():
    used = code.closure("pipeline.train", ROOT)
    assert {"lolm/ops/cpu/scan.py", "lolm/mixers/mamba1.py", "lolm/training/loop.py", "pipeline/train.py"} <= used
    assert not any(name.startswith(("lolm/tracking", "pipeline/runs", "pipeline/jobs")) for name in used)


def test_every_stage_has_a_module_a_description_and_only_scalars_of_params():
    for name, stage in STAGES.items():
        assert (ROOT / "pipeline" / f"{name}.py").exists()
        assert stage["desc"]
        assert stage["cmd"].startswith(f"python -m pipeline.{name} --scale ${{item.scale}}")
        assert set(stage["matrix"]) <= {"scale", "study"}
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 140
    assert max(map(len, text.splitlines())) <= 130


def test_a_folder_of_runs_outlives_another_study():
    """Without ``persist`` DVC would remove the runs of every other study before it makes one's."""
    for name, stage in STAGES.items():
        for out in stage["outs"]:
            path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            holds_runs = path.split("/")[-1] in ("runs", "train", "evaluate", "ablate", "layers", "recall", "sweep")
            assert not holds_runs or options.get("persist"), f"{name}: {path}"
            assert path.startswith("artifacts/") or options.get("cache") is False, f"{path}: reports are in git"


def test_dvc_hashes_no_file_that_is_no_input():
    ignored = (ROOT / ".dvcignore").read_text(encoding="utf-8").split("\n")
    assert {"__pycache__/", "*.py[cod]", "*~", ".*.sw?"} <= set(ignored)


def test_closure_follows_every_kind_of_import(tmp_path):
    files = {
        "lolm/__init__.py": "",
        "lolm/tracking/__init__.py": "import lolm.only_tracking",
        "lolm/only_tracking.py": "",
        "lolm/a/__init__.py": "from .one import x",
        "lolm/a/one.py": "from ..b import two\nx = 1",
        "lolm/b/two.py": "def f():\n    import lolm.c\n",  # a folder without __init__.py
        "lolm/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lolm.d\nelse:\n    import lolm.e\n",
        "lolm/d.py": "",
        "lolm/e.py": "import importlib\nKERNELS = {'op': 'lolm.h'}\ndef f(op):\n    importlib.import_module(KERNELS[op])\n",
        "lolm/h.py": "import importlib\nimportlib.import_module('lolm.f')\n",
        "lolm/f.py": "import numpy, lolm.tracking.store",
        "lolm/g.py": "",
        "pipeline/stage.py": "from lolm.a import missing_name\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    unused = {"lolm/tracking/__init__.py", "lolm/only_tracking.py", "lolm/d.py", "lolm/g.py"}
    assert code.closure("pipeline.stage", tmp_path) == set(files) - unused
    before = code.code_hash("pipeline.stage", tmp_path)
    (tmp_path / "lolm/g.py").write_text("# not imported")
    assert code.code_hash("pipeline.stage", tmp_path) == before
    (tmp_path / "lolm/c.py").write_text(files["lolm/c.py"] + "# a comment")
    assert code.code_hash("pipeline.stage", tmp_path) != before


@pytest.mark.parametrize("stage", ["sweep", "train", "evaluate", "ablate", "layers", "recall"])
def test_kernels_belong_to_the_code_of_what_runs_models(stage):
    """Also those that are chosen by name when a model runs: editing one makes anew what it may have computed."""
    folders = [ROOT / "lolm" / "ops", ROOT / "lolm" / "ops" / "triton", ROOT / "lolm" / "ops" / "cpu"]
    kernels = {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.glob("*.py")}
    assert kernels <= code.closure(f"pipeline.{stage}", ROOT)


def git(*words, cwd=ROOT):
    return subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_the_lock_of_head_is_of_the_code_of_head(tmp_path):
    """In a fresh clone only what is not in git is missing; no code and no parameter has changed."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    if not git("ls-tree", "HEAD", "dvc.lock"):
        pytest.skip("HEAD has no results")
    lock = yaml.safe_load(git("show", "HEAD:dvc.lock"))
    params = yaml.safe_load(git("show", "HEAD:params.yaml"))
    if f"train@{params['scale']}" not in lock.get("stages", {}):
        pytest.skip("HEAD has no results of its own scale")
    git("clone", "--quiet", "--shared", str(ROOT), str(tmp_path / "clone"), cwd=tmp_path)  # nothing is packed
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(tmp_path / "site"), "DVC_NO_ANALYTICS": "1"}
    words = [forks.interpreter(), "-m", "dvc", "status", "--json"]
    done = subprocess.run(words, cwd=tmp_path / "clone", env=environment, capture_output=True, text=True, check=True)
    for stage, changes in json.loads(done.stdout).items():
        assert "changed command" not in changes, stage
        for change in changes:
            missing = change.get("changed deps", {})
            assert set(missing.values()) <= {"deleted"}, f"{stage}: {missing}; `make accept` or `make repro`, and commit dvc.lock"
            assert all(path.startswith("artifacts/") for path in missing), f"{stage}: {missing}"


def test_the_lock_is_short():
    """Every start of DVC reads the whole file."""
    if not (ROOT / "dvc.lock").exists():
        pytest.skip("nothing was run yet")
    assert len((ROOT / "dvc.lock").read_text(encoding="utf-8").splitlines()) < 8000
