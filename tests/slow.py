"""Which tests `make check` leaves to `make test`: those that took long, `tests/slow.txt`, from a report of pytest.

make test ARGS=--junitxml=.scratch/tests.xml && python tests/slow.py .scratch/tests.xml
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).with_suffix(".txt")
SECONDS = 0.3  # of all cases of a test together, from which on it is slow


def function_of(node: str) -> str:
    """``tests/ops/test_scan.py::test_x[case]`` without its case."""
    return node.partition("[")[0]


def slow_tests(report: Path) -> list[str]:
    """Tests of a JUnit report whose cases together took long, in the order of their names."""
    seconds: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(report).iter("testcase"):
        node = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"
        seconds[function_of(node)] += float(case.attrib["time"])
    return sorted(name for name, spent in seconds.items() if spent >= SECONDS)


if __name__ == "__main__":
    LIST.write_text("\n".join(slow_tests(Path(sys.argv[1]))) + "\n", encoding="utf-8")
