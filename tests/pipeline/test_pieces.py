"""A stage of many pieces: side by side, a failure that stops no other, kills, and what is not made twice.

The pieces are stand-ins that write a file each.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from builders import three_seeds_of_main

from lolm.accounting.resolve import resolve_run
from lolm.config import load_params
from lolm.records import Layout, read, write
from lolm.records.schema import DataChecksums, Flops, Parameters, Rate, RunHeader, Summary, Sweep, Trial
from pipeline import jobs, progress, runs, sweep
from pipeline.estimate import START, Estimate, earlier_speed, estimate, flops_per_token, pieces_of, training_tokens
from pipeline.stage import Stage

ROOT = Path(__file__).resolve().parents[2]

PIECE = """
import os, sys, time
from pipeline.jobs import end_with_parent
name = sys.argv[1]
end_with_parent()
def log(event):
    with open("events.txt", "a") as file:
        file.write(f"{event} {name} {os.getpid()} {os.environ['OMP_NUM_THREADS']} {os.environ['LOLM_IDENTITY']}\\n")
log("start")
time.sleep(float(os.environ.get("SLEEP", "0")))
if name in os.environ.get("FAIL", "").split(","):
    print("error: stand-in failure")
    sys.exit(2)
open(f"made-{name}", "w").write(name)
log("end")
"""

DRIVER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from lolm.records import Layout
from pipeline import progress, runs, stage
from pipeline.estimate import Estimate
runs.command = lambda name, stage, piece: (sys.executable, "piece.py", str(piece))
progress.estimate = lambda params, pieces: Estimate((60.0,) * len(pieces), True)
progress.arms_of = lambda params, stage: ()
study = SimpleNamespace(name="main", subject="lolm", baseline="transformer", seeds=(1, 2))
training = SimpleNamespace(threads=1, devices=1)
chosen = SimpleNamespace(
    scale="smoke", params=None, study=study, layout=Layout("smoke"), preset=SimpleNamespace(training=training))
pieces = [runs.Piece(arm, seed) for arm in ("lolm", "transformer") for seed in (1, 2)]
why = lambda piece: None if Path(f"made-{piece}").exists() else "no record"
stage.main(lambda: runs._make_all("train", chosen, {piece: why(piece) for piece in pieces}, str))
"""
NAMES = ["lolm-1", "lolm-2", "transformer-1", "transformer-2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "piece.py").write_text(PIECE, encoding="utf-8")
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LOLM_JOBS", "2")
    monkeypatch.delenv("LOLM_FORCE", raising=False)
    monkeypatch.delenv("LOLM_PARENT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drive(**variables):
    return subprocess.run(
        [sys.executable, "driver.py"], env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False
    )


def started_driver(**variables):
    default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a shell's background jobs inherit it ignored
    return subprocess.Popen([sys.executable, "driver.py"], env=os.environ | variables, start_new_session=True, preexec_fn=default)


def events(kind="start"):
    path = Path("events.txt")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line.split() for line in lines if line.startswith(kind)]


def names(kind="start"):
    return [event[1] for event in events(kind)]


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
        time.sleep(0.05)
    return False


def test_pieces_are_made_side_by_side_and_nothing_twice(folder):
    done = drive(SLEEP="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(names()) == NAMES
    lines = [line.split()[0] for line in Path("events.txt").read_text(encoding="utf-8").splitlines()]
    assert lines[:2] == ["start", "start"], "the second begins before the first ends"
    assert {event[3] for event in events()} == {"1"}, "one thread a process"
    assert "train: 4 of 4 to make, 2 at a time; about 2 minutes" in done.stdout
    assert "train: 2 of 4 ended; about a minute or two left\n" in done.stdout, "by what these took"
    assert "train: 4 of 4 ended\n" in done.stdout
    (folder / "made-lolm-2").unlink()
    (folder / "events.txt").unlink()
    assert "1 of 4 to make" in drive().stdout
    assert names() == ["lolm-2"]
    assert "train: all 4 are made" in drive().stdout
    assert names() == ["lolm-2"]
    drive(LOLM_FORCE="1")
    assert len(names()) == 5


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_failure_stops_no_other_and_is_named_at_the_end(folder, workers):
    done = drive(FAIL="lolm-1", LOLM_JOBS=workers)
    assert done.returncode == 2
    assert sorted(names()) == NAMES
    assert [event[4] for event in events()] == names(), "each is told what it is to be made from"
    assert sorted(path.name for path in folder.glob("made-*")) == [f"made-{name}" for name in NAMES[1:]]
    assert "error: train lolm-1 failed with status 2" in done.stderr
    assert "3 of 4 were made; the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr
    if workers == "2":
        assert "failed with status 2: error: stand-in failure" in done.stderr
        assert ".scratch/logs/smoke-train-lolm-1.log" in done.stderr
        assert "[train lolm-1] error: stand-in failure" in done.stdout
        assert "stand-in failure" in Path(".scratch/logs/smoke-train-lolm-1.log").read_text(encoding="utf-8")
    assert drive().returncode == 0
    assert names()[4:] == ["lolm-1"], "the same command makes what is missing and nothing else"


@pytest.mark.system
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, "2"), (signal.SIGTERM, "2"), (signal.SIGTERM, "1"), (signal.SIGKILL, "2")]
)
def test_a_stopped_stage_leaves_no_process_and_goes_on(folder, number, workers):
    child = started_driver(SLEEP="300", LOLM_JOBS=workers)
    assert wait_for(lambda: len(names()) == int(workers))
    processes = [int(event[2]) for event in events()]
    os.kill(child.pid, number)
    assert child.wait(timeout=60) == (-9 if number == signal.SIGKILL else 130)
    assert wait_for(lambda: all(gone(process) for process in processes), 10)
    assert not list(folder.glob("made-*"))
    assert drive().returncode == 0
    assert sorted(names("end")) == NAMES


@pytest.mark.parametrize("after", ["as it was", "edited"])
def test_a_stage_whose_code_was_edited_while_it_ran_does_not_count_as_made(tmp_path, monkeypatch, after):
    """DVC would record the code that it finds at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOLM_JOBS", "1")
    versions = iter(["as it was", after])
    monkeypatch.setattr(runs, "code_of", lambda name: next(versions))
    monkeypatch.setattr(runs, "foreground", lambda command, environment: 0)
    monkeypatch.setattr(progress, "estimate", lambda params, pieces: Estimate((1.0,) * len(pieces), True))
    stage = Stage(load_params(ROOT / "params.yaml").select("smoke", "main"))
    make = lambda: runs._make_all("recall", stage, {runs.Piece("lolm", 1): "no record"}, str)  # noqa: E731
    if after == "as it was":
        make()
        return
    with pytest.raises(runs.StageError, match="recall: its code was edited while it ran"):
        make()


def test_jobs_follow_cores_threads_and_device(monkeypatch):
    monkeypatch.setattr(runs, "available_cores", lambda: 8)
    monkeypatch.setattr(runs, "has_cuda", lambda: False)
    assert [runs.default_jobs(threads) for threads in (1, 2, 16, 0)] == [8, 4, 1, 1]
    monkeypatch.setattr(runs, "has_cuda", lambda: True)
    assert runs.default_jobs(1) == 1


def test_reason_is_the_last_error_of_the_stage_itself(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("step 1\nerror: loss is NaN\nbye\n")
    assert jobs.Failure(jobs.Job("a", [], log), 1).reason == "error: loss is NaN"
    log.write_text("step 1\nbye\n")
    assert jobs.Failure(jobs.Job("a", [], log), 1).reason == "bye"


def test_a_piece_is_a_command_line_of_its_own():
    stage = SimpleNamespace(scale="tiny", study=SimpleNamespace(name="field"))
    words = runs.command("train", stage, runs.Piece("lolm", 2))
    assert words[1:] == ("-m", "pipeline.train", "--scale", "tiny", "--study", "field", "--arm", "lolm", "--seed", "2")
    assert runs.command("sweep", stage, runs.Piece("lolm"))[-2:] == ("--arm", "lolm")


def test_trials_on_record_are_not_made_again_unless_all_is(tmp_path, monkeypatch):
    stage = Stage(load_params(ROOT / "params.yaml").select("smoke", "main"))
    monkeypatch.chdir(tmp_path)
    trials = (Trial(1e-3, 1, 4.0),)
    write(stage.layout.sweep("lolm"), Sweep("lolm", 1e-3, True, 10, (1,), trials, (Rate(1e-3, 4.0),), "of now"))
    for force, found in (("", list(trials)), ("0", list(trials)), ("1", [])):
        monkeypatch.setenv("LOLM_FORCE", force)
        assert sweep._recorded(stage, "lolm", "of now") == found
    monkeypatch.delenv("LOLM_FORCE")
    assert sweep._recorded(stage, "lolm", "of another text") == []


def summary_of(arm, seed, seconds):
    return Summary(arm, seed, 4, 1000, 1.0, seconds, 0.0, 1, 1.0, 1e-3, 1.0, 1.0, 1.0, 1.0, 0.1)


def leave_run(params, arm, seed, seconds, device="cpu", cost=1.0):
    """Records of a run of 1000 tokens; ``cost``: FLOPs a token, over those of now."""
    run, flops = resolve_run(params, params.scale, arm, seed), cost * flops_per_token(params, arm)
    write(
        Layout(params.scale).header(arm, seed),
        RunHeader(
            run.name, arm, "f" * 16, run, Parameters(1, 1, {}), Flops(flops / 3, flops, flops, {}), 0, 0, device, device,
            DataChecksums("", ""), "",
        ),
    )  # fmt: skip
    write(Layout(params.scale).summary(arm, seed), summary_of(arm, seed, seconds))


def test_the_estimate_is_the_speed_seen_times_the_tokens_to_train(tmp_path, monkeypatch):
    params = load_params(ROOT / "params.yaml").select("smoke", "main")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOLM_DEVICE", "cpu")
    assert not estimate(params, [("train", "lolm")]).measured
    for arm, seconds in (("lolm", 90.0), ("transformer", 30.0)):
        for seed in (1, 2):
            leave_run(params, arm, seed, seconds)
    found = estimate(params, [("train", "lolm"), ("recall", "transformer")])
    preset = params.scales["smoke"]
    assert found.measured
    wanted = [0.09 * training_tokens(preset, "train"), 0.03 * training_tokens(preset, "recall", fused=False)]
    assert found.pieces == pytest.approx([START + seconds for seconds in wanted])
    assert training_tokens(preset, "train") >= preset.training.steps * preset.training.tokens_per_step


def test_the_speed_seen_is_that_of_the_sizes_of_now_on_this_device(tmp_path, monkeypatch):
    params = load_params(ROOT / "params.yaml").select("smoke", "main")
    monkeypatch.chdir(tmp_path)
    leave_run(params, "lolm", 1, 90.0)
    leave_run(params, "lolm", 2, 30.0, cost=0.5)  # a size that was changed since
    leave_run(params, "lolm", 3, 1.0, device="cuda")
    monkeypatch.setenv("LOLM_DEVICE", "cpu")
    assert earlier_speed(params, "lolm") == pytest.approx((90 + 30) / (1000 + 500))
    monkeypatch.setenv("LOLM_DEVICE", "cuda")
    assert earlier_speed(params, "lolm") == pytest.approx(1 / 1000)
    leave_run(params, "transformer", 1, 30.0)
    assert earlier_speed(params, "transformer") is None


def test_a_span_of_time_is_said_in_units_a_person_thinks_in():
    assert Estimate((3600.0,) * 3, True).text(1) == "about 3.0 hours (from the speed of earlier runs)"
    assert "about 20 minutes" in Estimate((1200.0, 1200.0), True).text(2)
    assert "about 40 minutes" in Estimate((1200.0,) * 3, True).text(2), "the third waits for a place"
    assert "roughly, from FLOPs" in Estimate((10 * 86400.0,), False).text(1)
    assert "10 days" in Estimate((10 * 86400.0,), False).text(1)
    assert "267 years" in Estimate((2337362.8 * 3600,), False).text(1)


@pytest.fixture
def under_way(tmp_path, monkeypatch):
    """Six runs of a study, two at a time, on a clock of the test's own; the page is a stand-in that appends to a file."""
    params = three_seeds_of_main()
    monkeypatch.chdir(tmp_path)
    clock = SimpleNamespace(now=1000.0, error="")
    for name in ("monotonic", "time"):
        monkeypatch.setattr(progress.time, name, lambda: clock.now)
    page = Layout("smoke").study("main") / "report.html"
    page.parent.mkdir(parents=True)
    code = "import os, sys; _, page, now, error = sys.argv; open(page, 'a').write('+'); os.utime(page, (float(now),) * 2)"
    code += "; sys.exit(error or 0)"
    command = lambda scale, study: [sys.executable, "-c", code, str(page), str(clock.now), clock.error]  # noqa: E731
    monkeypatch.setattr(progress, "page_command", command)
    arms = ["lolm"] * 3 + ["transformer"] * 3
    monkeypatch.setattr(progress, "estimate", lambda params, pieces: Estimate(tuple(100.0 for _ in pieces), True))
    return progress.Progress("train", Stage(params), arms, 2), clock


def test_time_left_is_corrected_by_what_the_pieces_took(under_way, capsys):
    """Expected are 100 s a piece, so 300 s for three pairs; here they take 150 s, and what follows will too."""
    course, clock = under_way
    rest = sum(stage not in ("sweep", "train") for stage, _ in pieces_of(course.stage.params))
    said = []
    for place, now in enumerate((150, 152, 300, 302, 450, 452)):
        clock.now = 1000.0 + now
        course.piece_ended(place)
        said.append(capsys.readouterr().out)
    whole = 450 + 150 * rest / 2
    for now, line in zip((150, 152, 300, 302, 450), said, strict=False):
        here, more = (float(n) for n in re.findall(r"(\d+)(?: minutes)? (?:left|with)", line.replace("a minute or two", "1")))
        assert 60 * more == pytest.approx(whole - now, rel=0.05)
        assert 60 * here == pytest.approx(450 - now, abs=60)
    assert said[-1].startswith("train: 6 of 6 ended; ")


def test_pieces_may_end_in_another_order_than_they_are_begun(under_way, capsys):
    """As tasks of a cluster do: the pace is that of the pieces whose beginning is known; each piece is left, or ended, once."""
    course, clock = under_way
    left = []
    for place, now in ((4, 50), (1, 150), (5, 160), (0, 170), (3, 300), (2, 320)):
        clock.now = 1000.0 + now
        course.piece_ended(place)
        left.append(sorted([*course.begun, *course.waiting]))
    assert left == [[0, 1, 2, 3, 5], [0, 2, 3, 5], [0, 2, 3], [2, 3], [2], []]
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(" ended")[0] for line in said] == [f"train: {n} of 6" for n in range(1, 7)]
    assert dict(course.took) == {"lolm": pytest.approx([1.5, 1.7, 1.7]), "transformer": pytest.approx([1.3])}


def said_and_needed(params, keys, took, monkeypatch):
    """At each end of a run but the last, two at a time: whether one of every arm has ended, the seconds that are said to be left,
    and those that then were needed. What is expected comes from FLOPs, as if nothing had been run here."""
    now, said, found, places, ended = [0.0], [], [], [0.0, 0.0], []
    monkeypatch.setattr("pipeline.estimate.earlier_speed", lambda params, arm: None)
    monkeypatch.setattr("pipeline.estimate.matmul_speed", lambda: 4e10)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(progress, "duration", lambda seconds: said.append(seconds) or "")
    monkeypatch.setattr(progress.Progress, "_page_due", lambda course: False)
    course = progress.Progress("train", Stage(params), [key.arm for key in keys], 2)
    for place, seconds in enumerate(took):
        places = sorted(places)
        places[0] += seconds
        ended.append((places[0], place))
    unseen = {key.arm for key in keys}
    for now[0], place in sorted(ended)[:-1]:
        said.clear()
        course.piece_ended(place)
        unseen.discard(keys[place].arm)
        found.append((not unseen, said[0], max(places) - now[0]))
    assert len(found) == len(keys) - 1
    return found


def recorded(study, monkeypatch):
    """Parameters, runs in the order of training, and seconds of each, of a study whose records are committed."""
    monkeypatch.chdir(ROOT)
    params = load_params().select("tiny", study)
    keys = [key for key in runs._seed_by_seed(Stage(params), params.selected.arms) if Layout("tiny").summary(*key).exists()]
    summaries = [read(Layout("tiny").summary(*key), Summary) for key in keys]
    return params, keys, [START + summary.seconds + summary.annealing_seconds for summary in summaries]


STEADY = ("main", "published", "cpc", "regime", "parts", "gates")  # studies whose recorded runs of an arm took about the same
UNSTEADY = ("field", "hybrids", "inversion", "gate", "isolation", "ladder")


@pytest.mark.parametrize("study", STEADY + UNSTEADY)
def test_time_left_holds_from_the_first_run_on(study, monkeypatch):
    """On a machine that is as fast all the time: each run takes what its arm's fastest did."""
    params, keys, took = recorded(study, monkeypatch)
    fastest = {key.arm: min(t for other, t in zip(keys, took, strict=True) if other.arm == key.arm) for key in keys}
    for _, said, needed in said_and_needed(params, keys, [fastest[key.arm] for key in keys], monkeypatch):
        assert said == pytest.approx(needed, rel=0.25, abs=60)


@pytest.mark.parametrize("study", STEADY)
def test_time_left_holds_on_recorded_times(study, monkeypatch):
    for seen, said, needed in said_and_needed(*recorded(study, monkeypatch), monkeypatch):
        assert not seen or said == pytest.approx(needed, rel=0.25, abs=60)


def test_runs_are_begun_seed_by_seed_with_the_slow_arms_first():
    params = load_params(ROOT / "params.yaml").select("tiny", "main")
    keys = runs._seed_by_seed(Stage(params), ("transformer", "lolm"))
    assert [str(key) for key in keys[:4]] == ["lolm-1", "transformer-1", "lolm-2", "transformer-2"]


def test_the_page_is_made_from_the_first_pair_on_and_as_runs_come_in(under_way, capsys):
    course, clock = under_way
    page = Layout("smoke").study("main") / "report.html"
    for place, ((arm, seed), seconds, wanted) in enumerate(
        [
            (("lolm", 1), 150, 0),
            (("transformer", 2), 0, 0),
            (("transformer", 1), 150, 1),
            (("lolm", 2), 10, 1),
            (("lolm", 3), 150, 2),
        ]
    ):
        clock.now += seconds
        write(Layout("smoke").summary(arm, seed), summary_of(arm, seed, 30.0))
        clock.error = "records are broken" if arm == "lolm" and seed == 3 else ""
        course.piece_ended(place)
        made = len(page.read_text(encoding="utf-8")) if page.exists() else 0
        assert made == wanted, "none without a pair, none soon after another"
    said = capsys.readouterr()
    assert said.out.count(f"the page so far: {page}") == 1
    assert said.err == f"warning: {page} could not be made yet, and the runs go on: records are broken\n"
    clock.now += 150
    course.piece_ended(5)
    assert len(page.read_text(encoding="utf-8")) == 2, "the stage of that name makes the last one"


@pytest.mark.parametrize("name", ["sweep", "train", "evaluate", "ablate", "layers", "recall"])
def test_a_stage_without_pieces_leaves_the_folders_that_dvc_asks_for(name, tmp_path, monkeypatch):
    """A study of LOLM's arms alone has no layers to remove, and every run of one may have diverged."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    outputs = [out if isinstance(out, str) else next(iter(out)) for out in stages[name]["outs"]]
    monkeypatch.chdir(tmp_path)
    runs._make_all(name, Stage(load_params(ROOT / "params.yaml").select("smoke", "gate")), {}, lambda piece: "")
    assert all(Path(out.replace("${item.scale}", "smoke")).is_dir() for out in outputs)


def test_the_pieces_of_a_study_are_its_runs_and_its_recall_arms():
    params = load_params(ROOT / "params.yaml").select("smoke", "inversion")
    pieces, study = pieces_of(params), params.selected
    assert sum(stage == "train" for stage, _ in pieces) == len(study.arms) * len(study.seeds)
    assert [arm for stage, arm in pieces if stage == "recall"] == ["lolm"] * len(study.seeds)
    assert resolve_run(params, "smoke", pieces[0][1], 1).arm == pieces[0][1]
