"""What a kill leaves of DVC's lock and of its note on who uses which file, and what becomes of it."""

import json
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from builders import ROOT
from projects import git

from pipeline import dvc_state
from pipeline.dvc_state import BUSY, KEPT, LOCK, LockError, mend_lock, mend_rwlock, write_beside

REAL = (ROOT / "dvc.lock").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".scratch").mkdir()
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    return tmp_path


def test_the_real_lock_cut_between_any_two_lines_is_brought_back(capsys):
    KEPT.write_text(REAL, encoding="utf-8")
    lines = REAL.splitlines(keepends=True)
    starts = {number for number, line in enumerate(lines) if line.startswith("  ") and line[2] not in " -"}
    last = [number for number in range(len(lines) - 12, len(lines)) if not lines[number].lstrip().startswith(("size", "nfiles"))]
    for number in sorted(starts | set(range(3, len(lines) - 12, 29)) | set(last[:-1])):
        LOCK.write_text("".join(lines[:number]), encoding="utf-8")
        mend_lock()
        assert LOCK.read_text(encoding="utf-8") == REAL, f"cut before line {number + 1}: {lines[number]}"
        assert KEPT.read_text(encoding="utf-8") == REAL
        assert capsys.readouterr().out.startswith("dvc.lock was cut short")


def test_a_lock_that_is_committed_or_differs_is_left_alone(folder, capsys):
    whole = yaml.safe_load(REAL)
    fewer = whole | {"stages": dict(list(whole["stages"].items())[:-1])}
    other = whole | {"stages": {name: stage | {"cmd": "other"} for name, stage in whole["stages"].items()}}
    texts = {"other": yaml.safe_dump(other, sort_keys=False), "fewer": yaml.safe_dump(fewer, sort_keys=False)}
    git(folder, "init", "-q")
    for name, text in texts.items():
        KEPT.write_text(REAL, encoding="utf-8")
        LOCK.write_text(text, encoding="utf-8")
        git(folder, "add", "dvc.lock")
        git(folder, "commit", "-qm", name)
        mend_lock()
        assert LOCK.read_text(encoding="utf-8") == KEPT.read_text(encoding="utf-8") == text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "form",
    [
        *([], 5, "text", {}, {"stages": {}}, {"schema": "2.0", "stages": []}, {"schema": "2.0", "stages": {"a": 5}}),
        *({"schema": "2.0", "stages": {"a": {"cmd": "b"} | entry}} for entry in (
            {"cmd": 5}, {"deps": 5}, {"outs": [5]}, {"outs": [{"path": 5, "md5": "c"}]}, {"outs": [{"path": "d", "md5": []}]}
        )),
    ],
)  # fmt: skip
def test_a_lock_of_another_form_is_brought_back_or_named(capsys, form):
    LOCK.write_text(yaml.safe_dump(form), encoding="utf-8")
    with pytest.raises(LockError, match="dvc.lock is cut short or broken: .*`git checkout dvc.lock`"):
        mend_lock()
    KEPT.write_text(REAL, encoding="utf-8")
    mend_lock()
    assert LOCK.read_text(encoding="utf-8") == REAL
    assert capsys.readouterr().out.startswith("dvc.lock was cut short or broken")


@pytest.mark.parametrize("schema", ["'3.0'", "3.0", "[]", "2"])
def test_a_lock_of_another_dvc_is_named_and_stays(schema):
    LOCK.write_text(text := REAL.replace("'2.0'", schema, 1), encoding="utf-8")
    KEPT.write_text(REAL, encoding="utf-8")
    with pytest.raises(LockError, match="^dvc.lock: schema: .* 2.0: bring the file back with `git checkout dvc.lock`"):
        mend_lock()
    assert LOCK.read_text(encoding="utf-8") == text


def test_dvc_writes_the_lock_beside(folder, monkeypatch):
    """A kill in the middle of writing leaves the old one."""
    from dvc import dvcfile

    monkeypatch.setattr(dvcfile, "modify_yaml", dvcfile.modify_yaml)  # put back afterwards
    write_beside()
    LOCK.write_text(REAL, encoding="utf-8")
    with dvcfile.modify_yaml(str(folder / "dvc.lock")) as data:
        data["stages"].pop(next(iter(data["stages"])))
        assert LOCK.read_text(encoding="utf-8") == REAL
    assert len(yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"]) == len(yaml.safe_load(REAL)["stages"]) - 1
    changed = LOCK.read_text(encoding="utf-8")

    def interrupted() -> None:
        with dvcfile.modify_yaml(str(folder / "dvc.lock")) as data:
            data.clear()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert LOCK.read_text(encoding="utf-8") == changed
    assert list((folder / ".dvc/tmp").iterdir()) == []


def held(*pids: int) -> str:
    users = [{"pid": pid, "cmd": "dvc repro"} for pid in pids]
    return json.dumps({"write": {"artifacts": users[0]}, "read": {"params.yaml": users}})


def test_a_cut_note_is_taken_away(capsys):
    text = held(1)
    for size in range(len(text)):
        BUSY.write_text(text[:size], encoding="utf-8")
        mend_rwlock()
        assert not BUSY.exists(), text[:size]
        assert "was cut short" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"write": 5}', '{"write": {"a": {"pid": -1, "cmd": ""}}}'])
def test_a_note_of_another_form_is_taken_away(capsys, text):
    BUSY.write_text(text, encoding="utf-8")
    mend_rwlock()
    assert not BUSY.exists()
    assert "was cut short" in capsys.readouterr().out


def test_a_process_that_is_gone_or_another_is_taken_out_and_one_at_work_stays(folder, capsys):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    other = subprocess.Popen(sleep)  # has the number of a DVC that was killed
    elsewhere = subprocess.Popen([*sleep, "dvc"], cwd="/")
    ours = subprocess.Popen([*sleep, "-m", "pipeline.dvc", "repro"], cwd=folder)
    while not all(psutil.Process(process.pid).cmdline() for process in (other, elsewhere, ours)):
        time.sleep(0.01)  # one that has only just replaced its parent's program has no words yet
    try:
        BUSY.write_text(held(ours.pid, other.pid, elsewhere.pid, ended.pid), encoding="utf-8")
        mend_rwlock()
        assert json.loads(BUSY.read_text(encoding="utf-8")) == json.loads(held(ours.pid))
        assert "not at work here any more" in capsys.readouterr().out
        mend_rwlock()
        assert capsys.readouterr().out == ""
    finally:
        for process in (other, elsewhere, ours):
            process.kill()
            process.wait()
    mend_rwlock()
    assert json.loads(BUSY.read_text(encoding="utf-8")) == {"write": {}, "read": {}}


def test_dvc_state_is_named_for_git_to_leave_out():
    assert dvc_state.TEMPORARY.parts == (".dvc", "tmp")
    assert "/tmp" in (ROOT / ".dvc/.gitignore").read_text(encoding="utf-8")
