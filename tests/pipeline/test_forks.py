"""Forks that stand for `python -m pipeline.<stage>` in tests end, print and are stopped as such a process is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import forks
import pytest
from projects import environment, python
from test_pieces import gone, wait_for

pytestmark = pytest.mark.slow  # the server of forks is

STAGE = """
import atexit, os, sys
atexit.register(print, "at exit")
print(os.getcwd(), os.environ.get("SAID"), sys.argv[1:], "torch" in sys.modules, flush=True)
if sys.argv[1] == "wait":
    open("process", "w").write(str(os.getpid()))
    import time
    time.sleep(300)
if sys.argv[1] == "signal":
    os.kill(os.getpid(), 9)
sys.exit({"number": 3, "text": "error: why", "nothing": None}[sys.argv[1]])
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    (tmp_path / "pipeline" / "own.py").write_text(STAGE, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("how", "status"), [("number", 3), ("text", 1), ("nothing", 0), ("signal", -9)])
def test_it_ends_as_a_process_of_its_own_would(project, how, status):
    said = [
        subprocess.run(
            [interpreter, "-m", "pipeline.own", how], cwd=project, env=environment(project, interpreter, SAID="this"),
            capture_output=True, text=True, check=False,
        )
        for interpreter in (forks.interpreter(), sys.executable)
    ]  # fmt: skip
    assert [done.returncode for done in said] == [status, status]
    assert said[0].stdout == said[1].stdout.replace("False", "True"), "the project's own code, behind libraries that are there"
    assert said[0].stderr == said[1].stderr


def test_what_imports_something_else_first_is_no_fork(project, tmp_path):
    (tmp_path / "first").mkdir()
    first = str(tmp_path / "first")
    assert "True" in python(project, "-m", "pipeline.own", "nothing", PYTHONPATH=first)
    (tmp_path / "first" / "sitecustomize.py").touch()
    assert "False" in python(project, "-m", "pipeline.own", "nothing", PYTHONPATH=first)


def test_its_code_may_lie_in_another_folder(project):
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    assert str(elsewhere) in python(elsewhere, "-m", "pipeline.own", "nothing", PYTHONPATH=str(project))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_the_process_that_stands_for_it(project, number):
    words = [forks.interpreter(), "-m", "pipeline.own", "wait"]
    standing = subprocess.Popen(words, cwd=project, env=environment(project, words[0]), start_new_session=True)
    assert wait_for(lambda: (project / "process").exists() and (project / "process").read_text())
    os.killpg(standing.pid, number)
    standing.wait(timeout=20)
    assert wait_for(lambda: gone(int((project / "process").read_text())), 20)
