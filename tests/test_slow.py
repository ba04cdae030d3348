"""The list of slow tests is made of what a report says, and names tests that exist."""

import re
from pathlib import Path

import slow

REPORT = """<testsuites><testsuite>
<testcase classname="tests.ops.test_a" name="test_x[one]" time="0.15" />
<testcase classname="tests.ops.test_a" name="test_x[two]" time="0.15" />
<testcase classname="tests.ops.test_a" name="test_y" time="0.19" />
</testsuite></testsuites>"""


def test_all_cases_of_a_test_count(tmp_path):
    (tmp_path / "tests.xml").write_text(REPORT, encoding="utf-8")
    assert slow.slow_tests(tmp_path / "tests.xml") == ["tests/ops/test_a.py::test_x"]
    (tmp_path / "others.xml").write_text(REPORT.replace("0.19", "0.2").replace("0.15", "0"), encoding="utf-8")
    both = slow.slow_tests(tmp_path / "others.xml", tmp_path / "tests.xml")
    assert both == ["tests/ops/test_a.py::test_x", "tests/ops/test_a.py::test_y"]


def test_those_that_are_listed_exist():
    root, texts = Path(__file__).resolve().parents[1], {}
    for name in slow.LIST.read_text(encoding="utf-8").split():
        path, _, function = name.partition("::")
        texts.setdefault(path, (root / path).read_text(encoding="utf-8"))
        assert re.search(rf"^def {function}\(", texts[path], re.M), f"{name}: python tests/slow.py makes the list anew"
