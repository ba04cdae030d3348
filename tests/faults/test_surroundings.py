"""What a stage finds around it: users, folders, limits, clocks, other processes; kills of process trees, of DVC and of MLflow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from processes import GROUP, KILL, STAGES, TORN, TREE
from projects import DVC_CONFIG, ROOT, environment, halting
from study import ARM, NAMESPACE, OTHER_USER, PIECES, SEED, STRANGER, copied, cureless, different, only_error, run
from test_struck import NAMES

from lolm.records import Layout, read
from lolm.records.schema import RunHeader
from pipeline.dvc_state import BUSY

FAKE = """
import os, sys, time
open("events.txt", "a").write(sys.argv[1] + "\\n")
while os.path.exists("hold"):
    time.sleep(0.02)
open(sys.argv[1] + ".txt", "w").write("made")
"""
DVC_YAML = """
stages:
  train:
    matrix: {scale: ["${scale}"], study: ["${study}"]}
    cmd: python fake.py ${item.scale}-${item.study}
    outs: ["${item.scale}-${item.study}.txt": {cache: false}]
"""
WITH_OTHERS = [GROUP, pytest.param(TREE, marks=NAMESPACE)]
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # no test here waits for a store to be made

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture
def works(study, table):
    """Checks that a stage ends in a folder as it does undisturbed."""

    def check(fault: str, folder: Path, stage: str, **how) -> None:
        ended = run(study.forge, folder, stage, **how)
        wrong = [ended.said[-400:]] if ended.status else different(folder, study.after(stage))
        table.add(fault, stage, ended.said, wrong)
        assert not wrong, "\n".join(wrong)

    return check


@pytest.fixture
def refused(study, table):
    """Checks that a stage ends with one line that has these words, and afterwards, without the fault, as it does undisturbed."""

    def check(fault: str, folder: Path, stage: str, *words: str, **how) -> None:
        ended = run(study.forge, folder, stage, **how)
        lines = only_error(ended.said)
        sound = ended.status == 2 and bool(lines) and all(w in lines[0] for w in words) and not cureless(lines[0])
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200) if not path.is_symlink() else None
        again = run(study.forge, folder, stage)
        wrong = [] if sound else [f"{ended.status}: {ended.said[-400:]}"]
        wrong += [again.said[-400:]] if again.status else different(folder, study.after(stage))
        table.add(fault, stage, ended.said, wrong)
        assert not wrong, "\n".join(wrong)

    return check


@pytest.mark.parametrize("name", ["with space", "a#b", "50%25", "ünï-東京", "it's [final]; {x}"])
@pytest.mark.parametrize("stage", ["corpus", "shards", "train"])
def test_odd_paths(study, works, folder, name, stage):
    folder.mkdir(parents=True)
    works("odd path", copied(study.before(stage), folder / name), stage)


@pytest.mark.parametrize("stage", ["tokenizer", "train"])
@OTHER_USER
def test_a_checkout_that_cannot_be_written(study, refused, folder, stage):
    copied(study.before(stage), folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222) if not path.is_symlink() else None
    refused("read-only checkout", folder, stage, "Permission denied", user=STRANGER)


@pytest.mark.parametrize("stage", ["corpus", "shards", "train", "evaluate"])
@OTHER_USER
def test_a_user_without_name_and_home(study, works, folder, stage):
    copied(study.before(stage), folder)
    works("unknown user, no HOME", folder, stage, user=STRANGER, HOME="", USER="", LOGNAME="")


@pytest.mark.parametrize("stage", ["corpus", "shards", "train", "evaluate", "front"])
def test_few_open_files(study, works, folder, stage):
    works("at most 80 open files", copied(study.before(stage), folder), stage, limits={"RLIMIT_NOFILE": 80})


@pytest.mark.parametrize(("stage", "most"), [("corpus", 4000), ("shards", 3000), ("train", 20_000)])
def test_a_limit_of_file_sizes(study, refused, folder, stage, most):
    refused("a limit of file sizes", copied(study.before(stage), folder), stage, limits={"RLIMIT_FSIZE": most})


@pytest.mark.parametrize("mebibytes", [1, 8, 64])
@pytest.mark.parametrize("stage", ["corpus", "tokenizer", "shards", "train", "evaluate", "front"])
def test_little_memory(study, table, folder, stage, mebibytes):
    """It is enough, or the stage says that it is not, or a library ends the process; it goes on where there is more."""
    copied(study.before(stage), folder)
    limit = study.forge.address_space + mebibytes * 2**20
    ended = run(study.forge, folder, stage, limits={"RLIMIT_AS": limit})
    lines = only_error(ended.said)
    told = ended.status == 2 and bool(lines) and not cureless(lines[0])
    wrong = [] if told or ended.status in (0, -6, -11) else [f"ended with {ended.status}: {ended.said[-400:]}"]
    again = run(study.forge, folder, stage)
    wrong += [again.said[-400:]] if again.status else different(folder, study.after(stage))
    table.add("little memory", stage, ended.said, wrong)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("stage", ["tokenizer", "shards", "train", "evaluate"])
def test_a_clock_set_back(study, works, folder, stage):
    copied(study.before(stage), folder)
    for path in folder.rglob("*"):
        if not path.is_symlink() and "lolm" not in path.parts:
            os.utime(path, (time.time() + 3e7,) * 2)
    works("clock set back by a year", folder, stage)


@pytest.mark.parametrize("stage", ["train", "front"])
def test_no_git_and_no_path(study, works, folder, stage):
    works("no git", copied(study.before(stage), folder), stage, PATH="/nowhere")


@pytest.mark.parametrize("stage", ["corpus", "tokenizer"])
@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_the_c_locale(study, table, folder, stage, locale):
    copied(study.before(stage), folder)
    own = environment(folder, LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PYTHONPATH=str(ROOT))
    words = [sys.executable, "-m", f"pipeline.{stage}"]
    done = subprocess.run(words, cwd=folder, env=own, capture_output=True, text=True, errors="replace", check=False)
    wrong = [done.stderr[-400:]] if done.returncode else different(folder, study.after(stage))
    table.add("C locale", stage, done.stderr, wrong)
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif("LOLM_OTHER_PYTHON" not in os.environ, reason="LOLM_OTHER_PYTHON names a Python with the pinned packages")
@pytest.mark.parametrize("stage", STAGES[1:])
def test_another_python(study, folder, table, stage):
    """Of 3.11 and 3.12 the other one makes the same files, code hashes included."""
    copied(study.before(stage), folder)
    own = environment(folder, PYTHONPATH=str(ROOT), LOLM_RUNNER="1", DVC_STAGE="1", MKL_NUM_THREADS="1", MPLBACKEND="agg", **AWAY)
    words = [os.environ["LOLM_OTHER_PYTHON"], "-m", f"pipeline.{stage}", *PIECES.get(stage, ())]
    done = subprocess.run(words, cwd=folder, env=own, capture_output=True, text=True, check=False)
    wrong = [done.stderr[-400:]] if done.returncode else different(folder, study.after(stage))
    table.add("another Python, of 3.11 and 3.12", stage, done.stderr, wrong)
    assert not wrong, "\n".join(wrong)


def test_two_of_one_run(study, refused, folder, table):
    copied(study.before("train"), folder)
    run(study.forge, folder, "train", at=study.written["train"] // 2, kind=KILL)
    (lock,) = folder.glob(".scratch/*.lock")
    with FileLock(lock):
        ended = run(study.forge, folder, "train")
    wrong = [] if ended.status == 2 and "another process is training this run" in ended.said else [ended.said[-400:]]
    again = run(study.forge, folder, "train")
    wrong += [again.said[-400:]] if again.status else different(folder, study.after("train"))
    table.add("two processes, one run", "train", ended.said, wrong)
    assert not wrong


@NAMESPACE
def test_a_killed_process_tree_goes_on_and_ends_alike(study, folder, table):
    """The stage, with the process of its run below it, in a namespace that ends with its first process."""
    tree = halted(study, folder, ["unshare", "-p", "-f", "--kill-child", sys.executable, "-m", "pipeline.train"])
    tree.kill()
    tree.wait()
    time.sleep(0.3)
    goes_on(study, folder, table, "kill -9 of the whole tree")


def test_a_killed_process_group_goes_on_and_ends_alike(study, folder, table):
    """What a shell ends with the number of the job: all that did not leave the stage's group."""
    group = halted(study, folder, [sys.executable, "-m", "pipeline.train"], process_group=0)
    left = [child for child in psutil.Process(group.pid).children(recursive=True) if os.getpgid(child.pid) != group.pid]
    os.killpg(group.pid, signal.SIGKILL)
    assert group.wait() == -signal.SIGKILL
    for child in left:  # of a run in a group of its own: an orphan, whose lock keeps a second one from its run
        child.kill()
        child.wait(30)
    goes_on(study, folder, table, "kill -9 of the process group")


def halted(study, folder: Path, words: list[str], **how) -> subprocess.Popen[bytes]:
    """The stage of training, stopped when its run has its first checkpoint."""
    copied(study.before("train"), folder)
    fingerprint = read(Layout("smoke", study.after("train")).header(ARM, SEED), RunHeader).fingerprint
    variables = environment(folder, **halting(folder.with_name("halting"), fingerprint))
    tree = subprocess.Popen(words, cwd=folder, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how)
    until = time.monotonic() + 200
    while not list(folder.glob(".scratch/*/checkpoint.pt")):
        assert tree.poll() is None, "ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.002)
    return tree


def goes_on(study, folder: Path, table, fault: str) -> None:
    """The killed run goes on from its checkpoint and ends as an undisturbed one."""
    shutil.rmtree(folder / ".scratch/logs", ignore_errors=True)
    ended = run(study.forge, folder, "train")
    wrong = [ended.said[-400:]] if ended.status else different(folder, study.after("train"))
    wrong += [] if "going on from step" in ended.said else ["did not go on"]
    table.add(fault, "train", ended.said, wrong)
    assert not wrong, "\n".join(wrong)


def faked(folder: Path, cache: Path | None = None) -> Path:
    """A project whose stage writes a word, and waits while there is a file ``hold``; kept in ``cache`` if there is one."""
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    kept = DVC_YAML if cache is None else DVC_YAML.replace('.txt": {cache: false}', '.txt"')
    (folder / "dvc.yaml").write_text(kept, encoding="utf-8")
    (folder / "fake.py").write_text(FAKE, encoding="utf-8")
    for package in ("lolm", "pipeline"):
        (folder / package).symlink_to(ROOT / package)
    (folder / ".dvc").mkdir()
    config = DVC_CONFIG + (f"[cache]\n    dir = {cache}\n" if cache else "")
    (folder / ".dvc/config").write_text(config, encoding="utf-8")
    return folder


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A command in a project, whose output is kept."""
    command, how = [sys.executable, "-m", *words], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(folder, **AWAY), **how)


RUNNER, DVC = (
    ("pipeline.run", "--scale", "smoke", "--study", "smoke"),
    ("pipeline.dvc", "--scale", "smoke", "--study", "smoke", "repro"),
)


@pytest.mark.parametrize(("first", "second"), [(RUNNER, RUNNER), (RUNNER, DVC), (DVC, RUNNER), (DVC, DVC)])
def test_two_commands_in_one_folder(folder, table, first, second):
    """The second says that another is at work and changes nothing; the first ends as if alone."""
    faked(folder)
    (folder / "hold").touch()
    one = started(folder, *first)
    until = time.monotonic() + 100
    while not (folder / "events.txt").exists():
        assert one.poll() is None, one.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    two = started(folder, *second)
    said = two.communicate(timeout=100)[0]
    (folder / "hold").unlink()
    ended = one.communicate(timeout=100)[0]
    wrong = [] if two.returncode and ("already" in said or "is being blocked by" in said) else [f"not refused: {said[-400:]}"]
    wrong += ["a traceback"] if "Traceback" in said + ended else []
    wrong += [] if one.returncode == 0 else [ended[-400:]]
    wrong += [] if (folder / "events.txt").read_text(encoding="utf-8").split() == ["smoke-smoke"] else ["made twice"]
    again = started(folder, *DVC)
    wrong += [] if "up to date" in again.communicate(timeout=100)[0] else ["not recorded"]
    names = {RUNNER: "the runner", DVC: "dvc repro"}
    table.add("two commands, one folder", f"{names[second]} beside {names[first]}", said, wrong)
    assert not wrong, "\n".join(wrong)


def test_two_folders_with_one_cache(folder, table, tmp_path):
    folders = [faked(tmp_path / name, cache=tmp_path / "cache") for name in ("one", "two")]
    both = [started(where, *RUNNER) for where in folders]
    said = [process.communicate(timeout=100)[0] for process in both]
    wrong = [text[-400:] for process, text in zip(both, said, strict=True) if process.returncode]
    for where in folders:
        (where / "smoke-smoke.txt").unlink()
        back = started(where, "pipeline.dvc", "--scale", "smoke", "--study", "smoke", "checkout")
        text = back.communicate(timeout=100)[0]
        made = where / "smoke-smoke.txt"
        wrong += [] if made.exists() and made.read_text(encoding="utf-8") == "made" else [f"not in the cache: {text[-400:]}"]
    table.add("two folders, one cache", "the runner", "", wrong)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kind", [KILL, TORN, *WITH_OTHERS])
def test_dvc_killed_while_it_writes(forge, folder, table, kind):
    """Its lock, or anything where it dies with all others; the runner brings the lock back and makes only what that lacked."""
    whole = faked(folder.with_name("whole"))
    store = AWAY | {"PYTHONPATH": ""}
    first = forge.run(whole, "pipeline.run", "--scale", "smoke", "--study", "smoke", **store)
    assert first.status == 0, first.said
    shutil.rmtree(folder, ignore_errors=True)
    copied(whole, folder)
    done = forge.run(folder, "pipeline.dvc", "--scale", "smoke", "--study", "main", "repro")
    lock = (folder / "dvc.lock").read_bytes()
    fault = NAMES[kind] if kind in (GROUP, TREE) else "kill -9 of DVC at its lock"
    places = [at for at, path in enumerate(done.calls, 1) if "dvc.lock" in path or kind in (GROUP, TREE)]
    assert places
    found = []
    for at in places[:: max(1, len(places) // (5 if kind in (GROUP, TREE) else 3))]:
        shutil.rmtree(folder)
        copied(whole, folder)
        ended = forge.run(folder, "pipeline.dvc", "--scale", "smoke", "--study", "main", "repro", at=at, kind=kind)
        again = forge.run(folder, "pipeline.run", "--scale", "smoke", "--study", "main", **store)
        wrong = [again.said[-400:]] if again.status else [] if (folder / "dvc.lock").read_bytes() == lock else ["another lock"]
        events = (folder / "events.txt").read_text(encoding="utf-8").split()
        wrong += [] if events.count("smoke-smoke") == 1 else ["made twice what the lock had"]
        wrong += [] if ended.status == -signal.SIGKILL else [f"not killed: {ended.said[-400:]}"]
        table.add(fault, "DVC" if kind in (GROUP, TREE) else "dvc.lock", again.said, wrong)
        found += [f"write {at} of {len(done.calls)}, {ended.calls[-1:]}: {text}" for text in wrong]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("left", ["cut short", "of a process whose number another has", "of a process that is gone"])
def test_a_note_of_dvc_that_a_kill_has_left(forge, folder, table, left):
    """The runner takes out of DVC's note who is not at work here, says so, and goes on."""
    faked(folder)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if left.endswith("gone"):
        other.kill()
        other.wait()
    user = {"pid": other.pid, "cmd": "dvc repro"}
    note = json.dumps({"write": {str(folder / "smoke-smoke.txt"): user}, "read": {str(folder / "params.yaml"): [user]}})
    busy = folder / BUSY
    busy.parent.mkdir(exist_ok=True)
    busy.write_text(note[: len(note) // 2] if left == "cut short" else note, encoding="utf-8")
    try:
        ended = forge.run(folder, "pipeline.run", "--scale", "smoke", "--study", "smoke", **AWAY | {"PYTHONPATH": ""})
    finally:
        other.kill()
        other.wait()
    said = [line for line in ended.said.splitlines() if "as a kill leaves it" in line]
    wrong = [ended.said[-400:]] if ended.status or "Traceback" in ended.said else []
    wrong += [] if len(said) == 1 and str(BUSY) in said[0] else [f"not said: {ended.said[-400:]}"]
    wrong += [] if (folder / "smoke-smoke.txt").exists() else ["not made"]
    table.add("DVC's note cut or stale", str(BUSY), "\n".join(said), wrong)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("kinds", "points"), [((KILL, TORN), 4), ((GROUP,), 4), pytest.param((TREE,), 4, marks=NAMESPACE)])
def test_a_killed_sync_goes_on_and_holds_each_run_once(study, folder, table, kinds, points):
    from test_damage import stored

    base, full = folder.with_name("base"), folder.with_name("full")
    copied(study.after("report"), base)
    shutil.move(base / "reports/smoke/one", base / "kept")
    assert study.forge.run(base, "pipeline.track").status == 0
    shutil.move(base / "kept", base / "reports/smoke/one")
    copied(base, full)
    done = study.forge.run(full, "pipeline.track")
    found = []
    for point in range(points):
        at = 1 + (2 * point + 1) * len(done.calls) // (2 * points)
        shutil.rmtree(folder, ignore_errors=True)
        copied(base, folder)
        kind = kinds[point % len(kinds)]
        ended = study.forge.run(folder, "pipeline.track", at=at, kind=kind)
        again = study.forge.run(folder, "pipeline.track")
        wrong = [again.said[-400:]] if again.status else []
        wrong += [] if stored(folder / "mlflow.db") == stored(full / "mlflow.db") else ["other numbers in the store"]
        wrong += [] if ended.status == -signal.SIGKILL else [f"not killed: {ended.said[-400:]}"]
        table.add(NAMES[kind], "MLflow", again.said, wrong)
        found += wrong
    assert not found, "\n".join(found)
