"""The documentation says nothing that is not there: links, anchors, paths, commands, keys, cited sections, studies."""

import dataclasses
import os
import re
import shutil
import tempfile
import tomllib
import types
import typing
from functools import cache
from pathlib import Path

import pytest
import yaml
from builders import PARAMS

from lolm.config import Params, ScaleConfig, load_params
from pipeline.environment import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")), *sorted((ROOT / "docs").glob("*.md"))]
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


@cache
def overridden(*overrides):
    """The settings with these overrides in the file, by DVC's own code."""
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(ROOT / "params.yaml", folder)
        apply_overrides(path, list(overrides))
        return load_params(path)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "params.yaml"], ids=lambda page: page.name)
def test_overrides_that_are_shown_give_a_file_that_loads(page):
    """A key that is not in the file, or a value that clashes with others, is an error."""
    for line in re.findall(r"dvc exp run( -S [^#`\n]*)", page.read_text(encoding="utf-8")):
        overrides = re.findall(r"-S (\S+)", line) if "'" not in line else re.findall(r"-S '([^']+)'", line)
        assert overridden(*overrides) != PARAMS, line


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


def test_protocol_lists_studies_as_they_are():
    studies = load_params(ROOT / "params.yaml").studies
    page = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(\w+)` \| .* \| (\d+) x (\d+) \|$", page)
    assert {name for name, _, _ in rows} | {"smoke", "budgets", "budgets_small", "budgets_large", "context"} == set(studies)
    for name, arms, seeds in rows:
        assert (len(studies[name].arms), len(studies[name].seeds)) == (int(arms), int(seeds)), name


@pytest.fixture(scope="module")
def ledger():
    """The merged ledger of the committed records."""
    from lolm.claims import merged_ledger
    from pipeline import front

    before = os.getcwd()
    os.chdir(ROOT)
    try:
        params = load_params()
        return params, merged_ledger(front.scale_results(params, params.scale), params, params.scale)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("name", ["README", "LABORATORY"])
def test_findings_are_those_of_the_ledger(name, ledger):
    """What a page says was found is what the generator makes of the committed records."""
    from lolm.report.front import laboratory_block, readme_block
    from pipeline import front

    params, claims = ledger
    text = (ROOT / getattr(front, name)).read_text(encoding="utf-8")
    block = {"README": readme_block, "LABORATORY": laboratory_block}[name]
    assert text == front.with_block(text, block(params.scale, params, claims)), "run `python -m pipeline.front --readme`"


INTERVAL = re.compile(r"\[[−+-]?\d[\d.,]*(?:, | to )[−+-]?\d[^\]\[]*\]")
# What prose may say of a claim only if that is its verdict; None: never, since not to find a difference shows nothing.
VERDICTS = (
    (r"multipliers? (?:falls?|shrinks?|declines?) with (?:the |its )?budget", "lead_with_budget", "fails"),
    (r"multipliers? (?:grows?|rises?) with (?:the |its )?budget", "lead_with_budget", "holds"),
    (r"level is not taught|level is discovered|finds its level", "gate_free", "holds"),
    (r"level is taught", "gate_free", "fails"),
    (r"dips? and (?:then )?(?:climbs?|reverses?)", "gate_reversal", "holds"),
    (r"LOLM (?:is|shows? an?) (?:inverted|inversion)", "inversion_preregistered", "holds"),
    (r"LOLM is not inverted", None, None),  # the rule finds an S near 0, no S of 0
    (
        r"(?:memory|codes?|branch|noise|text's branch or noise|arm)\b[^.]{0,40} (?:adds?|gives?|contributes?|changes?) nothing",
        None,
        None,
    ),
    (r"no (?:measurable )?(?:effect|difference|influence)\b", None, None),
    (r"(?:Inverted|inverted) without [^.]{0,40}, LOLM (?:is )?not", None, None),  # a difference of significances
    (r"(?:LOLM|hybrid)s? (?:beats?|is better than) (?:a |the )?(?:pure )?Mamba", "hybrid_beats_mamba", "holds"),
    (r"needs (?:about )?half the compute", "efficiency_2x", "holds"),
)


def stronger(text, verdict_of):
    """Sentences that say more than the ledger does, and intervals that no generator wrote."""
    prose = re.sub(r"(?s)<!-- findings:begin -->.*?<!-- findings:end -->", "", text)
    prose = re.sub(r"\b[Ww]hether [^.;:]*", "", re.sub(r"\s+", " ", prose))  # a question says nothing
    found = [match.group() for match in INTERVAL.finditer(prose)]
    for pattern, claim, verdict in VERDICTS:
        if claim is None or verdict_of.get(claim) != verdict:
            found += [match.group() for match in re.finditer(pattern, prose)]
    return found


@pytest.mark.parametrize("page", ["README.md", "docs/laboratory.md"])
def test_prose_is_no_stronger_than_the_verdicts(page, ledger):
    verdict_of = {claim.id: claim.verdict for claim in ledger[1]}
    assert {claim for _, claim, _ in VERDICTS if claim} <= set(verdict_of)
    assert stronger((ROOT / page).read_text(encoding="utf-8"), verdict_of) == []


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("Here the multiplier falls with the budget.", True),
        ("Its level is not taught\nhere.", True),
        ("Another text's branch or noise gives nothing.", True),
        ("The memory adds nothing measurable.", True),
        ("Inverted without the loss, LOLM not settled.", True),
        ("S is +0.809 [0.639, 0.980], paired.", True),
        ("1.50× [1.29 to 1.76×]", True),
        ("<!-- findings:begin -->\n1.50× [1.29 to 1.76×]\n<!-- findings:end -->", False),
        ("See [F3](facts.md#f3), [the null](#controls) and x[0].", False),
        ("Whether the memory contributes is asked by `parts`.", False),
    ],
)
def test_prose_that_is_too_strong_is_found(said, refused):
    assert bool(stronger(said, {})) == refused


def test_a_verdict_may_be_said():
    assert not stronger("Its level is taught.", {"gate_free": "fails"})
    assert stronger("Its level is taught.", {"gate_free": "inconclusive"})


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
    unreleased = f"## {project['version']} (unreleased)" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert ("date-released" in citation) != unreleased


def test_every_room_is_in_the_table_of_rooms():
    text = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    table = text.partition("| room | what |")[2].partition("\n\n")[0]
    rooms = {path.name if path.is_dir() else path.stem for path in (ROOT / "lolm").iterdir() if path.name[0] not in "_."}
    named = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if line)))
    assert named == (rooms - {"source"}) | {"pipeline"}  # one function, for the identity of code


def test_what_was_not_run_has_no_record():
    text = (ROOT / "docs/nulls.md").read_text(encoding="utf-8").partition("## Not run")[2]
    studies = set(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["studies"])
    made = {path.parent.name for path in (ROOT / "reports").glob("*/*/claims.json")}
    named = set(re.findall(r"`(\w+)`", text)) & studies
    assert named
    assert not named & made


def test_variables_that_a_user_may_set_are_named():
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(LOLM_[A-Z_]+)`", text))
    assert named <= {*KINDS, "LOLM_FAULTS", "LOLM_OTHER_PYTHON"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"\b(LOLM_[A-Z]+)=", makefile)) <= named


def test_changelog_is_dated_newest_first():
    dates = re.findall(r"(?m)^### (\d{4}-\d{2}-\d{2})", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert dates
    assert dates == sorted(dates, reverse=True)
