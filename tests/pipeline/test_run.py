"""The runner: what it makes, in which order, and what it leaves behind when a stage fails or it is stopped.

The stages are stand-ins that write a file each; DVC is the real one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.override import override, put_back

from lolm.config import ConfigError, load_params
from pipeline import jobs, run
from pipeline.estimate import Estimate, estimate, timed_stages, training_tokens

ROOT = Path(__file__).resolve().parents[2]

STAGES = """
stages:
  plan:
    matrix: {scale: ["${scale}"], study: ["${study.name}"]}
    cmd: python fake.py plan reports/${item.scale}/${item.study}/plan.json
    metrics: ["reports/${item.scale}/${item.study}/plan.json": {cache: false}]
  shards:
    matrix: {scale: ["${scale}"]}
    cmd: python fake.py shards artifacts/${item.scale}/shards
    params: ["scales.${item.scale}.shards"]
    outs: ["artifacts/${item.scale}/shards"]
  sweep:
    matrix: {scale: ["${scale}"], arm: "${study.arms}"}
    cmd: python fake.py sweep-${item.arm} artifacts/${item.scale}/sweep/${item.arm}.json
    deps: ["artifacts/${item.scale}/shards"]
    outs: ["artifacts/${item.scale}/sweep/${item.arm}.json"]
  train:
    matrix: {scale: ["${scale}"], arm: "${study.arms}", seed: "${study.seeds}"}
    cmd: python fake.py train-${item.arm}-${item.seed} artifacts/${item.scale}/runs/${item.arm}-${item.seed}
    params: ["architectures.${item.arm}"]
    deps: ["artifacts/${item.scale}/shards", "artifacts/${item.scale}/sweep/${item.arm}.json"]
    outs: ["artifacts/${item.scale}/runs/${item.arm}-${item.seed}"]
  evaluate: &measure
    matrix: {scale: ["${scale}"], arm: "${study.arms}", seed: "${study.seeds}"}
    cmd: python fake.py evaluate-${item.arm}-${item.seed} artifacts/${item.scale}/evaluate/${item.arm}-${item.seed}.json
    deps: ["artifacts/${item.scale}/runs/${item.arm}-${item.seed}"]
    outs: ["artifacts/${item.scale}/evaluate/${item.arm}-${item.seed}.json"]
  ablate:
    matrix: {scale: ["${scale}"], arm: "${study.arms}", seed: "${study.seeds}"}
    cmd: python fake.py ablate-${item.arm}-${item.seed} artifacts/${item.scale}/ablate/${item.arm}-${item.seed}.json
    deps: ["artifacts/${item.scale}/runs/${item.arm}-${item.seed}"]
    outs: ["artifacts/${item.scale}/ablate/${item.arm}-${item.seed}.json"]
  recall:
    matrix: {scale: ["${scale}"], arm: "${study.arms}", seed: "${study.seeds}"}
    cmd: python fake.py recall-${item.arm}-${item.seed} artifacts/${item.scale}/recall/${item.arm}-${item.seed}.json
    deps: ["artifacts/${item.scale}/sweep/${item.arm}.json"]
    outs: ["artifacts/${item.scale}/recall/${item.arm}-${item.seed}.json"]
  report:
    matrix: {scale: ["${scale}"], study: ["${study.name}"]}
    cmd: python fake.py report reports/${item.scale}/${item.study}/report.html
    deps: ["artifacts/${item.scale}/runs", "artifacts/${item.scale}/evaluate", "artifacts/${item.scale}/ablate",
           "artifacts/${item.scale}/recall"]
    metrics: ["reports/${item.scale}/${item.study}/report.html": {cache: false}]
"""

FAKE = """
import os, sys, time
name, target = sys.argv[1:]
def log(event):
    with open("events.txt", "a") as file:
        file.write(f"{event} {name} {os.getpid()} {os.environ['OMP_NUM_THREADS']} {os.environ['LOLM_PIPELINE']}\\n")
log("start")
if name in os.environ.get("FAIL", "").split(","):
    sys.exit("error: stand-in failure")
time.sleep(float(os.environ.get("SLEEP", "0.1")) if name.startswith("train") else 0)
if target.endswith(("json", "html")):
    os.makedirs(os.path.dirname(target), exist_ok=True)
else:
    os.makedirs(target, exist_ok=True)
    target += "/file"
open(target, "w").write(name)
log("end")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC project with this project's stage names and parameter file, and stand-ins for the work."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    pair = "{name: main, arms: &two [lolm, transformer], seeds: [1, 2], subject: lolm, baseline: transformer, recall: *two}"
    text, count = re.subn(r"(?m)^  main: &main \{.*\}$", f"  main: &main {pair}", text)
    assert count == 1
    text = re.sub(r"(?m)^study: \*\w+", "study: *main", text)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(STAGES, encoding="utf-8")
    (tmp_path / "fake.py").write_text(FAKE, encoding="utf-8")
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=lambda *_: ["tmp", "cache", "config.local"])
    (tmp_path / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".site"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # no store to prepare; there are no records to send
    for name in ("LOLM_PIPELINE", "OMP_NUM_THREADS", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "pipeline.run", "--scale", "smoke", *arguments]


def call(*arguments, **variables):
    done = subprocess.run(
        command(*arguments), env=os.environ | variables, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


def events():
    path = Path("events.txt")
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def started():
    return [event[1] for event in events() if event[0] == "start"]


@pytest.mark.slow
def test_makes_everything_side_by_side_then_nothing(project):
    before = Path("params.yaml").read_bytes()
    status, out, error = call("--jobs", "2", SLEEP="6")  # longer than DVC takes to start on a busy machine
    assert status == 0, out + error
    names = started()
    arms = ("lolm", "transformer")
    measured = [f"{s}-{arm}-{n}" for s in ("train", "evaluate", "ablate", "recall") for arm in arms for n in (1, 2)]
    assert sorted(names) == sorted(["plan", "shards", *(f"sweep-{arm}" for arm in arms), *measured, "report"])
    assert {"sweep-lolm", "sweep-transformer"} < set(names[: names.index("train-lolm-1")])  # before any run
    assert names[-1] == "report"
    # The slow arm first, and two at a time: the second run starts before the first ends.
    assert [n for n in names if n.startswith("train")][:2] in (["train-lolm-1", "train-lolm-2"], ["train-lolm-2", "train-lolm-1"])
    trained = [event[:2] for event in events() if event[1].startswith("train-lolm")]
    assert [event[0] for event in trained] == ["start", "start", "end", "end"]
    assert {event[3] for event in events()} == {"1"}  # one thread a process
    assert len({event[4] for event in events()}) == 1  # one invocation
    assert "[lolm 1] " in out
    assert Path("reports/smoke/main/report.html").exists()
    assert Path("params.yaml").read_bytes() == before
    assert not Path(".scratch/override.json").exists()

    Path("events.txt").unlink()
    status, out, error = call("--jobs", "2")
    assert status == 0, out + error
    assert "everything is up to date" in out
    assert events() == []

    # One measurement is lost: only it, and what rests on it, is looked at again; DVC's cache has it.
    Path("artifacts/smoke/ablate/lolm-1.json").unlink()
    assert call("--jobs", "2")[0] == 0
    assert Path("artifacts/smoke/ablate/lolm-1.json").exists()
    assert events() == []


@pytest.mark.slow
def test_failing_stage_stops_the_queue_and_is_named(project):
    before = Path("params.yaml").read_bytes()
    status, out, error = call("--jobs", "2", FAIL="train-lolm-1", SLEEP="6")
    assert status == 2
    assert "lolm 1 failed" in error
    assert ".scratch/logs/smoke-lolm-1.log" in error
    assert "not started: transformer 1, transformer 2" in error
    assert "stand-in failure" in Path(".scratch/logs/smoke-lolm-1.log").read_text(encoding="utf-8")
    assert "Traceback" not in error
    assert "ablate-lolm-2" in started()  # what was under way was finished
    assert "train-transformer-1" not in started()
    assert Path("params.yaml").read_bytes() == before


def gone(process):
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, "2"), (signal.SIGTERM, "2"), (signal.SIGTERM, "1")])
def test_stopped_runner_leaves_no_process_and_the_parameters_as_they_were(project, number, jobs):
    before = Path("params.yaml").read_bytes()
    child = subprocess.Popen(
        command("--jobs", jobs),
        env=os.environ | {"SLEEP": "300"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs inherit it ignored
    )
    assert wait_for(lambda: any(name.startswith("train") for name in started()))
    training = [int(event[2]) for event in events() if event[1].startswith("train")]
    os.kill(child.pid, number)
    assert child.wait(timeout=60) == 130
    assert wait_for(lambda: all(gone(process) for process in training), 5)
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.slow
def test_killed_runner_is_mended_by_the_next_one(project):
    before = Path("params.yaml").read_bytes()
    child = subprocess.Popen(command("--jobs", "1"), env=os.environ | {"SLEEP": "300"}, start_new_session=True)
    assert wait_for(lambda: any(name.startswith("train") for name in started()))
    training = [int(event[2]) for event in events() if event[1].startswith("train")]
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    for process in training:  # nobody can clean up after SIGKILL
        os.killpg(os.getpgid(process), signal.SIGKILL)
    assert Path("params.yaml").read_bytes() != before
    done = subprocess.run([*command("--jobs", "1"), "--scale", "nowhere"], capture_output=True, text=True, check=False)
    assert "put back what" in done.stdout
    assert Path("params.yaml").read_bytes() == before


def test_second_runner_is_refused(project):
    from filelock import FileLock

    Path(".scratch").mkdir()
    with FileLock(".scratch/runner.lock"):
        status, _, error = call()
    assert status == 2
    assert "running in this folder already" in error


def test_bad_parameters_end_it_before_anything_runs(project):
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("arms: [lolm,", "arms: [lolmm,", 1), encoding="utf-8")
    status, _, error = call()
    assert status == 2
    assert "did you mean 'lolm" in error
    assert "Traceback" not in error
    assert events() == []


def test_folder_without_git_says_what_to_do(project):
    Path(".dvc/config.local").unlink()
    status, _, error = call()
    assert status == 2
    assert "dvc config --local core.no_scm true" in error


def test_override_is_undone_byte_for_byte(tmp_path):
    params, note = tmp_path / "params.yaml", tmp_path / "note.json"
    original = b"# head\r\nscale:   'tiny'   # smoke | tiny\r\nstudy: *a # b\r\nscales:\n  scale: 3\n"
    params.write_bytes(original)

    def interrupted():
        with override(params, {"scale": "smoke", "study": "*b"}, note):
            assert params.read_bytes() == original.replace(b"'tiny' ", b"smoke ", 1).replace(b"study: *a", b"study: *b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert params.read_bytes() == original
    assert not note.exists()
    assert not put_back(params, note)


def test_override_keeps_what_the_user_edits_meanwhile(tmp_path):
    params, note = tmp_path / "params.yaml", tmp_path / "note.json"
    params.write_text("scale: tiny\nseeds: [1]\n")
    with override(params, {"scale": "smoke"}, note):
        params.write_text("scale: smoke\nseeds: [1, 2]\n")
    assert params.read_text() == "scale: tiny\nseeds: [1, 2]\n"
    with override(params, {"scale": "smoke"}, note):
        params.write_text("scale: 20m\nseeds: [1, 2]\n")  # their own choice of scale stands
    assert params.read_text() == "scale: 20m\nseeds: [1, 2]\n"
    params.write_text("{scale: tiny}\n")
    with pytest.raises(ConfigError, match="line of its own"), override(params, {"scale": "smoke"}, note):
        pass


def test_the_plan_names_the_runs_and_the_time(project):
    params = load_params("params.yaml")
    runs = run.planned_runs(params, "smoke")
    assert [str(one) for one in runs] == ["lolm-1", "lolm-2", "transformer-1", "transformer-2"]
    stale = timed_stages(params, "smoke")
    assert len(stale) == 2 + 4 * 4
    text = run.describe(params, "smoke", runs, 2, stale)
    assert "2 arms x 2 seeds = 4 runs, 2 at a time" in text
    assert "roughly, from FLOPs" in text
    assert "nothing that takes long" in run.describe(params, "smoke", runs, 2, {"report@smoke-main"})


def test_only_the_arms_a_study_names_are_trained_on_recall(project):
    params = load_params("params.yaml")
    params = replace(params, studies={params.study: replace(params.selected, recall=("lolm",))})
    stages = timed_stages(params, "smoke")
    assert {name for name in stages if name.startswith("recall")} == {"recall@smoke-lolm-1", "recall@smoke-lolm-2"}
    assert len(stages) == 2 + 4 * 4 - 2
    runs = run.planned_runs(params, "smoke")
    assert run.all_will_be_made(stages, params.selected, "smoke", runs)
    assert not run.all_will_be_made(stages - {"recall@smoke-lolm-1", "train@smoke-lolm-1"}, params.selected, "smoke", runs)


def test_a_study_without_its_recall_arms_is_told_so(project):
    params = load_params("params.yaml")
    assert run.chosen(params, "smoke", "main").study.recall == ("lolm", "transformer")
    params = replace(params, studies={params.study: replace(params.selected, recall=None)})
    with pytest.raises(ConfigError, match="studies.main: recall is missing"):
        run.chosen(params, None, None)


def test_the_estimate_is_the_speed_seen_times_the_tokens_to_train(project):
    params = load_params("params.yaml")
    for arm, seconds in (("lolm", 90.0), ("transformer", 30.0)):
        for seed in (1, 2):
            path = Path(f"reports/smoke/runs/{arm}-{seed}/train.json")
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"seconds": seconds, "tokens": 1000}))
    preset = params.scales["smoke"]
    found = estimate(params, "smoke", {"train@smoke-lolm-1", "recall@smoke-transformer-2"})
    with_measurements = sum(training_tokens(preset, name) for name in ("train", "evaluate", "ablate", "recall"))
    assert found.measured
    assert found.stages == 5
    assert found.seconds == pytest.approx(0.09 * with_measurements + 0.03 * training_tokens(preset, "recall", fused=False))
    assert training_tokens(preset, "train") >= preset.training.steps * preset.training.tokens_per_step
    assert Estimate(3 * 3600.0, 4, True).text(1).startswith("expected: about 3.0 hours for 4 stages (from the speed")
    assert "about 20 minutes" in Estimate(2400.0, 4, True).text(2)


@pytest.mark.parametrize(
    ("missing", "asked", "shared"),
    [
        ("everything", 1, True),  # all that can be stale is
        ("shards", 2, True),  # the runs may be stale once they are made
        ("sweeps", 2, False),
        ("training", 1, False),
        ("an evaluation", 1, False),
        ("nothing", 1, False),
    ],
)
def test_dvc_is_asked_and_started_no_more_than_needed(project, monkeypatch, missing, asked, shared):
    params = load_params("params.yaml")
    runs, timed = run.planned_runs(params, "smoke"), timed_stages(params, "smoke")
    answers = {
        "everything": timed | {"plan@smoke-main", "corpus@smoke", "shards@smoke", "report@smoke-main"},
        "shards": {"shards@smoke"},
        "sweeps": {name for name in timed if name.startswith("sweep")},
        "training": {name for name in timed if name.startswith(("train", "recall"))},
        "an evaluation": {"evaluate@smoke-lolm-2"},
        "nothing": set(),
    }
    questions, commands, queues = [], [], []

    def stale_stages(environment):
        questions.append(environment)
        return answers[missing] if len(questions) == 1 else timed

    monkeypatch.setattr(run, "stale_stages", stale_stages)
    monkeypatch.setattr(run, "_foreground", lambda command, environment: commands.append(command[len(run.DVC) :]))
    monkeypatch.setattr(run, "_all", lambda queue, *rest: queues.append([job.name for job in queue]))
    run.reproduce(params, "smoke", runs, 2, {})
    assert len(questions) == asked
    shared_first = [["repro", "plan@smoke-main", "shards@smoke"]] if shared else []
    assert commands == ([*shared_first, ["repro"]] if missing != "nothing" else [])  # DVC has the last word
    sweeps, named = ["sweep lolm", "sweep transformer"], ["lolm 1", "lolm 2", "transformer 1", "transformer 2"]
    assert queues == {
        "training": [[], named],
        "an evaluation": [[], ["lolm 2"]],
        "nothing": [],
    }.get(missing, [sweeps, named])


def test_bytecode_is_kept_where_python_is_told_to_write_none(tmp_path):
    (tmp_path / "module.py").write_text("")
    program = (
        "import sys, subprocess; from pathlib import Path; from pipeline.run import keep_bytecode; keep_bytecode(Path('kept'));"
        "subprocess.run([sys.executable, '-c', 'import module'], check=True)"
    )
    for told, written in (({"PYTHONDONTWRITEBYTECODE": "1"}, ["kept"]), ({}, ["__pycache__"])):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment = clean | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"} | told
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
        found = list(tmp_path.rglob("module.*.pyc"))
        assert [path.relative_to(tmp_path).parts[0] for path in found] == written
        found[0].unlink()


def test_unknown_study_is_named(project):
    status, _, error = call("--study", "mian")
    assert status == 2
    assert "did you mean 'main'" in error


def test_jobs_follow_cores_threads_and_device(monkeypatch):
    monkeypatch.setattr(run, "available_cores", lambda: 8)
    monkeypatch.setattr(run, "has_cuda", lambda: False)
    assert [run.default_jobs(threads, 6) for threads in (1, 2, 16, 0)] == [6, 4, 1, 1]
    monkeypatch.setattr(run, "has_cuda", lambda: True)
    assert run.default_jobs(1, 6) == 1


def test_reason_is_the_last_error_of_the_stage_itself(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("step 1\nerror: loss is NaN\nERROR: failed to reproduce 'train@x'\nbye\n")
    assert jobs.Failure(jobs.Job("a", [], log), 1).reason == "error: loss is NaN"
    log.write_text("step 1\nERROR: failed to reproduce 'train@x'\nbye\n")
    assert jobs.Failure(jobs.Job("a", [], log), 1).reason == "ERROR: failed to reproduce 'train@x'"
