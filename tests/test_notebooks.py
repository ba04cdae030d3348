"""The notebooks are committed without outputs and run on a results folder from top to bottom."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "analysis"))
from synthetic import write_results  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
@pytest.mark.parametrize("arms", [("lolm", "transformer"), ("transformer",)], ids="+".join)
def test_runs_on_results(tmp_path, monkeypatch, arms):
    import nbformat
    from nbclient import NotebookClient

    write_results(tmp_path, arms=arms, seeds=(1, 2))
    monkeypatch.setenv("LOLM_ROOT", str(tmp_path))
    monkeypatch.setenv("LOLM_SCALE", "smoke")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / "01_walk_through_a_run.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    printed = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert f"study main, scale smoke: arms {', '.join(arms)}; seeds 1, 2" in printed
    assert "transformer · smoke · seed 2" in printed
    assert ("lies above" if "lolm" in arms else "not testable at this scale") in printed
