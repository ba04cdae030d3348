"""Figures, pages and the stages that make them."""

import csv
import html
import io
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import forks
import pandas as pd
import pytest
import yaml
from synthetic import Truth, write_results, write_scales

from lolm import LolmError
from lolm.analysis import dependency as dep
from lolm.analysis.dependency import RemovalMethod, statistic
from lolm.analysis.effects import OUTCOMES
from lolm.analysis.leaderboard import leaderboard
from lolm.analysis.statistics import t_interval
from lolm.claims import build_ledger, merged_ledger
from lolm.claims.ledger import VERDICTS
from lolm.config import ConfigError, load_params
from lolm.records import Layout, RunKey, read, read_json, write, write_json
from lolm.records.escape import csv_text
from lolm.records.results import load_results, load_run
from lolm.records.schema import Downstream, Recall
from lolm.report import ablations, figures, rows, tables
from lolm.report.figures import FIGURES, FigureEntry, left_out, pictures
from lolm.report.figures.style import PALETTE, label_ends, new_figure, reference_lines, spread
from lolm.report.front import QUESTIONS, front_figures, front_markdown, front_page, readme_block, study_lines
from lolm.report.study import absent, curves, headline, own_claims, study_markdown, study_page, title
from pipeline.front import front as front_stage
from pipeline.front import make as make_front
from pipeline.front import scale_results, with_block
from pipeline.report import load_study, make, report

ROOT = Path(__file__).resolve().parents[2]
OF_HYBRIDS = {"type_statistic", "types_over_training"}  # need an arm with both types of mixer
ALONE = {"training_arms", *OF_HYBRIDS}  # the first needs another arm of LOLM's family
TWENTY = (
    "lolm", "transformer", "transformer_modern", "lolm_published", "lolm_v0", "transformer_published",
    "samba", *(f"other_{i}" for i in range(13)),
)  # fmt: skip
SHORT = Truth(log_every=20)  # small figures
FIELD = {"arms": ["lolm", "transformer", "transformer_modern", "mamba"], "seeds": [1, 2], "baseline": "transformer_modern"}
PLAIN = {
    "arms": ["mamba", "transformer_modern"], "seeds": [1, 2], "subject": "mamba", "baseline": "transformer_modern",
    "recall": ["mamba"],
}  # fmt: skip
HYBRIDS = PLAIN | {"arms": ["samba", "hymba", "transformer_modern"], "subject": "samba", "recall": ["samba"]}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Of ``main`` and of a study of hybrids."""
    return write_results(tmp_path_factory.mktemp("records"), studies={"hybrids": HYBRIDS}, truth=SHORT)


@pytest.fixture(scope="module")
def results(records):
    return load_results(records)


@pytest.fixture(scope="module")
def staged(records, tmp_path_factory):
    """Two folders with these records and what the stages made of them: in the first as commands; in the second one after another
    in this process, where each figure is drawn from its table as anyone reads it from the file. And the second's pictures."""
    folders = [shutil.copytree(records, tmp_path_factory.mktemp(name) / "project") for name in ("commands", "process")]
    asked = [("report", "--scale", "smoke", "--study", study) for study in ("main", "hybrids")]
    asked.append(("front", "--scale", "smoke", "--readme"))
    found = {}

    def kept(results):
        found[results.study] = pictures(results)
        return found[results.study]

    for folder in folders:
        (folder / "docs").mkdir()
        for page in ("README.md", "docs/laboratory.md"):
            (folder / page).write_text("<!-- findings:begin -->\n<!-- findings:end -->\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOLM_RUNNER", "1")  # MLflow is left alone
        for module, *arguments in asked:
            done = forks.stage(folders[0], module, *arguments)
            assert done.returncode == 0, done.stderr
        patch.chdir(folders[1])
        patch.setattr("pipeline.report.pictures", kept)
        patch.setattr(figures, "FIGURES", tuple(map(drawn_from_the_file, FIGURES)))
        for module, *arguments in asked:
            patch.setattr(sys, "argv", [module, *arguments])
            {"report": report, "front": front_stage}[module]()
    return *folders, found


def drawn_from_the_file(entry):
    """The entry of a figure that is drawn from its table as it stands in its file."""

    def draw(table, results):
        return entry.draw(pd.read_csv(io.StringIO(csv_text(table)), float_precision="round_trip"), results)

    return replace(entry, draw=draw)


@pytest.fixture(scope="module")
def drawn(staged):
    return staged[2]["main"]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three studies: ``main`` whole; of ``field`` a run that was not made and one that diverged; one without LOLM."""
    folder = tmp_path_factory.mktemp("several")
    return write_results(
        folder, studies={"field": FIELD, "plain": PLAIN}, not_run=("mamba-2",), diverged=("transformer_modern-2",)
    )


class Page(HTMLParser):
    """Collects ids, links, resources and cells by their label, and checks that tags close in order."""

    VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "rect", "line", "circle"}

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.open, self.tags, self.cells = [], [], [], [], []
        self.feed(text)
        assert not self.open
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[key] for key in ("href", "src", "xlink:href") if key in attrs]
        if tag == "td":
            self.cells.append([attrs.get("data-label", ""), ""])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1][1] += data


# ---------------------------------------------------------------------------------------------- tables and figures


def test_every_figure_is_drawn_under_its_title_with_its_table(drawn):
    assert [picture.name for picture in drawn] == [entry.name for entry in FIGURES if entry.name not in ALONE]
    for picture in drawn:
        rows = list(csv.reader(io.StringIO(picture.csv())))
        assert rows[0] == list(picture.table.columns)
        assert len(rows) == len(picture.table) + 1 > 1
        assert {len(row) for row in rows} == {len(rows[0])}
        assert f">{picture.title}<" in picture.svg
        assert not re.search(r"[{}]", picture.caption + picture.alt)


def test_a_figure_reads_its_table_alone(staged):
    """The table as anyone reads it from the file draws the same figure as the stage's own."""
    commands, _, found = staged
    for study, drawn in found.items():
        written = commands / "reports/smoke" / study
        for picture in drawn:
            assert (written / f"figures/{picture.name}.svg").read_text(encoding="utf-8") == picture.svg, picture.name
            assert (written / f"tables/{picture.name}.csv").read_text(encoding="utf-8") == picture.csv()
    assert {picture.name for picture in found["hybrids"]} >= OF_HYBRIDS


def test_adding_a_figure_is_one_function_and_one_entry(results, monkeypatch):
    def losses(table, results):
        figure, axes = new_figure(1, 1)
        axes.plot(table["bits_per_byte"], table["nats"], "o")
        return figure

    entry = FigureEntry("mine", "My figure", tables.test_loss, losses, "Over {seeds}.", "Dots.", "an evaluated run")
    monkeypatch.setattr(figures, "FIGURES", (entry,))
    (picture,) = pictures(results)
    assert picture.caption == "Over 3 seeds."
    assert 'id="figure-mine"' in study_page(results, [], [picture])


def test_tables_are_the_records(results):
    table = tables.learning_curves(results)
    run = results.of("lolm")[0]
    mine = table[(table["arm"] == "lolm") & (table["seed"] == 1)]
    assert list(zip(mine["step"], mine["val_nats"], strict=True)) == list(zip(*run.points("val/nats"), strict=True))
    table = ablations.conditions(results)
    last = table[(table["arm"] == "lolm") & (table["seed"] == 1) & (table["step"] == run.ablation_steps[-1])]
    forced = last[(last["intervention"] == "gate") & (last["value"] == 1.0)]
    assert forced["damage_nats"].item() == run.damage("gate", 1.0)
    average = curves(results)
    assert list(dict.fromkeys(average["arm"])) == [results.label(arm) for arm in results.arms]
    assert len(average) == 2 * len(mine)


def entry_of(name):
    return next(entry for entry in FIGURES if entry.name == name)


def lines_of(figure, axis):
    """The coordinates of every line of a figure."""
    return [tuple(line.get_data()[axis]) for axes in figure.axes for line in axes.lines]


def test_intervals_of_tables_are_those_of_leaderboard_and_ledger(results):
    def stated(table, kept):
        low, high = (set(table.loc[kept, column]) for column in ("low", "high"))
        return low.pop(), high.pop(), len(low | high)

    losses = tables.test_loss(results)
    for entry in leaderboard(results):
        runs = losses["arm"] == entry.arm
        assert stated(losses, runs) == (*entry.bits_per_byte.interval, 0)
    assert losses.loc[losses["kind"] == "reference", "low"].isna().all()
    every = ablations.inversion_statistic(results)
    found = {way: dep.over_seeds(results.of("lolm"), way, results.analysis) for way in dep.ways(results.of("lolm")[0])}
    measured = {way: one for way, one in found.items() if one is not None}
    assert len(measured) > 3
    for method, found in measured.items():
        assert stated(every, every["removal"] == method.label) == (*found.interval, 0)
    assert every.loc[every["method"] == ablations.HALVES, "low"].isna().all()
    (call,), dependency = dep.calls(results), ablations.dependency(results)
    assert stated(dependency, dependency["arm"] == "lolm") == (*call.found.interval, 0)


@pytest.mark.parametrize("name", ["bits_per_byte", "inversion_statistic", "dependency_share", "training_arms"])
def test_intervals_are_drawn_as_the_table_states_them(results, name):
    entry = entry_of(name)
    effect = {"arm_or_factor": "transformer", "key": "nats", "outcome": "test loss", "unit": "nats", "p_adjusted": 0.01}
    table = pd.DataFrame([effect | {"value": value} for value in (0.1, 0.2, 0.4)]) if name in ALONE else entry.table(results)
    figure = entry.draw(table.assign(low=-7.25, high=9.5), results)
    assert (-7.25, 9.5) in lines_of(figure, int(name == "dependency_share"))


def test_shares_of_a_branch_and_of_codes_have_their_own_units(results):
    effect = {"arm_or_factor": "transformer", "unit": "share", "value": 0.1, "low": 0.0, "high": 0.2, "p_adjusted": 0.01}
    table = pd.DataFrame([effect | {"key": key, "outcome": OUTCOMES[key].name} for key in ("share", "usage")])
    axes = entry_of("training_arms").draw(table, results).axes
    assert [(panel.get_title(), panel.get_xlabel()) for panel in axes] == [
        ("latent share", "share of power"), ("code usage", "share of ln R")
    ]  # fmt: skip


def test_boundaries_name_their_lines_and_draw_intervals_on_both_sides(results):
    entry = entry_of("boundaries")
    table = entry.table(results)
    left, right = entry.draw(table, results).axes[:2]
    legend = right.get_legend()
    named = {text.get_text(): line.get_color() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    assert named == {"gate": PALETTE[2], "latent share": PALETTE[3]}
    rows = table[(table["kind"] == "sentence") & (table["arm"] == "transformer") & (table["first"] == 1)]
    interval = t_interval(list(rows["gap_nats"]), results.analysis.confidence).interval
    assert [1, 1, *interval] in [[*x, *y] for x, y in (line.get_data() for line in left.lines)]


def test_the_mean_of_the_lead_ends_where_a_seeds_does(results):
    rows = [("difference", seed, step, -0.1) for seed in (1, 2) for step in (20, 40, 60)]
    rows += [("multiplier in step", 1, step, 2.0) for step in (20, 40, 60)] + [("multiplier in step", 2, 20, 8.0)]
    rows += [("multiplier in flops", 1, 60, 3.0)]
    right = entry_of("lead").draw(pd.DataFrame(rows, columns=["quantity", "seed", "step", "value"]), results).axes[1]
    thick = [line.get_data() for line in right.lines if line.get_linewidth() > 1.5]
    assert [(list(x), list(y)) for x, y in thick] == [([20], [pytest.approx(4.0)])]
    thin = [list(line.get_ydata()) for line in right.lines if line.get_linewidth() == 0.6]
    assert thin == [[2.0, 2.0, 2.0], [8.0], [3.0]]


def test_a_run_that_diverged_on_a_recall_task_does_not_solve_it(results):
    table = tables.recall(results)
    mine = (table["task"] == "mqar") & (table["arm"] == "lolm")
    lost = table.assign(accuracy=table["accuracy"].mask(mine & (table["seed"] == 1) | (table["arm"] == "transformer"), None))
    solved = lost.assign(accuracy=lost["accuracy"].mask(mine & (table["seed"] > 1), 1.0))
    axes = next(axes for axes in entry_of("recall").draw(solved, results).axes if axes.get_title().startswith("Multi"))
    labels = {text.get_text() for text in axes.texts}
    assert {f"{results.label('lolm')}, 2 of 3", f"{results.label('transformer')}, 0 of 3"} <= labels
    assert [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "x"] == [[0.0], [0.0, 0.0, 0.0]]


def test_the_forced_gate_stands_beside_trivial_models_of_the_same_tokens(results):
    def other(run):
        if run.arm != "lolm":
            return run
        return replace(run, ablation=replace(run.ablation, references=replace(run.ablation.references, unigram=5.125)))

    changed = replace(results, runs=tuple(map(other, results.runs)))
    entry = entry_of("ablation_sweep")
    levels = [line[0] for line in lines_of(entry.draw(entry.table(changed), changed), 1) if len(set(line)) == 1]
    assert 5.125 in levels
    assert tables.references(changed)["unigram"] not in levels


def test_captions_count_seeds_as_the_table_does_and_tokens_of_each_line(several, results):
    field = load_results(several, study="field")
    assert [len(field.of(arm)) for arm in ("lolm", "transformer_modern", "mamba")] == [2, 1, 1]
    assert "mean over 1 to 2 seeds;" in entry_of("learning_curves").picture(field).caption
    assert entry_of("ablation_sweep").picture(field).caption.startswith("Mean over 2 seeds;")
    run = results.runs[0]
    curve, reference = run.header.run.training.eval_tokens, run.evaluation.subset_tokens or run.evaluation.tokens
    caption = entry_of("learning_curves").picture(results).caption
    assert f"during training on {curve:,} validation tokens" in caption
    assert f"on {reference:,} validation tokens. The large" in caption


def test_the_control_is_called_by_its_arm(several, results):
    field = load_results(several, study="field")
    for found, label in ((results, "Transformer, published form"), (field, "Transformer, modern")):
        assert f"{label} without its last blocks" in set(ablations.damage(found)["series"])
        assert f"the control: {label}, " in entry_of("damage").picture(found).caption


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


def test_names_of_lines_do_not_lie_on_each_other():
    _, axes = new_figure(1, 1)
    axes.set_ylim(0, 5)
    reference_lines(axes, {"bigram": 2.707, "bigram, all text": 2.691, "outside": 9.0})
    label_ends(axes, [(1.0, "a", "black"), (1.01, "b", "black")])
    heights = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert set(heights) == {"bigram", "bigram, all text", "a", "b"}
    assert heights["bigram"].y0 >= heights["bigram, all text"].y1 - 2
    assert heights["b"].y0 >= heights["a"].y1 - 1


def test_losses_of_tens_of_nats_are_drawn(tmp_path):
    results = load_results(write_results(tmp_path, truth=Truth(gate_one=76.9, gate_zero=10.9)))
    sweep = next(entry for entry in FIGURES if entry.name == "ablation_sweep").picture(results)
    assert sweep.table["nats"].max() > 70
    assert sweep.svg


# ---------------------------------------------------------------------------------------------- the page of a study


def test_page_stands_alone_and_is_sound_html(results, drawn):
    text = study_page(results, build_ledger(results), drawn)
    page = Page(text)
    assert all(link.startswith(("#", "data:", "../index.html")) for link in page.links)
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert "url(http" not in text
    assert [attrs for tag, attrs in page.tags if tag in ("script", "iframe")] == [{}], "one script, which is in the page"
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|innerHTML", text)
    graphics = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(graphics) == len(drawn)
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in graphics)
    order = ("Leaderboard</h2>", "Ledger of claims", "Losses beside trivial models", "<figure")
    assert sorted(order, key=text.index) == list(order)
    for run in results.runs:
        assert run.name in text
        assert run.fingerprint in text
    assert "a &lt;day&gt; &amp; night" in text  # generated text is escaped
    assert "`" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL), "marks of code are for Markdown"
    assert "runs without numbers" not in text.lower()


def test_figures_follow_the_colours_of_the_page(results, drawn):
    text = study_page(results, build_ledger(results), drawn)
    inside = text[text.index('<section id="figures">') :]
    assert not re.search(r"(fill|stroke): #", inside)
    used = set(re.findall(r"var\(--c-([0-9a-f]{6})", inside))
    dark = set(re.findall(r"--c-([0-9a-f]{6}):", text))
    assert used <= dark


def test_ledger_reads_as_a_report(results):
    text = study_markdown(results, build_ledger(results))
    assert text.startswith("# Referee's report")
    assert "3 seeds (1, 2, 3), 400 steps and 409,600 training tokens" in text
    assert "&lt;" not in text
    assert "&#39;" not in text
    assert "485,165,195.41 is e^20" in text
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))


ONE_SEED = "One seed gives no interval, so no measured claim is decided."


@pytest.mark.parametrize(("arms", "seeds"), [(("lolm",), (1, 2)), (("lolm", "transformer"), (1,))])
def test_any_arms_and_seeds(tmp_path, arms, seeds):
    """Many are those of :func:`test_page_of_twenty_arms`."""
    results = load_results(write_results(tmp_path, arms=arms, seeds=seeds, truth=SHORT))
    drawn, ledger = pictures(results), build_ledger(results)
    text = study_page(results, ledger, drawn)
    Page(text)
    assert (ONE_SEED in text) == (len(seeds) == 1)
    assert {"learning_curves", "bits_per_byte"} <= {picture.name for picture in drawn}
    assert ("lead" in {picture.name for picture in drawn}) == ("transformer" in arms)
    assert study_markdown(results, ledger)


def test_page_says_what_an_arm_changes(tmp_path):
    arms = ("lolm", "lolm_sum", "lolm_reg_iecb", "transformer", "mamba")
    results = load_results(write_results(tmp_path, arms=arms, seeds=(1,)))
    changes = {row.note: row.cells[0] for row in rows.changes(results)}
    assert changes["lolm_sum"] == "gate.form dimension → none"
    assert changes["lolm_reg_iecb"] == (
        "objectives.regime_balance_weight 0.5 → 0.0; objectives.regime_entropy_weight -1.0 → 1.0; regime.clamp 5.0 → null; "
        "regime.isolate true → false"
    )
    assert "mamba" not in changes, "another family"
    text = study_page(results, build_ledger(results), [])
    assert all(html.escape(told) in text for told in changes.values())


def test_page_without_lolm_does_not_speak_of_it(several):
    results = load_results(several, study="plain")
    ledger = build_ledger(results)
    assert {claim.group for claim in own_claims(results, ledger)} == {"sanity"}
    for text in (study_page(results, ledger, []), study_markdown(results, ledger)):
        text = re.sub(r"<style>.*?</style>|<section id=\"figures\">.*?</section>", "", text, flags=re.S)
        assert title(results) == "Mamba and Transformer, modern, measured"
        assert title(results) in text
        assert "LOLM" not in text


def test_a_study_of_hybrids_has_their_claims_and_figures(records, staged):
    results, drawn = load_results(records, study="hybrids"), staged[2]["hybrids"]
    ledger = build_ledger(results)
    assert {claim.group for claim in own_claims(results, ledger)} == {"hybrids", "sanity"}
    assert OF_HYBRIDS | {"damage_by_layer"} <= {picture.name for picture in drawn}
    for text in (study_page(results, ledger, drawn), study_markdown(results, ledger)):
        assert "recurrent mixers" in text
        assert "LOLM" not in re.sub(r"<style>.*?</style>|<section id=\"figures\">.*?</section>", "", text, flags=re.S)


def test_page_names_at_its_top_what_is_not_in_its_numbers(several):
    results = load_results(several, study="field")
    assert [gone.name for gone in absent(results)] == ["Transformer, modern · smoke · seed 2", "Mamba · smoke · seed 2"]
    text = study_page(results, build_ledger(results), [])
    first = text[: text.index('id="leaderboard"')]
    assert "<b>2 runs of this study are not in these numbers.</b>" in first
    assert "make repro SCALE=smoke STUDY=field" in first
    assert re.search(r"Transformer, modern · smoke · seed 2 diverged", first)
    assert "Mamba · smoke · seed 2 was not run" in first
    text = study_page(results, build_ledger(results), [], stale=[RunKey("mamba", 2)])
    assert "Mamba · smoke · seed 2 was made under other parameters" in text


def test_page_of_a_study_without_a_run(tmp_path):
    results = load_results(write_results(tmp_path, not_run=("lolm", "transformer")))
    assert pictures(results) == []
    text = study_page(results, build_ledger(results), [])
    Page(text)
    assert "No run of this study was made" in text
    assert "6 runs of this study are not in these numbers" in text
    assert study_markdown(results, build_ledger(results))


def test_page_of_twenty_arms(tmp_path):
    speeds = {arm: 0.8 * 1.03**i for i, arm in enumerate(TWENTY[2:])}
    results = load_results(write_results(tmp_path, arms=TWENTY, seeds=(1, 2), truth=replace(SHORT, speeds=speeds)))
    drawn = pictures(results)
    assert [picture.name for picture in drawn] == [entry.name for entry in FIGURES]
    ledger = build_ledger(results)
    text = study_page(results, ledger, drawn)
    Page(text)
    assert ONE_SEED not in text
    assert study_markdown(results, ledger)
    board = text[text.index('id="leaderboard"') : text.index('id="ledger"')]
    assert board.count("<tr") == 21
    labels = {results.label(arm) for arm in TWENTY}
    (curves,) = (picture.svg for picture in drawn if picture.name == "learning_curves")
    heights = sorted(y for y, label in text_heights(curves) if label in labels)
    assert len(heights) == len(labels) == 20
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) > 9  # no label on another


def text_heights(svg):
    """(y, text) of every text of a figure."""
    for attributes, text in re.findall(r"<text([^>]*)>([^<]+)</text>", svg):
        y = re.search(r"translate\([-\d.]+ ([-\d.]+)\)", attributes) or re.search(r' y="([-\d.]+)"', attributes)
        yield float(y[1]), text


def test_first_screen_says_what_was_found(results, tmp_path):
    text = study_page(results, build_ledger(results), [])
    assert re.search(r"needs 1\.\d\d× \[[\d.]+ to [\d.]+×\] the training FLOPs of", text[: text.index('id="leaderboard"')])
    poor = load_results(write_results(tmp_path, arms=TWENTY[:5], mismatch=0.05, truth=Truth(speeds={"transformer_modern": 3.0})))
    text = study_page(poor, build_ledger(poor), [])
    first = text[: text.index('id="leaderboard"')]
    assert "The arms are not matched" in first
    assert "Lowest mean test loss of 5 arms: “" in first
    assert " of 3 other arms, 1 of them better" in first


def test_page_says_what_was_not_measured(tmp_path):
    results = load_results(write_results(tmp_path, truth=Truth(recall=False, swept=False, cooldowns=())))
    gone = {entry.name for entry in left_out(results)}
    assert {"recall", "rates", "multipliers"} <= gone
    assert gone | {picture.name for picture in pictures(results)} == {entry.name for entry in FIGURES}
    text = study_page(results, build_ledger(results), [])
    assert "needs a sweep of an arm&#39;s learning rate" in text
    assert "No sweep is part of these runs" in text
    assert "(no sweep)" in text


def test_metrics_of_a_study_fit_a_terminal(results):
    numbers = headline(results, leaderboard(results), build_ledger(results))
    assert len(numbers) <= 12
    assert all(isinstance(value, int | float) for value in numbers.values())
    assert numbers["flop_multiplier"] > 1


# ---------------------------------------------------------------------------------------------- the front page


@pytest.fixture(scope="module")
def front(several):
    """Results by study, merged ledger, and the front page of three studies, of which two have a page."""
    studies = {name: load_results(several, study=name) for name in ("main", "field", "plain")}
    params = studies["main"].params
    claims = merged_ledger(studies, params, "smoke")
    return studies, claims, front_page("smoke", params, studies, claims, ("main", "field"), front_figures(studies, claims))


def test_front_page_leads_to_no_page_that_is_not_made(front, several):
    """Figures and entries come from the runs that there are, also of a study whose page nobody made."""
    studies, claims, text = front
    params, figures = studies["main"].params, front_figures(studies, claims)
    assert {figure["study"] for figure in figures.values()} & {"main", "field"}
    for pages in ((), ("main",), ("main", "field")):
        links = Page(front_page("smoke", params, studies, claims, pages, figures)).links
        assert {link.split("/")[0] for link in links if "/report.html" in link} == set(pages)
        links = re.findall(r"\]\(([^)#]+)", front_markdown("smoke", params, studies, claims, pages))
        assert {link.split("/")[0] for link in links} == set(pages)


def test_front_page_leads_to_the_front_pages_of_other_scales_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(write_results(tmp_path, arms=("lolm",), seeds=(1,), truth=SHORT))
    monkeypatch.setattr("pipeline.front.present_scales", lambda params: ["smoke", "nano", "tiny"])

    def linked(made=()):
        make_front(load_params(), "smoke", made)
        return {link for link in Page(Path("reports/smoke/index.html").read_text(encoding="utf-8")).links if "index.html" in link}

    assert linked() == set()
    assert linked(["smoke", "nano"]) == {"../nano/index.html"}
    Path("reports/tiny").mkdir()
    Path("reports/tiny/index.html").write_text("there")
    assert linked(["smoke"]) == {"../tiny/index.html"}


def test_front_page_answers_the_headline_questions_first(front):
    _, claims, text = front
    Page(text)
    known = {claim.id for claim in claims}
    assert all(id in known for question in QUESTIONS for id in question.claims)
    order = [*(question.text for question in QUESTIONS), "The headline questions</h2>", "Studies</h2>", "All claims</h2>"]
    assert sorted(order, key=text.index) == order
    top = text[: text.index("The headline questions</h2>")]
    assert "published form of the Transformer" in top
    assert "modern Transformer" in top
    ledger = text[text.index("All claims</h2>") :]
    assert all(ledger.count(f'<tr id="{claim.id}"') == 1 for claim in claims)


def test_front_page_names_what_was_not_run_and_how_to_run_it(front):
    _, claims, text = front
    page = text[text.index('id="not-run"') :]
    commands = {claim.command for claim in claims if claim.verdict == "not run"}
    assert commands
    assert all(command in page for command in commands if command)
    assert {slug for slug in ("holds", "fails", "not-run", "not-testable") if f'class="verdict {slug}"' in text} == {
        "holds", "fails", "not-run", "not-testable"
    }  # fmt: skip
    assert len(VERDICTS) == 5


def test_front_page_lists_a_study_at_the_scale_it_is_made_for():
    """A part of the study over budgets is none at another size, even where the arms it names have runs there."""
    params = load_params(ROOT / "params.yaml")
    at_tiny = {line.name: line.command for line in study_lines(params, "tiny", {}, ())}
    assert at_tiny["context"] == "make repro SCALE=context STUDY=context"
    assert at_tiny["main"] == "make repro SCALE=tiny STUDY=main"
    assert not at_tiny.keys() & set(params.budgets.values())
    at_nano = {line.name for line in study_lines(params, "budget_nano", {}, ())}
    assert at_nano & set(params.budgets.values()) == {"budgets_small"}


def test_published_numbers_stand_in_no_cell_of_ours(front):
    """By the cells' labels: what the authors print is called so, and ours are exactly the ledger's numbers."""
    _, claims, text = front
    ledger = text[text.index('<section id="ledger">') :]
    for claim in claims:
        row = ledger[ledger.index(f'<tr id="{claim.id}"') :]
        cells = [(label, words) for label, words in Page(row[: row.index("</tr>") + 5]).cells if label]
        (printed, *ours) = cells
        assert printed == ("published by the authors", claim.published_shown)
        assert [label.split(",")[0] in ("ours", "recomputed", "like for like") for label, _ in ours] == [True, True]
        for (_, words), quantity in zip(ours, (claim.as_published, claim.sound), strict=True):
            if quantity is None:
                assert words == "—"
            elif quantity.value is None:
                assert words == "not measured"
            else:
                assert words.startswith(quantity.shown)


def test_front_page_in_markdown(front):
    studies, claims, _ = front
    text = front_markdown("smoke", studies["main"].params, studies, claims, ("main",))
    assert all(f"**{question.text}**" in text for question in QUESTIONS)
    assert "[main](main/claims.md)" in text
    assert "&#39;" not in text
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))


def test_readme_says_no_more_than_the_verdicts(front):
    studies, claims, _ = front
    block = readme_block("smoke", studies["main"].params, claims)
    by_statement = {claim.statement: claim for claim in claims}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line.startswith("| LOLM")]
    assert rows
    for statement, printed, inside, ours, verdict in rows:
        claim = by_statement[statement]
        published = claim.as_published
        assert inside.startswith("—" if published is None or published.value is None else published.shown_whole)
        assert verdict == claim.verdict
        assert printed == claim.published_shown
        assert ours.startswith(claim.sound.shown_whole)
    text = "a\n<!-- findings:begin -->\nold\n<!-- findings:end -->\nb\n"
    assert with_block(text, "new\n") == "a\n<!-- findings:begin -->\nnew\n<!-- findings:end -->\nb\n"
    with pytest.raises(LolmError, match="findings:begin"):
        with_block("no marks", "new\n")


# ---------------------------------------------------------------------------------------------- the stages


@pytest.mark.parametrize("beside", [["smoke"], ["tiny", "smoke"]])
def test_a_trial_does_not_replace_the_pages_of_another_scale(tmp_path, monkeypatch, beside):
    """As in `dvc exp run -S scale=smoke` in a clone, whose reports/claims.md are those of tiny."""
    monkeypatch.chdir(write_results(tmp_path, arms=("lolm",), seeds=(1,), truth=SHORT))
    monkeypatch.setattr("pipeline.front.present_scales", lambda params: beside)
    make_front(load_params(), "smoke")
    assert Path("reports/smoke/claims.md").exists()
    assert Path("reports/claims.md").exists() == ("tiny" not in beside)


def test_stages_write_the_same_bytes_in_two_folders_and_links_resolve(staged):
    """Once as commands, once in this process, which has drawn other things before."""
    written = []
    for folder in staged[:2]:
        assert "| LOLM " in (folder / "README.md").read_text()
        reports = folder / "reports"
        written.append({str(p.relative_to(reports)): p.read_bytes() for p in sorted(reports.rglob("*")) if p.is_file()})
    assert written[0] == written[1]
    made = {
        "claims.json",
        "claims.md",
        "report.html",
        "summary.json",
        "learning_curves.csv",
        "leaderboard.csv",
        "leaderboard.json",
    }
    assert {f"smoke/{study}/{name}" for study in ("main", "hybrids") for name in made} <= set(written[0])
    shown = [entry.name for entry in FIGURES if entry.name not in ALONE]
    assert {f"smoke/main/{path}" for name in shown for path in (f"figures/{name}.svg", f"tables/{name}.csv")} <= set(written[0])
    assert {"index.html", "claims.md", "claims.json", "report.html", "smoke/index.html", "smoke/claims.json"} <= set(written[0])
    assert isinstance(json.loads(written[0]["claims.json"]), list)
    pages = {name: Page(text.decode()) for name, text in written[0].items() if name.endswith(".html")}
    for name, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if not link.startswith("data:"):
                where = os.path.normpath(os.path.join(os.path.dirname(name), target)) if target else name
                assert where in pages, (name, link)
                assert not anchor or anchor in pages[where].ids, (name, link)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", written[0]["claims.md"].decode())
    assert links
    assert all(link in written[0] for link in links)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Records of two studies, and the page of the one without LOLM."""
    folder = write_results(tmp_path_factory.mktemp("reported"), studies={"plain": PLAIN}, truth=SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("pipeline.report.pictures", lambda results: [])  # which take most of the time, and nobody looks at them
        make(load_params(), "smoke", "plain")
    return folder


def test_a_measurement_of_another_model_stops_no_page_and_is_told(tmp_path, monkeypatch, capsys):
    """As of a run that was trained again: no stage makes its downstream scores, and another study's its recall."""
    monkeypatch.chdir(write_results(tmp_path, seeds=(1,), truth=SHORT))
    monkeypatch.setattr("pipeline.report.pictures", lambda results: [])
    layout, params = Layout("smoke"), load_params()
    scored = Downstream("lolm", 1, "lolm", "of before", harness="", max_length=8, limit=None, tasks={})
    write(layout.downstream("lolm", 1), scored)
    write(layout.recall("lolm", 1), replace(read(layout.recall("lolm", 1), Recall), model="of before"))
    make(params, "smoke", "main")
    make_front(params, "smoke")
    said = capsys.readouterr().out
    assert "report: recall of lolm-1 is of another model, and left out" in said
    assert "report: downstream of lolm-1 is of another model, and left out" in said
    assert "transformer-1" not in said
    assert "recall" not in read_json(layout.metrics("lolm", 1))
    told = (layout.study("main") / "claims.md").read_text(encoding="utf-8")
    assert "seed 1, `recall`: `make repro SCALE=smoke`\n" in told
    assert "seed 1, `downstream`: `make downstream SCALE=smoke`\n" in told
    assert "<code>make downstream SCALE=smoke</code></li>" in (layout.study("main") / "report.html").read_text(encoding="utf-8")
    assert (layout.reports / "index.html").exists()


def test_headlines_are_of_the_present_settings_and_written_where_they_change(tmp_path, monkeypatch):
    monkeypatch.chdir(write_results(tmp_path, seeds=(1,), truth=SHORT))
    monkeypatch.setattr("pipeline.report.pictures", lambda results: [])
    params, layout = load_params(), Layout("smoke")
    make(params, "smoke", "main")
    first, others = read_json(layout.metrics("lolm", 1)), layout.metrics("transformer", 1).stat().st_mtime_ns
    forced = replace(params, analysis=replace(params.analysis, inversion_statistic="gate"))
    make(forced, "smoke", "main")
    second = read_json(layout.metrics("lolm", 1))
    run = load_run(layout, RunKey("lolm", 1))
    assert first["inversion"] == round(statistic(run, RemovalMethod(params.analysis.inversion_statistic)), 4)
    assert second["inversion"] == round(statistic(run, RemovalMethod("gate")), 4) != first["inversion"]
    assert layout.metrics("transformer", 1).stat().st_mtime_ns == others


def test_every_page_that_exists_is_made_again(reported, tmp_path, monkeypatch):
    folder = shutil.copytree(reported, tmp_path / "copy")
    monkeypatch.chdir(folder)
    page = folder / "reports/smoke/plain/report.html"
    before = page.read_bytes()
    page.write_text("")
    shutil.copy(ROOT / "reports/benchmark.json", folder / "reports")
    monkeypatch.setattr(sys, "argv", ["report"])
    monkeypatch.setattr("pipeline.report.pictures", lambda results: [])
    report()
    assert page.read_bytes() == before, "the benchmark is of another scale"
    assert not (folder / "reports/smoke/main").exists()
    record = read_json(folder / "reports/benchmark.json")
    write_json(folder / "reports/benchmark.json", record | {"settings": record["settings"] | {"scale": "smoke"}})
    report()
    assert "<h2>Speed on the machine of the benchmark</h2>" in page.read_text(encoding="utf-8")


def test_the_benchmarks_figure_is_made_again(tmp_path, monkeypatch):
    """The committed one is of the committed record and the code of now."""
    (tmp_path / "reports").mkdir()
    for name in ("params.yaml", "reports/benchmark.json"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report"])
    report()
    for name in ("benchmark.svg", "benchmark.csv"):
        assert (tmp_path / "reports/figures" / name).read_bytes() == (ROOT / "reports/figures" / name).read_bytes()


def test_runs_under_other_parameters_are_stale(tmp_path, monkeypatch):
    monkeypatch.chdir(write_results(tmp_path, truth=SHORT, diverged=("lolm-2",)))
    params = load_params()
    results, stale = load_study(params, "smoke", "main")
    assert (len(results.runs), len(results.diverged), stale) == (5, 1, [])
    smoke = params.scales["smoke"]
    edited = replace(params, scales={"smoke": replace(smoke, training=replace(smoke.training, steps=smoke.training.steps * 2))})
    results, stale = load_study(edited, "smoke", "main")
    assert (len(results.runs), len(stale)) == (0, 6)


def beside(folder, change):
    """A change of params.yaml there, as a mapping."""
    raw = yaml.safe_load(Path(folder, "params.yaml").read_text())
    change(raw)
    Path(folder, "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def heads_of_fifteen(raw):
    """Half of a head of 30 has positions, and they rotate in pairs."""
    raw["scales"]["smoke"]["sizes"]["griffin"] |= {"d_model": 60, "n_heads": 2}


def test_a_study_that_nobody_asked_for_and_that_has_no_size_stops_no_page(tmp_path, monkeypatch, capsys):
    studies = {"hybrid": {"arms": ["lolm", "samba", "griffin"], "seeds": [1], "baseline": "griffin"}}
    monkeypatch.chdir(write_results(tmp_path, studies=studies, truth=SHORT))
    monkeypatch.setenv("LOLM_RUNNER", "1")
    monkeypatch.setattr("lolm.accounting.matching.LARGEST_UNIT", 64)  # each is tried
    made = []

    def page(params, scale, study, *_):
        load_study(params, scale, study)
        made.append(study)

    monkeypatch.setattr("pipeline.report.make", page)
    for study in ("main", "hybrid"):
        Path("reports/smoke", study).mkdir()
        Path("reports/smoke", study, "report.html").write_text("of before")
    beside(tmp_path, heads_of_fifteen)
    why = "rope 0.5 of head width 30 must be an even number"
    monkeypatch.setattr(sys, "argv", ["report"])
    for command in (report, lambda: made.extend(scale_results(load_params(), "smoke"))):  # of front and power
        command()
        said = capsys.readouterr().out
        assert said.startswith("study hybrid is left out at scale smoke, for its arm griffin: ")
        assert why in said
        assert said.count("\n") == 1
    assert made == ["main", "main"]
    monkeypatch.setattr(sys, "argv", ["report", "--scale", "smoke", "--study", "hybrid"])
    for command in (report, lambda: scale_results(load_params().select("smoke", "hybrid"), "smoke")):
        with pytest.raises(ConfigError, match=why):
            command()


def test_a_study_without_a_scale_is_made_where_it_has_a_page_and_at_the_scale_of_params(tmp_path, monkeypatch, capsys):
    root = write_scales(tmp_path, count=3)
    beside(root, lambda raw: raw.update(scale="s0", budgets={}))
    monkeypatch.chdir(root)
    monkeypatch.setenv("LOLM_RUNNER", "1")
    made = []
    monkeypatch.setattr("pipeline.report.make", lambda params, scale, study, *_: made.append((scale, study)))
    monkeypatch.setattr("lolm.tracking.try_sync_scale", lambda scale: None)
    Path("reports/s2/main").mkdir(parents=True, exist_ok=True)
    Path("reports/s2/main/report.html").write_text("there")
    monkeypatch.setattr(sys, "argv", ["report", "--study", "main"])
    report()
    assert made == [("s0", "main"), ("s2", "main")]
    beside(root, lambda raw: raw.update(budgets={"s1": "main", "smoke": "main"}))
    made.clear()
    report()
    assert made == [("s1", "main")], "of those that it is made for, the ones with records"
    beside(root, lambda raw: raw.update(budgets={"smoke": "main"}))
    made.clear()
    capsys.readouterr()
    report()
    assert made == []
    assert capsys.readouterr().out == "report: nothing to make of study main: no records at smoke\n"


@pytest.mark.slow
def test_a_broken_record_is_named_and_the_last_report_stays(reported, tmp_path):
    folder = shutil.copytree(reported, tmp_path / "copy")
    page = folder / "reports/smoke/plain/report.html"
    before = page.read_bytes()
    (folder / "reports/smoke/train/mamba-1/metrics.jsonl.xz").write_bytes(b"cut short")
    done = forks.stage(folder, "report", "--scale", "smoke", "--study", "plain", LOLM_RUNNER="1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "metrics.jsonl.xz: broken" in done.stderr
    assert "Traceback" not in done.stderr
    assert page.read_bytes() == before


def test_one_seed_of_arms_of_one_family_is_drawn_without_a_test(tmp_path):
    results = load_results(write_results(tmp_path, arms=("lolm", "lolm_half"), seeds=(1,), truth=SHORT))
    assert tables.training_arms(results)["p_adjusted"].isna().all()
    assert next(picture for picture in pictures(results) if picture.name == "training_arms").svg
