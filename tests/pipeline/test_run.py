"""The runner: what it refuses before anything runs, and what it leaves behind when it is stopped.

The stage is a stand-in that writes a file; DVC is the real one.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from projects import DVC_CONFIG, ROOT, environment, python
from test_pieces import gone, wait_for

from pipeline import dvc_state, run

DVC_YAML = """
stages:
  train:
    matrix: {scale: ["${scale}"], study: ["${study}"]}
    cmd: python fake.py ${item.scale}-${item.study}
    outs: ["${item.scale}-${item.study}.txt": {cache: false}]
"""
FAKE = """
import os, sys, time
with open("events.txt", "a") as file:
    file.write(f"{os.getpid()} {sys.argv[1]} {os.environ.get('LOLM_JOBS')} {os.environ['LOLM_PIPELINE']}\\n")
if os.environ.get("FAIL"):
    sys.exit("error: stand-in failure")
time.sleep(float(os.environ.get("SLEEP", "0")))
open(sys.argv[1] + ".txt", "w").write("made")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC project with this project's code and parameter file, and one stand-in stage."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (tmp_path / "fake.py").write_text(FAKE, encoding="utf-8")
    for package in ("lolm", "pipeline"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(DVC_CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(root, *words, status=0, **variables):
    """The runner, with an MLflow store that is not there: there are no records to send."""
    return python(root, "-m", "pipeline.run", *words, status=status, MLFLOW_TRACKING_URI="http://127.0.0.1:9", **variables)


def events():
    path = Path("events.txt")
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.mark.slow
def test_it_makes_what_is_asked_once_and_leaves_the_parameters_alone(project):
    before = Path("params.yaml").read_bytes()
    assert "reports/smoke/gates/report.html" in call(project, "--scale", "smoke", "--study", "gates", "--jobs", "3")
    call(project, "--scale", "smoke", "--study", "gates")
    assert [event[1:3] for event in events()] == [["smoke-gates", "3"]]
    call(project)
    assert events()[1][1] == "tiny-main"
    assert "stand-in failure" in call(project, "--force", status=2, FAIL="1")
    assert len(events()) == 3
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.system
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_runner_leaves_no_process(project, number):
    before = Path("params.yaml").read_bytes()
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.run", "--scale", "smoke"],
        env=environment(project, SLEEP="300"),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs inherit it ignored
    )
    assert wait_for(events)
    os.kill(child.pid, number)
    assert child.wait(timeout=60) == 130
    assert wait_for(lambda: gone(int(events()[0][0])), 5)
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_second_runner_is_refused(project):
    from filelock import FileLock

    Path(".scratch").mkdir()
    with FileLock(".scratch/runner.lock"):
        assert "running in this folder already" in call(project, status=2)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--study", "mian"], "did you mean 'main'"),
        (["--scale", "smok"], "did you mean 'smoke'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(project, words, named):
    said = call(project, *words, status=2)
    assert named in said
    assert "Traceback" not in said
    assert events() == []


def test_a_folder_without_git_says_what_to_do(tmp_path):
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(run.PipelineError, match="dvc config --local core.no_scm true"):
        run.check_dvc(tmp_path)
    (tmp_path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    run.check_dvc(tmp_path)
    (tmp_path / ".dvc/config.local").unlink()
    (tmp_path / ".git").mkdir()
    run.check_dvc(tmp_path)


@pytest.mark.parametrize("raw", [b"garbage", b"\xff\xfe[core]", b"[core]\n    no_scm = perhaps\n"])
def test_a_broken_configuration_of_dvc_is_named(tmp_path, raw):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_bytes(raw)
    with pytest.raises(run.PipelineError, match=r"^\.dvc/config or .* cannot be read \(.*\); .*`git checkout \.dvc/config`$"):
        run.check_dvc(tmp_path)


@pytest.mark.parametrize("raw", [b"a: [b", b"x: 1", b"[1]", b"", b"\xff", b"[" * 5000])
def test_a_list_of_stages_that_is_broken_is_named(tmp_path, monkeypatch, raw):
    (tmp_path / "dvc.yaml").write_bytes(raw)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(run.PipelineError, match=r"^dvc\.yaml: not a list of stages .*`git checkout dvc\.yaml`$"):
        run._stages()


def test_bytecode_is_kept_where_python_is_told_to_write_none(tmp_path):
    (tmp_path / "module.py").write_text("")
    program = (
        "import sys, subprocess; from pathlib import Path; from pipeline.jobs import keep_bytecode; keep_bytecode(Path('kept'));"
        "subprocess.run([sys.executable, '-c', 'import module'], check=True)"
    )
    for told, written in (({"PYTHONDONTWRITEBYTECODE": "1"}, ["kept"]), ({}, ["__pycache__"])):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        own = clean | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"} | told
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=own, check=True)
        found = list(tmp_path.rglob("module.*.pyc"))
        assert [path.relative_to(tmp_path).parts[0] for path in found] == written
        found[0].unlink()


def test_help_names_every_target():
    """`make help` is made from the comments; one without would be hidden."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    wanted = "help repro smoke budgets plan report accept bench check test golden lint format ui track environment clean"
    for target in wanted.split():
        assert any(line.startswith(f"{target}:") and " ## " in line for line in text.splitlines()), target


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("budgets FORCE=1 JOBS=2", "pipeline.budgets --run --jobs 2 --force"),
        ("budgets FORCE=0", "pipeline.budgets --run"),
        ("repro FORCE=1 SCALE=tiny", "pipeline.run --force --scale tiny"),
        ("status JOBS=2 STUDY=field", "pipeline.status --study field"),
        ("power SCALE=tiny STUDY=field", "pipeline.power --scale tiny --study field"),
        ("track SCALE=tiny", "pipeline.track --scale tiny"),
    ],
)
def test_make_hands_over_the_variables_that_a_command_knows(words, command):
    said = subprocess.run(["make", "-n", *words.split()], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in said.splitlines() if " -m pipeline." in line)
    assert shlex.split(line.partition(" -m ")[2]) == command.split()
    assert ('LOLM_JOBS="2"' in line) == words.startswith("status")


def test_make_gpu_uses_the_environment_of_a_folder_whose_path_has_a_space(tmp_path):
    folder, python = tmp_path / "a project", tmp_path / "a project/.venv/bin/python"
    python.parent.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    variables = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    for place, which in ((tmp_path / "other", "the other"), (python, "its own")):  # it is taken as soon as it is there
        place.write_text(f'#!/bin/sh\necho {which}: "$@"\n', encoding="utf-8")
        place.chmod(0o755)
        words = ["make", "gpu", "ARGS=--pieces", f"PYTHON={tmp_path / 'other'}"]
        done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=True)
        assert done.stdout == f"{which}: -m pipeline.gpu --pieces\n"


@pytest.mark.slow
def test_a_lock_that_was_cut_is_brought_back(project):
    """At any byte: either DVC goes on from there, or the last whole one comes back."""
    call(project)
    lock = Path("dvc.lock").read_bytes()
    kept = [size for size in range(len(lock)) if not is_cut(lock, size)]
    assert len(kept) <= 1, "behind the last digest"
    Path("dvc.lock").write_bytes(lock)
    for size in (0, len(lock) // 2, len(lock) - 1):
        Path("dvc.lock").write_bytes(lock[:size])
        said = call(project)
        assert "dvc.lock was cut short or broken, as a kill leaves it; the last whole one is back" in said
        assert Path("dvc.lock").read_bytes() == lock
    assert len(events()) == 1, "nothing is made again"
    for size in kept:
        Path("dvc.lock").write_bytes(lock[:size])
        assert "cut short" not in call(project), "DVC itself goes on from there"
    Path("dvc.lock").write_bytes(lock[:40])
    shutil.rmtree(".scratch")
    assert "error: dvc.lock is cut short or broken: bring it back with `git checkout dvc.lock`" in call(project, status=2)
    assert Path("dvc.lock").read_bytes() == lock[:40]


def is_cut(lock, size):
    Path("dvc.lock").write_bytes(lock[:size])
    return dvc_state._cut()
