"""Which tests `make check` leaves to `make test`: those that took long, `tests/slow.txt`, from reports of pytest.

make test-all ARGS=--junitxml=.scratch/all.xml; make check ARGS=--junitxml=.scratch/quick.xml
python tests/slow.py .scratch/all.xml .scratch/quick.xml

What tests share counts for the first of them, which is another one where some are left out.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).with_suffix(".txt")
SECONDS = 0.2  # of all cases of a test together, from which on it is slow


def function_of(node: str) -> str:
    """``tests/ops/test_scan.py::test_x[case]`` without its case."""
    return node.partition("[")[0]


def slow_tests(*reports: Path) -> list[str]:
    """Tests whose cases together took long in one of these JUnit reports, in the order of their names."""
    found = set()
    for report in reports:
        seconds: dict[str, float] = defaultdict(float)
        for case in ElementTree.parse(report).iter("testcase"):
            node = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"
            seconds[function_of(node)] += float(case.attrib["time"])
        found |= {name for name, spent in seconds.items() if spent >= SECONDS}
    return sorted(found)


if __name__ == "__main__":
    LIST.write_text("\n".join(slow_tests(*map(Path, sys.argv[1:]))) + "\n", encoding="utf-8")
