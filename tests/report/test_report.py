"""Figures, page and the report stage."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import Truth, write_results

from lolm.claims import build_ledger
from lolm.records.results import load_results
from lolm.report.figures import pictures
from lolm.report.figures.style import spread
from lolm.report.page import html, markdown

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "bits_per_byte", "learning_curves", "loss_at_ends", "multipliers", "lead", "recall", "by_position", "rates", "gate_path",
    "gate_histogram", "ablation_sweep", "damage", "regimes", "inversion_statistic", "trajectory", "readout_recovery",
    "contributions", "token_classes",
]  # fmt: skip
TWENTY = (
    "lolm", "transformer", "transformer_modern", "lolm_published", "lolm_v0", "transformer_published",
    *(f"hybrid_{i}" for i in range(14)),
)  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return load_results(write_results(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def drawn(results):
    return pictures(results)


def stage(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LOLM_RUNNER": "1"}  # MLflow is left alone
    command = [sys.executable, "-m", "pipeline.report", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


class Page(HTMLParser):
    """Collects ids, links and resources, and checks that tags close in order."""

    VOID = {"meta", "link", "br", "hr", "img", "path", "use", "rect", "line", "circle"}

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.open, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[key] for key in ("href", "src", "xlink:href") if key in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_every_figure_is_drawn_with_its_data(drawn):
    assert [picture.name for picture in drawn] == NAMES
    for picture in drawn:
        table = list(csv.reader(io.StringIO(picture.csv())))
        assert tuple(table[0]) == picture.columns
        assert len(table) == len(picture.rows) + 1 > 1
        assert {len(row) for row in table} == {len(picture.columns)}
        assert picture.svg.startswith("<svg")


def test_data_are_the_records(results, drawn):
    rows = {p.name: p.rows for p in drawn}["learning_curves"]
    run = results.of("lolm")[0]
    mine = [(row[2], row[6]) for row in rows if row[:2] == ("lolm", 1)]
    assert mine == list(zip(*run.points("val/nats"), strict=True))


def test_figures_carry_no_date(drawn):  # that they are the same twice, the stage's test says
    assert not [p.name for p in drawn if re.search(r"20\d\d-\d\d-\d\d|<metadata>", p.svg)]


def test_type_is_large_enough_to_print(drawn):
    for picture in drawn:
        sizes = [float(a or b) for a, b in re.findall(r"font: (?:[a-z]+ )*([\d.]+)px|font-size: ([\d.]+)px", picture.svg)]
        assert sizes
        assert min(sizes) >= 9


def test_labels_are_pushed_apart_no_further_than_needed():
    assert spread([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread([0.5, 0.51, 0.52, 0.9], 0.1) == pytest.approx([0.41, 0.51, 0.61, 0.9])


def test_page_stands_alone_and_is_sound_html(results, drawn):
    text = html(results, build_ledger(results), drawn)
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert "url(http" not in text
    assert not any(tag in ("script", "iframe") for tag, _ in page.tags)
    figures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(figures) == len(NAMES)
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in figures)
    assert (
        text.index("Leaderboard</h2>")
        < text.index("Ledger of claims")
        < text.index("Losses beside trivial models")
        < text.index("<figure")
    )
    for run in results.runs:
        assert run.name in text
        assert run.fingerprint in text


def test_ledger_reads_as_a_report(results):
    text = markdown(results, build_ledger(results))
    assert text.startswith("# Referee's report")
    assert "3 seeds (1, 2, 3), 400 steps and 409,600 training tokens" in text
    assert "&lt;" not in text
    assert "&#39;" not in text
    assert "485,165,195.41 is e^20" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


@pytest.mark.parametrize(
    ("arms", "seeds"),
    [
        (("lolm",), (1, 2)),
        (("transformer",), (1,)),
        (("lolm", "transformer"), (1,)),
        (("lolm", "transformer", "transformer_modern", "lolm_published"), (1, 2)),
    ],
)
def test_any_arms_and_seeds(tmp_path, arms, seeds):
    results = load_results(write_results(tmp_path, arms=arms, seeds=seeds))
    drawn, ledger = pictures(results), build_ledger(results)
    text = html(results, ledger, drawn)
    assert Page(text).open == []
    assert ("One seed gives no interval, so no measured claim is decided." in text) == (len(seeds) == 1)
    assert {"learning_curves", "bits_per_byte"} <= {picture.name for picture in drawn}
    assert ("lead" in {picture.name for picture in drawn}) == ({"lolm", "transformer"} <= set(arms))
    assert markdown(results, ledger)


def test_page_of_twenty_arms(tmp_path):
    speeds = {arm: 0.8 * 1.03**i for i, arm in enumerate(TWENTY[2:])}
    results = load_results(write_results(tmp_path, arms=TWENTY, seeds=(1, 2), truth=Truth(speeds=speeds)))
    drawn = pictures(results)
    assert [picture.name for picture in drawn] == [*NAMES, "training_arms"]
    text = html(results, build_ledger(results), drawn)
    assert Page(text).open == []
    board = text[text.index('id="leaderboard"') : text.index('id="ledger"')]
    assert board.count("<tr") == 21
    assert 'class="scroll"' in board
    curves = next(picture.svg for picture in drawn if picture.name == "learning_curves")
    labels = {results.label(arm) for arm in TWENTY}
    heights = sorted(y for y, label in text_heights(curves) if label in labels)
    assert len(heights) == len(labels) == 20
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) > 9  # no label on another


def text_heights(svg):
    """(y, text) of every text of a figure."""
    for attributes, text in re.findall(r"<text([^>]*)>([^<]+)</text>", svg):
        y = re.search(r"translate\([-\d.]+ ([-\d.]+)\)", attributes) or re.search(r' y="([-\d.]+)"', attributes)
        yield float(y[1]), text


def test_first_screen_says_what_was_found(results, drawn, tmp_path):
    text = html(results, build_ledger(results), drawn)
    first = text[: text.index('id="leaderboard"')]
    assert re.search(r"needs 1\.\d\d× \[[\d.]+ to [\d.]+×\] the training FLOPs of", first)
    assert "(published: 2×, in steps)" in first
    assert "Of the claims with published numbers, " in first
    poor = load_results(write_results(tmp_path / "poor", truth=Truth(bigram=2.5), mismatch=0.05))
    first = html(poor, build_ledger(poor), ())
    first = first[: first.index('id="leaderboard"')]
    assert "every verdict on a measured claim is withheld" in first
    assert "The arms are not matched" in first
    many = load_results(write_results(tmp_path / "many", arms=TWENTY[:5], truth=Truth(speeds={"transformer_modern": 3.0})))
    first = html(many, build_ledger(many), ())
    assert "Lowest mean test loss of 5 arms: “" in first
    assert " of 3 other arms, 1 of them better" in first


def test_page_says_what_was_not_measured(tmp_path):
    results = load_results(write_results(tmp_path, truth=Truth(recall=False, swept=False, cooldowns=())))
    drawn = pictures(results)
    assert not {"recall", "rates", "multipliers"} & {picture.name for picture in drawn}
    text = html(results, build_ledger(results), drawn)
    assert Page(text).open == []
    assert "No sweep is part of these runs" in text
    assert "(no sweep)" in text


def test_generated_text_is_escaped_on_the_page(results, drawn):
    assert "a &lt;day&gt; &amp; night" in html(results, build_ledger(results), drawn)


def test_losses_of_tens_of_nats_are_drawn(tmp_path):
    results = load_results(write_results(tmp_path, truth=Truth(gate_one=76.9, gate_zero=10.9)))
    sweep = next(picture for picture in pictures(results) if picture.name == "ablation_sweep")
    assert max(row[4] for row in sweep.rows) > 70
    assert sweep.svg


def test_stage_writes_the_same_bytes_in_two_folders(tmp_path):
    written = []
    for name in ("a", "b"):
        folder = write_results(tmp_path / name)
        done = stage(folder, "--scale", "smoke")
        assert done.returncode == 0, done.stderr
        reports = folder / "reports" / "smoke" / "main"
        written.append(
            {str(path.relative_to(reports)): path.read_bytes() for path in sorted(reports.rglob("*")) if path.is_file()}
        )
    assert written[0] == written[1]
    files = {
        "claims.json",
        "claims.md",
        "report.html",
        "summary.json",
        "learning_curves.csv",
        "leaderboard.csv",
        "leaderboard.json",
    }
    assert files <= set(written[0])
    assert {f"figures/{name}.{kind}" for name in NAMES for kind in ("svg", "csv")} <= set(written[0])
    assert isinstance(json.loads(written[0]["claims.json"]), list)
    assert json.loads(written[0]["summary.json"])["efficiency_2x"] > 1


def test_stage_names_what_is_missing_and_leaves_the_last_report(tmp_path):
    folder = write_results(tmp_path)
    assert stage(folder, "--scale", "smoke").returncode == 0
    page = folder / "reports/smoke/main/report.html"
    before = page.read_bytes()
    (folder / "artifacts/smoke/runs/lolm-1/metrics.jsonl").write_text('{"step": 1')
    done = stage(folder, "--scale", "smoke")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "metrics.jsonl: line 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert page.read_bytes() == before
