"""The pipeline file: what each stage depends on, and what a change makes stale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lolm.config import load_params
from pipeline import code, deps

ROOT = Path(__file__).resolve().parents[2]
STAGES = deps.stages_of(ROOT / "dvc.yaml")
PER_RUN = {"train", "evaluate", "ablate", "recall"}

# Imports inside lolm/ go only to what stands further left; a name covers the modules under it. Records are the standard
# library's only and may be used by all that reads or writes them, and so may the package itself (LolmError).
LAYERS = (
    "strict config data mixers models objectives training interventions evaluation analysis points tracking".split()  # noqa: SIM905
)
FREE = {"lolm", "lolm.records"}

# ---------------------------------------------------------------------------------------------- imports and deps


@pytest.mark.parametrize("name", STAGES)
def test_stage_depends_on_exactly_the_code_it_imports(name):
    """Also lazily, and through others. ``lolm/tracking.py`` and what only it needs are left out on purpose: filling MLflow
    changes no result, so an edit of it must rerun nothing. A folder among the deps stands for all files in it.
    ``python -m pipeline.deps --fix`` writes the lists anew."""
    used = code.closure(f"pipeline.{name}", ROOT)
    declared = deps.declared_code(STAGES[name], ROOT)
    assert f"pipeline/{name}.py" in used
    assert sorted(used - declared) == [], "missing in dvc.yaml"
    assert sorted(declared - used) == [], "superfluous in dvc.yaml"


def test_files_among_the_deps_exist():
    ours = [dep for declared in STAGES.values() for dep in declared if dep.split("/")[0] in code.PACKAGES]
    assert [dep for dep in ours if not (ROOT / dep).exists()] == []


def test_closure_follows_every_kind_of_import(tmp_path):
    files = {
        "lolm/__init__.py": "",
        "lolm/tracking.py": "import lolm.only_tracking",
        "lolm/only_tracking.py": "",
        "lolm/a/__init__.py": "from .one import x",
        "lolm/a/one.py": "from ..b import two\nx = 1",
        "lolm/b/two.py": "def f():\n    import lolm.c\n",  # a folder without __init__.py
        "lolm/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lolm.d\nelse:\n    import lolm.e\n",
        "lolm/d.py": "",
        "lolm/e.py": "import importlib\nimportlib.import_module('lolm.f')\n",
        "lolm/f.py": "import numpy, lolm.tracking",
        "lolm/g.py": "",
        "pipeline/stage.py": "from lolm.a import missing_name\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    unused = {"lolm/tracking.py", "lolm/only_tracking.py", "lolm/d.py", "lolm/g.py"}
    assert code.closure("pipeline.stage", tmp_path) == set(files) - unused
    text = 'stages:\n  stage:\n    cmd: x\n    deps: [pipeline/old.py, "artifacts/${scale}/x", lolm/data.bin]\n    outs: [y]\n'
    new = deps.fixed(text, "stage", deps_in(text)["stage"], tmp_path)
    assert deps.declared_code(deps_in(new)["stage"], tmp_path) == set(files) - unused
    assert deps_in(new)["stage"][-2:] == ["artifacts/${scale}/x", "lolm/data.bin"]
    assert new.startswith("stages:\n  stage:\n    cmd: x\n    deps: [")
    assert new.endswith("]\n    outs: [y]\n")


def deps_in(text):
    return {name: entry["deps"] for name, entry in yaml.safe_load(text)["stages"].items()}


def modules():
    for path in sorted((ROOT / "lolm").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(("path", "module"), [pytest.param(*pair, id=pair[1]) for pair in modules()])
def test_imports_go_only_to_earlier_layers(path, module):
    if module in FREE:
        assert set(code.imports_of(path, module)) <= {"lolm", "lolm.LolmError"}
        return
    rank = LAYERS.index(module.split(".")[1])
    for name in code.imports_of(path, module):
        if name in FREE or name.rpartition(".")[0] in FREE - {"lolm"} or name == "lolm.LolmError":
            continue
        package, layer = name.split(".")[:2]
        assert package == "lolm", f"{module} imports {name}: the library knows nothing of the pipeline"
        assert layer in LAYERS, f"{module} imports {name}"
        assert LAYERS.index(layer) <= rank, f"{module} imports {name}, which stands later"


# ---------------------------------------------------------------------------------------------- DVC itself


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which every stage counts as done: stand-ins for the outputs, committed to DVC."""
    root = tmp_path_factory.mktemp("project")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    for name in code.PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root / ".site"))
        patch.delenv("DVC_ROOT", raising=False)
        dvc(root, "init", "--no-scm", "--quiet")
        for path in outputs(root):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        dvc(root, "commit", "--force")
        assert status(root) == {}
        yield root


def dvc(root, *arguments):
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, env=os.environ | {"DVC_NO_ANALYTICS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def status(root):
    return json.loads(dvc(root, "status", "--json"))


def outputs(root):
    from dvc.repo import Repo

    with Repo(root) as repo:
        return [Path(out.fs_path) for made in repo.index.stages for out in made.outs]


def downstream(root, names):
    """The named stages and all that rest on them, by DVC's own graph."""
    import networkx as nx
    from dvc.repo import Repo

    with Repo(root) as repo:
        graph = repo.index.graph  # an edge goes from a stage to what it depends on
        changed = [made for made in graph if made.name in names]
        return {before.name for made in changed for before in [made, *nx.ancestors(graph, made)]}


def edited(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def pristine(project):
    """The copy; files that the test edits are put back."""
    kept = {path: path.read_bytes() for path in [project / "params.yaml", *(project / "lolm").rglob("*.py")]}
    yield project
    for path, content in kept.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


@pytest.mark.slow
def test_stage_names(project):
    params = load_params(project / "params.yaml")
    names = {line for line in dvc(project, "stage", "list", "--name-only").splitlines() if line}
    study = params.study
    suffixes = {
        **dict.fromkeys(PER_RUN, [f"-{arm}-{seed}" for arm in study.arms for seed in study.seeds]),
        **dict.fromkeys(("plan", "report"), [f"-{study.name}"]),
        "sweep": [f"-{arm}" for arm in study.arms],
    }
    expected = {f"{name}@{params.scale}{suffix}" for name in STAGES for suffix in suffixes.get(name, [""])}
    assert names == expected
    assert "train" in dvc(project, "dag", "--mermaid")


@pytest.mark.slow
def test_other_scale_leaves_this_one_alone(pristine):
    edited(pristine / "params.yaml", "\nscale: tiny ", "\nscale: smoke ")
    stale = status(pristine)
    assert stale
    assert all("@smoke" in name for name in stale)
    edited(pristine / "params.yaml", "\nscale: smoke ", "\nscale: tiny ")
    assert status(pristine) == {}


@pytest.mark.slow
def test_another_study_shares_the_runs_it_can(pristine):
    """The same arms with fewer seeds: nothing to train, only a plan and a report of its own."""
    text = (pristine / "params.yaml").read_text(encoding="utf-8")
    few = "{name: few, arms: [lolm, transformer], seeds: [1], subject: lolm, baseline: transformer}"
    text = text.replace("\nstudy: *main ", f"\nstudy: {few} ")
    (pristine / "params.yaml").write_text(text, encoding="utf-8")
    assert {name.partition("@")[2] for name in status(pristine)} == {"tiny-few"}


@pytest.mark.slow
def test_one_arms_parameter_reruns_that_arm_alone(pristine):
    params = load_params(pristine / "params.yaml")
    scale, study = params.scale, params.study
    arm, path = study.subject, pristine / "params.yaml"
    label = params.architectures[arm].label
    edited(path, f"label: {label}\n", f"label: {label}, changed\n")
    stale = status(pristine)
    per_run = {f"{name}@{scale}-{arm}-{seed}" for name in PER_RUN for seed in study.seeds}
    first = {name for name in per_run if name.startswith(("train", "recall"))}
    assert set(stale) == first | {f"sweep@{scale}-{arm}", f"plan@{scale}-{study.name}"}
    wanted = per_run | {f"sweep@{scale}-{arm}", f"plan@{scale}-{study.name}", f"report@{scale}-{study.name}"}
    assert downstream(pristine, set(stale)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("module", ["lolm/data/tokenizer.py", "lolm/training/loop.py", "lolm/tracking.py"])
def test_edited_code_reruns_the_stages_that_use_it(pristine, module):
    path = pristine / module
    path.write_text(path.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    stale = {name.partition("@")[0] for name in status(pristine)}
    assert stale == {name for name in STAGES if module in code.closure(f"pipeline.{name}", ROOT)}
    assert bool(stale) == (module != "lolm/tracking.py")
