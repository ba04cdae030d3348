"""Every link of a committed page leads to a file that is there, and to a place in it."""

import os
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "reports").rglob("*")
    if path.suffix in (".html", ".md") and "smoke" not in path.parts
)
LINK = {".html": r'\bhref="([^"]+)"', ".md": r"\]\(([^)\s]+)\)"}


@cache
def places(path: Path) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    path = ROOT / page
    for link in re.findall(LINK[path.suffix], path.read_text(encoding="utf-8")):
        target, _, place = link.partition("#")
        if re.match(r"https?:|data:", link):
            continue
        leads_to = Path(os.path.normpath(path.parent / target)) if target else path
        assert leads_to.exists(), link
        assert not place or leads_to.suffix not in LINK or place in places(leads_to), link
