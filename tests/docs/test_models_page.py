"""The examples of docs/models.md and of the Python API's own text, carried out on a small project."""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest
from synthetic import write_results, write_weights

import lolm
import lolm.api
from pipeline import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"(?ms)^<!-- example -->\n```(\w+)\n(.*?)^```", PAGE)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The user's folder, at another scale."""
    write_results(tmp_path, arms=("lolm",), seeds=(1,))
    write_weights(tmp_path, "lolm", 1)
    for name in ("README.md", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)


def here(code):
    return code.replace("artifacts/tiny/", "artifacts/smoke/")


def test_every_block_is_an_example():
    assert len(EXAMPLES) == len(re.findall(r"(?m)^```\w+", PAGE)) == 5


def test_python(project, capsys):
    known = {}
    for number, (_, code) in enumerate(code for code in EXAMPLES if code[0] == "python"):
        exec(compile(here(code), f"models.md: example {number}", "exec"), known)
    out = capsys.readouterr().out.splitlines()
    assert float(out[-2].split()[0]) == known["found"].learned.bits_per_byte != known["found"].changed.bits_per_byte
    assert out[-1].startswith(f"{known['prompt'].shape[1] + 1} tensor(")
    assert known["again"].length == known["prompt"].shape[1]


def test_commands(project, capsys, monkeypatch):
    (commands,) = (code for kind, code in EXAMPLES if kind == "console")
    for line in here(commands).splitlines():
        monkeypatch.setattr("sys.argv", shlex.split(line))
        cli.lolm()
        assert capsys.readouterr().out
    named = set(re.findall(r"(?m)^lolm (\w+)|`lolm (\w+)`", PAGE))
    assert {a or b for a, b in named} == set(cli.COMMANDS)


def test_the_interface_s_own_text(project):
    source = here(lolm.api.__doc__)
    test = doctest.DocTestParser().get_doctest(source, {"lolm": lolm}, "lolm.api", None, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
