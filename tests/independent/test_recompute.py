"""The independent script finds the numbers of the present code in the committed records, and finds a number that is wrong."""

import json
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest

from lolm.analysis.leaderboard import leaderboard, table
from lolm.claims import merged_ledger, to_records
from lolm.config import load_params
from lolm.records import write_json, write_text
from lolm.records.results import load_results, load_run

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("recompute.py")


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the pages of two studies print, made now: committed pages may be older than the code."""
    folder, params = tmp_path_factory.mktemp("printed"), load_params(ROOT / "params.yaml")
    read_run = cache(load_run)
    results = {study: load_results(ROOT, "tiny", params, study, read_run=read_run) for study in ("main", "field")}
    write_json(folder / "claims.json", to_records(merged_ledger(results, params, "tiny")))
    for study, found in results.items():
        write_text(folder / study / "leaderboard.csv", table(leaderboard(found)))
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Status and output of the script as a command."""

    def script(folder):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return int(ended.value.code), capsys.readouterr().out

    return script


def test_it_agrees_to_the_printed_digit(printed, run):
    status, told = run(printed)
    assert status == 0, told
    assert told.count("same") >= 12


def test_it_would_tell(printed, run, tmp_path):
    claims = json.loads((printed / "claims.json").read_text(encoding="utf-8"))
    next(claim for claim in claims if claim["id"] == "gate_level")["sound"]["value"] += 0.01
    write_json(tmp_path / "claims.json", claims)
    for study in ("main", "field"):
        write_text(tmp_path / study / "leaderboard.csv", (printed / study / "leaderboard.csv").read_text(encoding="utf-8"))
    status, told = run(tmp_path)
    assert status == 1
    assert told.count("DIFFER") == 1


def test_it_imports_nothing_of_the_project():
    assert "lolm" not in [
        line.split()[1].split(".")[0] for line in SCRIPT.read_text().splitlines() if line.startswith(("import", "from"))
    ]
