"""The notebooks are committed without outputs and run on a results folder from top to bottom."""

import json
import re
from pathlib import Path

import pytest
from synthetic import write_results, write_weights

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


def execute(name, root, monkeypatch, **edits):
    """Outputs of a notebook on a results folder, as (all that is printed, all HTML); ``edits`` set variables of its cells."""
    import nbformat
    from nbclient import NotebookClient

    settings = {"LOLM_ROOT": str(root), "LOLM_SCALE": "smoke", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for key, value in edits.items():
        edited = [
            re.subn(rf"(?m)^{key} = .*$", lambda _, key=key, value=value: f"{key} = {value}", c.source) for c in notebook.cells
        ]
        assert sum(count for _, count in edited) == 1, key
        for cell, (source, _) in zip(notebook.cells, edited, strict=True):
            cell.source = source
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    return printed, "".join(output.get("data", {}).get("text/html", "") for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("arms", [("lolm", "transformer"), ("transformer",)], ids="+".join)
def test_runs_on_results(tmp_path, monkeypatch, arms):
    write_results(tmp_path, arms=arms, seeds=(1, 2))
    printed, _ = execute("01_walk_through_a_run", tmp_path, monkeypatch)
    assert f"study main, scale smoke: arms {', '.join(arms)}; seeds 1, 2" in printed
    assert "transformer · smoke · seed 2" in printed
    assert ("lies above" in printed) == ("LOLM reaches" in printed) == ("lolm" in arms)  # without LOLM no claim about it
    assert "lolm" in arms or "loss below that of a bigram model" in printed


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "intervention"), [("lolm", "latent_mean"), ("transformer", "skip_last_blocks=1")])
def test_laboratory_runs_on_weights(tmp_path, monkeypatch, arm, intervention):
    write_results(tmp_path, arms=(arm,), seeds=(1,))
    write_weights(tmp_path, arm, 1)
    printed, page = execute("02_open_the_laboratory", tmp_path, monkeypatch)
    assert f"{arm} · smoke · seed 1, step" in printed
    assert re.search(rf"{intervention} on \d+ tokens of set/", printed)
    assert page.count("<h4>") == (4 if arm == "lolm" else 3)
    assert ("mean, norm matched" in printed) == (arm == "lolm")
    assert bool(re.search(r"largest of \d+ random halves", printed)) == (arm == "lolm")
    assert ("function_word_start" in printed) == (arm == "lolm")


@pytest.mark.slow
def test_laboratory_takes_what_the_reader_chooses(tmp_path, monkeypatch):
    write_results(tmp_path, arms=("lolm",), seeds=(1,))
    write_weights(tmp_path, "lolm", 1)
    chosen = {"intervention": 'swap_gate() | replace_branch("surface", "resample") | match_norm()', "text": '"a < b"'}
    printed, page = execute("02_open_the_laboratory", tmp_path, monkeypatch, **chosen)
    assert "gate_swapped+surface_resample+match_norm on" in printed
    assert "of your text" in printed
    assert page.count("<h4>") == 6  # the gate, too, is another
    assert "&lt;" in page
