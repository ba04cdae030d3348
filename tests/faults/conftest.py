"""One forge and one study for all faults, and the table of what was tried."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))  # for projects.py

from processes import HEAVY, Forge, compiled_shim
from projects import ROOT
from study import Study

ROWS = ROOT / ".scratch/faults"  # of `make faults`, from where table.py takes them


class Table:
    """What was tried: rows of (fault, where, times tried, survived, a message)."""

    def __init__(self) -> None:
        self.tried: Counter[tuple[str, str]] = Counter()
        self.lost: Counter[tuple[str, str]] = Counter()
        self.said: dict[tuple[str, str], str] = {}

    def add(self, fault: str, where: str, said: str = "", wrong: list[str] | None = None) -> None:
        key = (fault, where)
        self.tried[key] += 1
        self.lost[key] += bool(wrong)
        lines = [line for line in said.splitlines() if line.startswith(("error:", "warning:")) or "as a kill leaves it" in line]
        if lines:
            self.said.setdefault(key, lines[0])

    def rows(self) -> list[list[str | int]]:
        return [[*key, n, n - self.lost[key], self.said.get(key, "")] for key, n in self.tried.items()]


@pytest.fixture(scope="session")
def table(worker_id) -> Iterator[Table]:
    rows = Table()
    yield rows
    if "LOLM_FAULTS" in os.environ:
        ROWS.mkdir(parents=True, exist_ok=True)
        (ROWS / f"{worker_id}-{os.getpid()}.json").write_text(json.dumps(rows.rows()), encoding="utf-8")


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Path:
    library = compiled_shim(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("no C compiler here, or no Linux: writes cannot be struck")
    return library


@pytest.fixture(scope="session")
def forge(shim, tmp_path_factory) -> Iterator[Forge]:
    """Makes processes of stages; what it imports first is what most of a stage's time goes into."""
    made = Forge(shim, tmp_path_factory.mktemp("forge"), *HEAVY)
    yield made
    made.close()


@pytest.fixture(scope="session")
def study(forge, tmp_path_factory) -> Study:
    return Study(tmp_path_factory.mktemp("study") / "one", forge)


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    """Where a try's project goes; emptied after each test, as there are hundreds."""
    yield tmp_path / "try"
    shutil.rmtree(tmp_path / "try", ignore_errors=True)
