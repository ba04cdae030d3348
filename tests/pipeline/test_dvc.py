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
from pipeline import code, deps, quick_dvc

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
    used, declared = code.closure(f"pipeline.{name}", ROOT), code_among(STAGES[name], ROOT)
    assert STAGES[name][0] == f"pipeline/{name}.py"
    assert sorted(set(deps.code_of(name, ROOT)) - set(declared)) == [], "missing in dvc.yaml"
    assert sorted(set(declared) - set(deps.code_of(name, ROOT))) == [], "superfluous in dvc.yaml"
    assert files_of(declared, ROOT) == used


def code_among(declared, root):
    return [dep for dep in declared if deps.is_code(dep, root)]


def files_of(declared, root):
    paths = [root / dep for dep in declared]
    return {f.relative_to(root).as_posix() for path in paths for f in (deps.files_in(path) if path.is_dir() else [path])}


@pytest.mark.parametrize("package", ["lolm/mixers", "lolm/models"])
def test_a_run_rests_on_whole_packages_also_on_what_is_imported_in_functions(package):
    assert package in STAGES["train"]
    lazily = {"lolm/mixers/scan_cpu.py", "lolm/mixers/vectors.py"}
    assert lazily <= code.closure("pipeline.train", ROOT)
    assert not lazily & set(STAGES["train"])  # the folder stands for them


def test_a_folder_stands_for_its_files_when_all_are_used(tmp_path):
    names = ["lolm/__init__.py", "lolm/a/__init__.py", "lolm/a/b/c.py", "lolm/a/b/d.py", "lolm/e/f.py", "lolm/e/g.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    used = set(names) - {"lolm/e/g.py"}
    assert deps.folded(used, tmp_path) == ["lolm/__init__.py", "lolm/a", "lolm/e/f.py"]
    assert deps.folded(used - {"lolm/a/__init__.py"}, tmp_path) == ["lolm/__init__.py", "lolm/a/b", "lolm/e/f.py"]
    assert deps.folded(names, tmp_path) == ["lolm"]
    for ignored in ("lolm/a/__pycache__/c.cpython-311.pyc", "lolm/a/b/c.pyc", "lolm/a/c.py~", "lolm/a/.c.py.swp"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_text("")
    assert deps.folded(used, tmp_path) == ["lolm/__init__.py", "lolm/a", "lolm/e/f.py"]
    (tmp_path / "lolm/a/b/table.json").write_text("")  # DVC would hash it too, and nobody has said that it is used
    assert deps.folded(used, tmp_path) == [
        "lolm/__init__.py",
        "lolm/a/__init__.py",
        "lolm/a/b/c.py",
        "lolm/a/b/d.py",
        "lolm/e/f.py",
    ]


def test_dvc_hashes_no_file_that_the_lists_pass_over():
    ignored = (ROOT / ".dvcignore").read_text(encoding="utf-8").split("\n")
    assert {pattern.rstrip("/") for pattern in ignored} >= set(deps.NEVER_HASHED)


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
    assert deps_in(new)["stage"][:2] == ["pipeline/stage.py", "lolm/__init__.py"]
    assert "lolm/a" in deps_in(new)["stage"]
    assert files_of(code_among(deps_in(new)["stage"], tmp_path), tmp_path) == set(files) - unused
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


# ---------------------------------------------------------------------------------------------- dvc.lock


def test_lock_holds_only_what_stands_behind_the_reports_in_git(tmp_path):
    """Every start of DVC reads the whole file. What a trial has left since the last commit doesn't count."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a clone")

    def git(*arguments):
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout

    lock = git("show", "HEAD:dvc.lock")
    (tmp_path / "params.yaml").write_text(git("show", "HEAD:params.yaml"), encoding="utf-8")
    reports = git("ls-tree", "-r", "--name-only", "HEAD", "reports").splitlines()
    names = set(deps.locked_stages(lock))
    assert names == set(yaml.load(lock, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"])
    left = names - deps.stages_behind(reports, load_params(tmp_path / "params.yaml"))
    assert sorted(left) == [], "`python -m pipeline.deps --prune` takes them out"


def test_prune_takes_out_whole_stages_and_touches_no_other_byte():
    params = load_params(ROOT / "params.yaml")
    kept = deps.stages_behind(["reports/tiny/main/claims.json", "reports/nano/else/claims.json", "reports/micro/field/x"], params)
    assert {"corpus@tiny", "plan@tiny-main", "report@tiny-main", "sweep@tiny-lolm", "recall@tiny-transformer-3"} < kept
    assert {name.partition("@")[2].partition("-")[0] for name in kept} == {"tiny"}
    head = "schema: '2.0'\nstages:\n"
    text = "  {}:\n    cmd: x\n    deps:\n    - path: lolm\n      size: 1\n"
    names = ["corpus@smoke", "plan@tiny-main", "plan@tiny", "sweep@tiny-hymba", "train@tiny-lolm-1", "train@tiny-lolm-9"]
    lock = head + "".join(text.format(name) for name in names)
    assert deps.locked_stages(lock) == names
    assert deps.pruned(lock, kept) == head + text.format("plan@tiny-main") + text.format("train@tiny-lolm-1")


# ---------------------------------------------------------------------------------------------- DVC itself


def test_parameter_file_is_parsed_once_until_it_changes(tmp_path):
    path, calls = tmp_path / "params.yaml", []

    def load(path, fs, **options):
        calls.append(options)
        return Path(path).read_text(encoding="utf-8")

    remembered = quick_dvc.remembering(load)
    path.write_text("a: 1")
    assert [remembered(str(path), None) for _ in range(3)] == ["a: 1"] * 3
    assert len(calls) == 1
    path.write_text("a: 10")
    assert remembered(str(path), None) == "a: 10"
    assert remembered(str(path), None, encoding="utf-8") == "a: 10"
    assert calls == [{}, {}, {"encoding": "utf-8"}]
    path.unlink()
    with pytest.raises(FileNotFoundError):  # the loader's own
        remembered(str(path), None)


def test_dvc_still_reads_parameters_where_they_are_remembered(monkeypatch):
    """Else the runner's DVC would be as slow as DVC itself, and nobody would notice."""
    from dvc.dependency import param

    monkeypatch.setattr(param, "load_path", param.load_path)
    monkeypatch.setattr(param, "dpath", param.dpath)
    monkeypatch.setattr("dvc.cli.main", lambda arguments: len(arguments))
    before = param.load_path
    assert quick_dvc.main(["status", "--json"]) == 2
    assert param.load_path is not before
    monkeypatch.setattr(param, "load_path", remembering_refused)
    with pytest.raises(RuntimeError, match="asked"):
        param.read_param_file(None, "params.yaml", ["a"])


@pytest.mark.parametrize("path", ["a", "a.b", "a.b.c", "a.l.1", "a.n", "a.*", "a.b.?"])
def test_parameters_are_found_where_dpath_finds_them(path):
    import dpath

    tree = {"a": {"b": {"c": 1}, "l": [3, 4], "n": None}}
    quick = quick_dvc.PlainPaths(dpath)
    try:
        wanted = dpath.get(tree, path, separator=".")
    except ValueError as error:  # several are meant
        with pytest.raises(type(error)):
            quick.get(tree, path, separator=".")
    else:
        assert quick.get(tree, path, separator=".") == wanted
    with pytest.raises(KeyError):
        quick.get(tree, path + ".missing", separator=".")
    assert quick.search is dpath.search


def test_dvc_still_looks_parameters_up_where_they_are_found_quickly(monkeypatch):
    from dvc.dependency import param

    class Refusing:
        def get(self, *_, **__):
            raise RuntimeError("asked")

    monkeypatch.setattr(param, "load_path", lambda *_: {"a": 1})
    monkeypatch.setattr(param, "dpath", Refusing())
    with pytest.raises(RuntimeError, match="asked"):
        param.read_param_file(None, "params.yaml", ["a"], flatten=True)


def remembering_refused(*_):
    raise RuntimeError("asked")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which every stage counts as done: stand-ins for the outputs, committed to DVC."""
    root = tmp_path_factory.mktemp("project")
    for name in ("params.yaml", "dvc.yaml", ".dvcignore"):
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
    study = params.selected
    suffixes = {
        **dict.fromkeys(PER_RUN, [f"-{arm}-{seed}" for arm in study.arms for seed in study.seeds]),
        "recall": [f"-{arm}-{seed}" for arm in study.recall_arms for seed in study.seeds],
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
    """The same arms with fewer seeds and recall tasks: nothing to train, only a plan and a report of its own."""
    text = (pristine / "params.yaml").read_text(encoding="utf-8")
    few = "{name: few, arms: [lolm, transformer], seeds: [1], subject: lolm, baseline: transformer, recall: [lolm]}"
    text = text.replace("\nstudy: *main ", f"\nstudy: {few} ")
    (pristine / "params.yaml").write_text(text, encoding="utf-8")
    assert {name.partition("@")[2] for name in status(pristine)} == {"tiny-few"}
    names = dvc(pristine, "stage", "list", "--name-only").splitlines()
    assert [name for name in names if name.startswith("recall")] == ["recall@tiny-lolm-1"]


@pytest.mark.slow
def test_one_arms_parameter_reruns_that_arm_alone(pristine):
    params = load_params(pristine / "params.yaml")
    scale, study = params.scale, params.selected
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


@pytest.mark.slow
def test_a_new_file_in_a_package_reruns_what_rests_on_it_and_a_cache_nothing(pristine):
    package = pristine / "lolm" / "mixers"
    caches = [
        package / "__pycache__" / "scan.cpython-311.pyc",
        package / "old.pyc",
        package / "scan.py~",
        package / ".scan.py.swp",
    ]
    added = package / "another.py"
    try:
        for path in caches:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
        assert status(pristine) == {}
        added.write_text("")
        stale = {name.partition("@")[0] for name in status(pristine)}
        assert stale == {name for name in STAGES if "lolm/mixers" in STAGES[name]}
        assert "train" in stale
    finally:
        for path in [*caches, added]:
            path.unlink(missing_ok=True)
