"""How errors of a stage reach its user: one line for what a user can mend, a traceback for a bug."""

import argparse
import errno
import io
import os
import re
import sys

import pytest
import torch
from builders import ROOT

from lolm.config import ConfigError
from lolm.config.ranges import Count, Port, PositiveShare
from pipeline import accept, environment, gpu, plan, report, run, status, ui
from pipeline.jobs import Job, side_by_side
from pipeline.runs import per_arm, per_run
from pipeline.stage import arguments, main, option


def raised(error):
    def stage():
        raise error

    return stage


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.\nmore"),
        RuntimeError("could not create a primitive"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
    ids=["python", "pytorch", "matrices", "cuda"],
)
def test_a_lack_of_memory_is_one_line(capsys, error):
    with pytest.raises(SystemExit) as ended:
        main(raised(error))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: out of memory (")
    assert "`make plan` says what a step needs" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EACCES, "let this user read and write there"),
        (errno.ENOSPC, "see to the disk"),
        (errno.EMFILE, "`ulimit -n`"),
        (errno.EFBIG, "`ulimit -f`"),
        (errno.EISDIR, "a file is wanted: name one, or move away the folder"),
        (errno.ENOENT, "put it there"),
        (errno.ELOOP, "mend that"),
    ],
)
def test_what_the_system_says_of_a_file_comes_with_a_cure(capsys, number, cure):
    with pytest.raises(SystemExit) as ended:
        main(raised(OSError(number, os.strerror(number), "artifacts/a")))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"error: artifacts/a: {os.strerror(number)}; ")
    assert cure in said
    assert said.count("\n") == 1


def test_any_other_runtime_error_is_a_bug():
    with pytest.raises(RuntimeError, match="shapes"):
        main(raised(RuntimeError("shapes do not fit")))


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("LOLM_JOBS", "two", "expected int, got str 'two'"),
        ("LOLM_JOBS", "0", "must be at least 1"),
        ("LOLM_JOBS", "-1", "must be at least 1"),
        ("LOLM_JOBS", "1.5", "expected int, got float 1.5"),
        ("LOLM_JOBS", "9" * 5000, "expected int"),
        ("LOLM_LAUNCHER", "slrum", "'slrum' is not one of 'local', 'slurm'; did you mean 'slurm'?"),
        ("LOLM_FORCE", "yes", "'yes' is not one of 0, 1"),
        ("LOLM_DEVICE", "gpu", "'gpu' is not one of 'cpu', 'cuda'"),
        ("LOLM_PARENT", "me", "expected int, got str 'me'"),
        ("MASTER_PORT", "70000", "must be at least 1 and at most 65,535"),
    ],
)
def test_a_variable_that_cannot_be_used_is_one_line_before_anything_runs(capsys, monkeypatch, variable, value, says):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        main(lambda: pytest.fail("it ran"))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"error: {variable}: ")
    assert says in said
    assert said.count("\n") == 1


def test_several_variables_that_cannot_be_used_are_one_report(capsys, monkeypatch):
    monkeypatch.setenv("LOLM_JOBS", "two")
    monkeypatch.setenv("LOLM_FORCE", "yes")
    with pytest.raises(SystemExit):
        main(lambda: pytest.fail("it ran"))
    first, *more = capsys.readouterr().err.splitlines()
    assert first == "error: 2 mistakes"
    assert [line.partition(":")[0] for line in more] == ["  LOLM_FORCE", "  LOLM_JOBS"]


def test_variables_say_what_they_are_set_to_and_nothing_where_they_are_empty(monkeypatch):
    for variable, text, value in (
        ("LOLM_ALONE", "0", 0),
        ("LOLM_JOBS", "3", 3),
        ("LOLM_LAUNCHER", "slurm", "slurm"),
        ("LOLM_FORCE", "0", 0),
    ):
        monkeypatch.setenv(variable, text)
        assert environment.said(variable) == value
        monkeypatch.setenv(variable, "")
        assert environment.said(variable) is None


@pytest.mark.parametrize(
    ("parse", "option", "values"),
    [
        (run._arguments, "--jobs", ("0", "-1", "nan", "inf", "1e308", "", "two")),
        (run._arguments, "--launcher", ("slrum", "")),
        (lambda: arguments("", more=plan.OPTIONS), "--devices", ("0", "-1", "nan", "inf", "1e308", "", "9" * 5000)),
        (lambda: arguments("", more=plan.OPTIONS), "--utilisation", ("0", "-1", "nan", "inf", "1e308", "", "2", "1.01")),
        (lambda: arguments("", seed=True), "--seed", ("-1", "nan", "inf", "", "4294967296", "x")),
        (gpu.arguments, "--jobs", ("0", "-1", "nan", "")),
        (gpu.arguments, "--seeds", ("-1", "nan", "", "4294967296")),
        (gpu.arguments, "--seconds", ("-1", "nan", "inf", "1e308", "")),
        (ui.ui, "--port", ("99999", "-1", "0", "nan", "", "65536")),
        (ui.ui, "--host", ("", " ")),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(capsys, monkeypatch, parse, option, values):
    for value in values:
        monkeypatch.setattr(sys, "argv", ["stage", option, value])
        with pytest.raises(SystemExit) as ended:
            parse()
        assert ended.value.code == 2, value
        assert f"error: argument {option}: " in capsys.readouterr().err, value


@pytest.mark.parametrize(("kind", "text", "value"), [(Count, "3", 3), (PositiveShare, "1", 1.0), (Port, "5000", 5000)])
def test_an_option_in_its_range_is_taken(kind, text, value):
    parser = argparse.ArgumentParser()
    parser.add_argument("--x", type=option(kind))
    found = parser.parse_args(["--x", text]).x
    assert (found, type(found)) == (value, type(value))


def test_jobs_without_a_worker_do_not_wait_forever(tmp_path):
    with pytest.raises(ValueError, match="at least one worker"):
        side_by_side([Job("a", ("true",), tmp_path / "log")], 0, {})


def test_a_terminal_of_few_characters_shows_the_others_by_their_codes(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    main(lambda: print("a Ω", end="", flush=True))
    assert terminal.buffer.getvalue() == b"a \\u03a9"


def test_half_a_choice_is_refused_and_a_scale_without_pages_is_said(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["accept", "--scale", "tiny"])
    with pytest.raises(SystemExit) as ended:
        accept.accept()
    assert ended.value.code == 2
    assert "--scale and --study go together" in capsys.readouterr().err
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(report, "reported_studies", lambda params, scale: [])
    monkeypatch.setattr(sys, "argv", ["report", "--scale", "1570m"])
    report.report()
    assert capsys.readouterr().out == "report: no study has a page at scale 1570m; --study makes one\n"


def of_runs():
    per_run("export", None, pytest.fail, pytest.fail, pytest.fail)


def of_arms():
    per_arm("sweep", None, pytest.fail, pytest.fail, pytest.fail)


@pytest.mark.parametrize("command", [plan.plan, status.status, report.report, ui.ui, of_runs, of_arms], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("study", "advice"),
    [
        ("context", "study 'context' is made for 'context' alone; choose both"),
        (
            "budgets_small",
            "is made for 'budget_nano' or 'budget_micro' alone; choose both, or `make budgets` makes",
        ),
    ],
)
def test_a_study_that_is_made_for_another_scale_is_refused(monkeypatch, command, study, advice):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["stage", "--scale", "tiny", "--study", study])
    with pytest.raises(ConfigError, match=f"scale: 'tiny', but .*{re.escape(advice)}"):
        command()
