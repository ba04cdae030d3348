"""The notebooks are committed with their outputs, which running them again gives; and they take what a reader chooses."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path

import forks
import pytest
from IPython.display import HTML
from synthetic import write_results

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
AGAIN = "`make notebooks` executes them again"


def code_cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def outputs_of(cell):
    """What a cell leaves; what it prints is one output, though a kernel that is slow sends it in several."""
    found = []
    for output in cell["outputs"]:
        if found and output["output_type"] == "stream" and found[-1].get("name") == output["name"]:
            found[-1] = found[-1] | {"text": "".join(found[-1]["text"]) + "".join(output["text"])}
        else:
            found.append(dict(output))
    return found


def kinds(cells):
    """What each cell leaves: for each output its kind, or the kinds of content it comes in."""
    return [[sorted(output["data"]) if "data" in output else output["name"] for output in outputs_of(cell)] for cell in cells]


def texts(cells):
    outputs = [output for cell in cells for output in outputs_of(cell)]
    return ["".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", "")) for output in outputs]


def test_print_in_several_messages_is_one_output():
    lines = [{"output_type": "stream", "name": "stdout", "text": [part]} for part in ("a", "b\n")]
    cells = [{"outputs": [*lines, {"output_type": "stream", "name": "stderr", "text": "c"}]}]
    assert (kinds(cells), texts(cells)) == ([["stdout", "stderr"]], ["ab\n", "c"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_whole_with_outputs(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), AGAIN
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} <= {"stream", "display_data", "execute_result"}
    assert "stderr" not in sum(kinds(cells), []), "a warning"
    assert sum("image/png" in kind for kind in sum(kinds(cells), [])), "a figure"
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|Users)/", "".join(texts(cells))), "a path of a machine"
    assert path.stat().st_size < 500_000


def test_the_project_is_found_by_the_same_line_wherever_they_are_executed():
    lines = re.findall(r"os\.chdir\(.*", "\n".join("".join(cell["source"]) for path in NOTEBOOKS for cell in code_cells(path)))
    assert len(lines) == len(NOTEBOOKS) - 1, "the first one is told, or looks, where the results are"
    assert len(set(lines)) == 1


SMALLER = {r"(?m)^steps = \d+": "steps = 8", r"(?m)^windows = \d+": "windows = 24", r"(?<=validation, )8192": "1024"}

# Both see as they are imported that they are in a kernel, and forks have them imported already.
AS_IMPORTED_IN_A_KERNEL = (
    "--matplotlib=inline",
    "--IPKernelApp.exec_lines=__import__('pandas').set_option('display.max_columns', 20)",
)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_executed_again_they_give_what_is_committed(path, monkeypatch):
    """The same kinds of output in each cell, and the same text where nothing is computed but from records; from
    the notebooks' folder and, every second, from the project's root."""
    import nbformat
    from jupyter_client import KernelManager
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    folder = ROOT if NOTEBOOKS.index(path) % 2 else path.parent
    for cell in notebook.cells:
        for large, small in SMALLER.items():
            cell.source = re.sub(large, small, cell.source)
    kernel = KernelManager(kernel_name="python3")
    kernel.kernel_spec.argv = [forks.interpreter(), *kernel.kernel_spec.argv[1:], *AS_IMPORTED_IN_A_KERNEL]
    try:
        NotebookClient(notebook, km=kernel, timeout=600, resources={"metadata": {"path": folder}}).execute()
    finally:
        kernel.shutdown_kernel(now=True)
    executed = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert kinds(executed) == kinds(code_cells(path)), AGAIN
    if path.stem.startswith("01"):
        assert texts(executed) == texts(code_cells(path)), AGAIN


def execute(name, monkeypatch, **edits):
    """What a notebook prints and shows, and its HTML, executed in this process; ``edits`` set variables of its first cells."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(ROOT / "notebooks")
    shown, printed = [], io.StringIO()
    known = {"display": lambda *values: shown.extend(values)}
    for cell in code_cells(next(path for path in NOTEBOOKS if path.stem == name)):
        source = "".join(cell["source"])
        for key in [key for key in edits if re.search(rf"(?m)^{key} = ", source)]:
            source = re.sub(rf"(?ms)^{key} = (\(\n.*?^\)|.*?$)", lambda _, key=key: f"{key} = {edits.pop(key)!r}", source)
        tree = ast.parse(source)
        if isinstance(last := tree.body[-1], ast.Expr) and not source.endswith(";"):
            last.value = ast.Call(ast.Name("display", ast.Load()), [last.value], [])
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.fix_missing_locations(tree), name, "exec"), known)
    assert not edits
    plt.close("all")
    page = "".join(value.data for value in shown if isinstance(value, HTML))
    return printed.getvalue() + "\n".join(str(value) for value in shown), page


@pytest.mark.slow
@pytest.mark.parametrize("arms", [("lolm", "transformer"), ("transformer",)], ids="+".join)
def test_walk_through_other_results(tmp_path, monkeypatch, arms):
    write_results(tmp_path, arms=arms, seeds=(1, 2))
    monkeypatch.setenv("LOLM_ROOT", str(tmp_path))
    monkeypatch.setenv("LOLM_SCALE", "smoke")
    printed, _ = execute("01_walk_through_a_run", monkeypatch)
    assert f"study main, scale smoke: arms {', '.join(arms)}; seeds 1, 2" in printed
    assert "transformer · smoke · seed 2" in printed
    assert ("lies above" in printed) == ("LOLM reaches" in printed) == ("lolm" in arms)  # without LOLM no claim about it
    assert "lolm" in arms or "loss below that of a bigram model" in printed


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lolm-tiny", "transformer-modern-tiny"])
def test_laboratory_takes_another_model_text_and_intervention(monkeypatch, model):
    gated = model.startswith("lolm")
    chosen = {"model": f"models/{model}", "text": "a < b", "prompt": "<i>", "intervention": "gate=0"}
    printed, page = execute("02_open_the_laboratory", monkeypatch, **chosen)
    assert re.search(r"\d tokens, \d\.\d{3} nats a token", printed)
    assert page.count("<h4>Gate</h4>") == (4 if gated else 0)
    assert ("under gate=0" in page) == gated
    assert ("removed by" in printed) == gated
    assert "&lt;" in page
    assert "<i>" not in page
