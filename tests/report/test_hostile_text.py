"""Labels and other text from outside stand in every page, table and figure as what they are: text."""

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import synthetic
import yaml
from builders import ROOT
from markdown_it import MarkdownIt

from lolm.analysis.leaderboard import leaderboard, table
from lolm.claims import build_ledger, merged_ledger
from lolm.config import ConfigError, load_params, params_from
from lolm.records import Layout, RecordError, read_json, write_json
from lolm.records.escape import csv_cell, csv_text, markdown, markdown_code
from lolm.records.results import load_results, load_run
from lolm.report.figures import pictures
from lolm.report.front import front_figures, front_markdown, front_page, readme_block
from lolm.report.render import render
from lolm.report.study import curves, study_markdown, study_page
from lolm.tracking.notes import note_of

HOSTILE = r"a|b `c <script>alert(1)</script> $\frac{$ [x](javascript:1) _y_ *z* &lt; width=9 {0} %s \| id=\"q"
FORMULA = "=1+1, <b>"
READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
READER.validateLink = lambda _: True  # type: ignore[method-assign]  # it refuses such addresses of its own accord


class Page(HTMLParser):
    """Collects elements and text; all that was opened has to be closed, in order."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.opened = [], "", []
        self.feed(text)
        assert not self.opened

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.opened += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def shown(text):
    """A page of Markdown as its reader sees it, without code spans' backticks; no element but the pages' own anchors, no address
    but the pages' own, and as many cells in each row as in the table's head."""
    said = []
    for block in READER.parse(text):
        for token in block.children or ():
            if token.type == "html_inline":
                assert re.fullmatch(r'<a id="\w+">|</a>', token.content), token.content
            if token.type == "link_open":
                assert re.match(r"#|[\w./-]+(#|$)", token.attrs["href"]), token.attrs
            said.append(token.content)
        assert block.type != "html_block"
    lines = text.splitlines()
    for head, rule in zip(lines, lines[1:], strict=False):
        if re.fullmatch(r"\|( ?-+:? ?\|)+", rule):
            count = len(re.findall(r"(?<!\\)\|", head))
            rows = lines[lines.index(head) :]
            rows = rows[: next((i for i, row in enumerate(rows) if not row.startswith("|")), len(rows))]
            assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {count}, rows
    return "".join(said)


ARMS = {"lolm": HOSTILE, "transformer": FORMULA}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study whose arms have hostile labels, in params.yaml as in the records."""
    project = load_params(ROOT / "params.yaml")
    labelled = {arm: replace(project.architectures[arm], label=label) for arm, label in ARMS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "_project", lambda: replace(project, architectures=project.architectures | labelled))
        return synthetic.write_results(tmp_path_factory.mktemp("hostile"), seeds=(1, 2))


@pytest.fixture(scope="module")
def results(folder):
    found = load_results(folder)
    assert [found.label(arm) for arm in found.arms] == list(ARMS.values())
    assert {run.arm: run.label for run in found.runs} == ARMS
    return found


def test_a_study_of_hostile_labels(results):
    drawn, ledger, entries = pictures(results), build_ledger(results), leaderboard(results)
    for picture in drawn:
        root = ElementTree.fromstring(picture.svg)
        assert not [element for element in root.iter() if element.tag.rpartition("}")[2] in ("script", "b", "a")]
    assert any(HOSTILE in "".join(ElementTree.fromstring(picture.svg).itertext()) for picture in drawn)
    page = Page(study_page(results, ledger, drawn))
    assert [attrs for tag, attrs in page.elements if tag == "script"] == [{}]
    assert HOSTILE in page.text
    assert all(attrs.get("href", "#").startswith(("#", "data:", "../")) for _, attrs in page.elements)
    graphics = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert any(HOSTILE.replace('"', r"\"").replace("\\", "\\\\")[:30] in attrs["data-values"] for attrs in graphics)
    text = shown(study_markdown(results, ledger))
    assert HOSTILE.replace("`", "") in text.replace("`", "")
    assert FORMULA in text
    for written, column in ((table(entries), "label"), (csv_text(curves(results)), "arm")):
        found = {row[column] for row in csv.DictReader(io.StringIO(written))}
        assert found == {HOSTILE, f"'{FORMULA}"}


def test_the_pages_above_a_study_of_hostile_labels(results):
    studies = {"main": results}
    claims = merged_ledger(studies, results.params, results.scale)
    page = Page(front_page(results.scale, results.params, studies, claims, ("main",), front_figures(studies, claims)))
    assert [attrs for tag, attrs in page.elements if tag == "script"] == [{}]
    assert HOSTILE in page.text
    assert FORMULA in shown(front_markdown(results.scale, results.params, studies, claims, ("main",)))
    assert shown(readme_block(results.scale, results.params, claims))


def test_a_note_of_a_run_with_a_hostile_label(folder, results):
    run, layout = results.runs[0], Layout(results.scale, folder)
    write_json(layout.reports / "claims.json", [])
    assert shown(note_of(run, layout)).startswith(HOSTILE)


def test_a_card_of_a_corpus_with_hostile_names(results):
    part = {"train_documents": 3}
    corpus = {
        "splits": {"train": {"documents": 3, "bytes": 9}},
        "sources": {"so`ng|s <script>": part},
        "licences": [{"licence": "CC|0\n# <script>", "documents": 3}],
    }
    run = results.runs[0]
    text = render(
        "card.md", run=run, config=run.header.run, native="Llama", differs="", tokens=9, corpus=corpus, shards=None,
        interval=None, level="95 %", claims=[], si=str, flops=9.0, step=None, annealed=False,
        scores={},
    )  # fmt: skip
    said = shown(text.partition("---\n\n")[2])
    assert "so`ng|s <script>" in said.replace(r"\|", "|")
    assert "CC|0 # <script> (3)" in said
    assert HOSTILE.replace("`", "") in said.replace("`", "")


@pytest.mark.parametrize(
    "text",
    [
        "a|b", "`", "x `y", "<script>", "</b>", "<!-- x -->", r"$\frac{$", "[x](javascript:1)", "[x]: javascript:1",
        "![x](y)", "*a*", "**", "__a__", "_a_", "~~a~~", r"\|", "\\", "&lt;", "&#60;", "# a", "> a", "- a", "+ a", "a_b < c & d",
    ],
)  # fmt: skip
def test_markdown_shows_a_text_as_it_is(text):
    for around in ("{}\n", "- {}\n", "| a | b |\n|---|---|\n| {} | c |\n"):
        blocks = [block for block in READER.parse(around.format(markdown(text))) if block.type == "inline"]
        told = blocks[-2 if "|---" in around else 0].children
        assert {token.type for token in told} <= {"text", "text_special", "code_inline"}, told
        assert "".join(token.content for token in told) == text
        assert around[0] != "|" or len(blocks) == 4
    (block,) = [block for block in READER.parse(markdown_code(text)) if block.type == "inline"]
    assert [(token.type, token.content.replace(r"\|", "|")) for token in block.children] == [("code_inline", text)]


def test_code_stays_code_and_a_line_one_line():
    assert markdown("`make repro` of a_b") == "`make repro` of a_b"
    assert markdown("a\r\n# b\u2028c\u202ed") == "a # b c\ufffdd"
    assert markdown(1.5) == 1.5


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1"])
def test_a_formula_is_text_in_a_table(text):
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(-1.5) == -1.5
    assert csv_cell("1-1") == "1-1"


@pytest.mark.parametrize("label", ["a\nb", "a\tb", "a\u202eb", "\u200fa", "a\x1b[31m", "  "])
def test_a_label_is_one_line(folder, label):
    raw = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    raw["architectures"]["transformer"]["label"] = label
    with pytest.raises(ConfigError, match=r"^architectures\.transformer\.label: [^\n]* is not one line of text[^\n]*$"):
        params_from(raw)


def test_a_label_of_a_record_is_one_line(folder, results):
    layout, key = Layout(results.scale, folder), results.runs[-1].key
    kept = read_json(layout.header(*key))
    write_json(layout.header(*key), kept | {"label": "a\nb"})
    with pytest.raises(RecordError, match=r"config\.json: label: 'a\\nb' is not one line of text"):
        load_run(layout, key)
    write_json(layout.header(*key), kept)
