"""The documentation says nothing that is not there: links, anchors, paths, commands, keys, cited sections, studies."""

import dataclasses
import re
import tomllib
import types
import typing
from pathlib import Path

import pytest
import yaml

from lolm.config import Params, ScaleConfig, load_params

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCE = [
    path
    for folder in ("lolm", "pipeline", "benchmarks", "tests", "notebooks")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".ipynb") and path != Path(__file__)
] + [ROOT / "params.yaml", ROOT / "dvc.yaml", ROOT / "Makefile"]
ROOMS = ("lolm/", "pipeline/", "tests/", "docs/", "notebooks/", "benchmarks/", "reports/", ".ci/")
UNTRACKED = ("artifacts/", ".scratch/")  # made by runs

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def slug(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page):
    text = page.read_text(encoding="utf-8")
    return set(re.findall(r'<a id="([^"]+)">', text)) | {slug(heading) for heading in re.findall(r"(?m)^#+ (.*)$", text)}


def code_of(page):
    """What a page sets as code: spans and blocks."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```[a-z]*\n(.*?)^```", text)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"(?ms)^```.*?^```", "", text)), blocks


@pages
def test_links_and_anchors_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pages
def test_anchors_are_unique(page):
    found = re.findall(r'<a id="([^"]+)">', page.read_text(encoding="utf-8"))
    assert len(found) == len(set(found))


@pages
def test_paths_exist(page):
    for span in code_of(page)[0]:
        if span.startswith(ROOMS) and not re.search(r"[<>*{}@ ]", span):
            assert (ROOT / span.split("::")[0]).exists(), span


@pages
def test_commands_exist(page):
    spans, blocks = code_of(page)
    text = "\n".join(spans + blocks)
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert set(re.findall(r"\bmake ([a-z]+)", text)) <= targets
    for module in set(re.findall(r"python -m ((?:pipeline|benchmarks|lolm|tests)[\w.]*)", text)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def child(kind, key):
    """Types that a key of a setting of type ``kind`` can have."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [found for option in typing.get_args(kind) for found in child(option, key)]
    if typing.get_origin(kind) is dict:
        return [typing.get_args(kind)[1]]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return [hints[field.name] for field in dataclasses.fields(kind) if field.name == key]
    return [kind] if kind is typing.Any else []


@pages
def test_settings_exist(page):
    """A dotted name in code that begins with a section of params.yaml, or of a scale, is a setting."""
    sections = {field.name for field in dataclasses.fields(Params)}
    of_scale = {field.name for field in dataclasses.fields(ScaleConfig)}
    spans, blocks = code_of(page)
    keys = re.findall(r"-S '?([\w.]+)=", "\n".join(spans + blocks))
    keys += [span for span in spans if re.fullmatch(r"[a-z_]+(\.[\w<>-]+)+", span) and "." in span]
    for key in keys:
        first = key.split(".")[0]
        found = [Params] if first in sections else [ScaleConfig] if first in of_scale else None
        if found is None or key.endswith((".json", ".yaml", ".lock", ".md", ".py")):
            continue
        for part in key.split("."):
            found = [kind for option in found for kind in child(option, part)]
            assert found, key


@pages
def test_overrides_are_keys_of_params(page):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    spans, blocks = code_of(page)
    for key in re.findall(r"-S '?([\w.]+)=", "\n".join(spans + blocks)):
        value = params
        for part in key.split("."):
            assert part in value, key
            value = value[part]


@pytest.mark.parametrize("path", SOURCE, ids=lambda path: str(path.relative_to(ROOT)))
def test_cited_sections_exist(path):
    text = path.read_text(encoding="utf-8")
    known = anchors(ROOT / "docs" / "facts.md")
    for cited in re.findall(r"\bfacts ((?:[A-H]\d*(?:, | and | to )?)+)", text, re.IGNORECASE):
        for section in re.findall(r"[A-H]\d*", cited):
            assert section.lower() in known, section
    assert not re.search(r"lolm_spec|\bspec [A-H]\d*\b", text), "cite sections of docs/facts.md as `facts A3`"


def test_facts_cite_their_own_sections():
    text = (ROOT / "docs" / "facts.md").read_text(encoding="utf-8")
    known = anchors(ROOT / "docs" / "facts.md")
    assert {f"{letter}{number}".lower() for letter, number in re.findall(r"\b([ABD-F])(\d{1,2})\b", text)} <= known


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_readme_counts_studies_as_they_are():
    studies = load_params(ROOT / "params.yaml").studies
    rows = re.findall(r"(?m)^\| `(\w+)` \| .* \| (\d+) x (\d+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert rows
    for name, arms, seeds in rows:
        assert (len(studies[name].arms), len(studies[name].seeds)) == (int(arms), int(seeds)), name


def test_findings_are_those_of_the_ledger(monkeypatch):
    """What the README says was found is what the generator makes of the committed records."""
    from lolm.claims import merged_ledger
    from lolm.report.front import readme_block
    from pipeline import front

    monkeypatch.chdir(ROOT)
    params = load_params()
    claims = merged_ledger(front.scale_results(params, params.scale), params, params.scale)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = front.with_block(text, readme_block(params.scale, params, claims))
    assert text == found, "run `python -m pipeline.front --readme`"


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    names = [author["name"] for author in citation["authors"]]
    assert names
    assert all(name in (ROOT / "LICENSE").read_text(encoding="utf-8") for name in names)
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()


def test_changelog_is_dated_newest_first():
    dates = re.findall(r"(?m)^### (\d{4}-\d{2}-\d{2})", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert dates
    assert dates == sorted(dates, reverse=True)
