"""No code from data: what could run it does not stand in the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for name in ("lolm", "pipeline", "benchmarks") for path in (ROOT / name).rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.unsafe_load",
         "yaml.full_load", "pd.read_pickle", "pandas.read_pickle", "commands.getoutput"}  # fmt: skip


ALLOWED = {
    "pipeline/cluster.py": "imports pickle",  # of submitit
    "pipeline/export.py": "from_pretrained(folder, trust_remote_code=True)",  # this project's own code, which it has just written
}


def unsafe(source: str) -> list[str]:
    """The lines that could run what a file, a name or a variable says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in MODULES]
        if isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
            wrong = called in CALLS
            wrong |= given.get("shell", "False") != "False"
            wrong |= called in ("torch.load", "torch.jit.load") and given.get("weights_only") != "True"
            wrong |= called in ("yaml.load", "yaml.load_all") and "SafeLoader" not in given.get("Loader", "")
            wrong |= given.get("allow_pickle", "False") != "False" or given.get("trust_remote_code", "False") != "False"
            wrong |= called.endswith((".extractall", ".extract")) and given.get("filter") != "'data'"
            wrong |= called.endswith("Environment") and "jinja2" in source and "autoescape" not in given
            found += [f"{node.lineno}: {ast.unparse(node)[:100]}"] if wrong else []
    return found


@pytest.mark.parametrize("package", ["lolm", "pipeline", "benchmarks"])
def test_nothing_in_the_source_runs_what_data_says(package):
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == package]
    assert files
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in unsafe(path.read_text(encoding="utf-8"))]
    found = [line for line in found if not any(line.startswith(f) and line.endswith(words) for f, words in ALLOWED.items())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from pickle import loads", "torch.load(path)", "torch.load(path, weights_only=False)", "eval(text)"),
        *("yaml.load(text, Loader=yaml.Loader)", "yaml.load(text)", "subprocess.run(words, shell=True)", "os.system(text)"),
        *(
            "np.load(path, allow_pickle=True)",
            "archive.extractall(folder)",
            "AutoModel.from_pretrained(n, trust_remote_code=True)",
        ),
    ],
)
def test_what_would_run_it_is_found(line):
    assert unsafe(line)


def test_what_is_safe_is_left_alone():
    assert not unsafe("torch.load(p, weights_only=True); yaml.load(t, Loader=yaml.SafeLoader); subprocess.run(['ls'])")
