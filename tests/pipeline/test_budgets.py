"""The study over sizes and budgets from planted records: its record, page, claims; what a part of it says."""

import io
import json
import re
import shutil
import sys
from contextlib import chdir, redirect_stdout
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest import mock

import forks
import pytest
import yaml
from synthetic import EXPONENT, FLOOR, SIZE_EXPONENT, SIZE_HEIGHT, write_scales

import pipeline.budgets
from lolm.analysis.budgets import Published, budgets
from lolm.claims import build_ledger, merged_ledger, registry
from lolm.claims.cost import needs
from lolm.claims.sentences import summary
from lolm.config import ConfigError, load_params
from lolm.records import Layout, RecordError, budgets_record, read, write
from lolm.records.results import load_results
from lolm.records.schema import Budgets, Divergence, MeasuredGap, RunHeader, Value
from lolm.report.budgets import budgets_page, shown
from lolm.report.front import readme_block

ROOT = Path(__file__).resolve().parents[2]
SPEED = 1.5  # of LOLM's law in steps


def stage(folder, *arguments):
    """What the stage prints; a process of its own for each would load everything again."""
    said = io.StringIO()
    with chdir(folder), mock.patch.object(sys, "argv", ["pipeline/budgets.py", *arguments]), redirect_stdout(said):
        pipeline.budgets.study()
    return said.getvalue()


def results_of(root, count=4):
    return [load_results(root, f"s{i}") for i in range(count)]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_scales(tmp_path_factory.mktemp("budgets"), count=4)


@pytest.fixture(scope="module")
def record(project):
    return budgets(results_of(project), [Published("20m", 20_000_000, 51_200_000)], 1e15)


def test_planted_laws_multiplier_and_slope_are_found(record):
    law = next(law for law in record.laws if law.arm == "transformer" and not law.shared)
    assert law.floor.value == pytest.approx(FLOOR, rel=0.1)
    assert law.alpha.value == pytest.approx(SIZE_EXPONENT, rel=0.2)
    assert law.beta.value == pytest.approx(EXPONENT, rel=0.2)
    assert law.runs == 8
    assert law.freedom == 4
    for shared in (False, True):
        rows = [m for m in record.multipliers if m.shared == shared]
        assert rows
        assert all(m.multiplier.value == pytest.approx(SPEED, rel=0.02) for m in rows)
        (slope,) = (s for s in record.slopes if s.shared == shared)
        assert slope.baseline == "transformer"
        assert slope.tenfold.value == pytest.approx(1.0, abs=0.02)


def test_gaps_are_measured_without_a_law(record):
    gaps = [g for g in record.gaps if g.scale == "s2"]
    assert [g.tokens for g in gaps] == sorted(g.tokens for g in record.gaps if g.scale == "s0")
    assert all(g.nats.value > 0 and g.nats.n == 2 for g in gaps)
    trend = next(t for t in record.trends if t.quantity == "gap")
    assert trend.against == "transformer"
    assert trend.tokens.value < 0  # by the law a lead in nats shrinks as losses fall
    assert trend.parameters.value == pytest.approx(0, abs=1e-6)  # a size adds the same to both arms
    measured = next(t for t in record.trends if t.quantity == "multiplier")
    assert measured.against == "transformer"
    for found in (measured.tokens, measured.parameters):  # SPEED at every end
        assert found.value == pytest.approx(1, abs=0.02)
        assert found.low <= found.value <= found.high


def test_dependency_stands_at_ends_of_schedules_alone(record):
    """The planted interventions were measured along the trunk: its last step is the one end among them."""
    assert {d.tokens for d in record.dependency} == {max(p.tokens for p in record.points)}
    assert all(d.statistic == pytest.approx(0.6, abs=0.05) for d in record.dependency)
    assert {t.quantity for t in record.trends} == {"gap", "multiplier", "statistic", "damage_latent", "share", "gate"}


def test_a_forecast_is_that_of_the_law(record):
    law = next(law for law in record.laws if law.arm == "lolm" and not law.shared)
    mine = next(p for p in record.predictions if p.arm == "lolm")
    assert mine.nats.value == pytest.approx(
        law.floor.value + law.a.value * 2e7**-law.alpha.value + law.b.value * 5.12e7**-law.beta.value
    )
    assert mine.gap is None
    theirs = next(p for p in record.predictions if p.arm == "transformer")
    assert theirs.gap.value == pytest.approx(theirs.nats.value - mine.nats.value)
    assert theirs.gap.low < theirs.gap.high


def test_studies_must_declare_one_pair(project):
    results = results_of(project)
    study = replace(results[1].params.studies["main"], subject="transformer", baseline="lolm")
    results[1] = replace(results[1], params=replace(results[1].params, studies={"main": study}))
    with pytest.raises(ConfigError, match=r"budgets\.s1: .*declare another subject or baseline"):
        budgets(results)


def edited(root, change):
    """params.yaml of a project after a change of its mapping."""
    path = root / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    change(raw)
    path.write_text(yaml.safe_dump(raw, sort_keys=False))


def another_vocabulary(raw):
    raw["scales"]["s1"] = raw["scales"]["s1"] | {"tokenizer": raw["scales"]["s1"]["tokenizer"] | {"vocab_size": 400}}


def another_pair(raw):
    raw["studies"]["other"] = {"arms": ["lolm", "transformer"], "seeds": [1], "subject": "transformer", "baseline": "lolm"}
    raw["budgets"]["s1"] = "other"


def a_size_that_no_arm_can_have(raw):
    raw["scales"]["s1"]["sizes"]["lolm"]["n_heads"] = 7


@pytest.mark.parametrize("run", [("--run",), ()])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (another_vocabulary, "budgets.s1: scale 's1' and the first, 's0', differ in corpus, tokenizer or training.seq_len"),
        (another_pair, "budgets.s1: studies 'other' and 'main', of the first scale, declare another subject or baseline"),
        (a_size_that_no_arm_can_have, "scales.s1.sizes.lolm"),
    ],
)
def test_a_design_that_gives_no_law_is_refused_before_its_first_run(tmp_path, monkeypatch, capsys, change, named, run):
    monkeypatch.chdir(write_scales(tmp_path, count=2))
    edited(Path(), change)
    monkeypatch.setattr("pipeline.budgets.foreground", lambda *_: pytest.fail("a run was begun"))
    monkeypatch.setattr(sys, "argv", ["pipeline/budgets.py", *run])
    with pytest.raises(ConfigError) as refused:
        pipeline.budgets.study()
    assert named in str(refused.value)


def test_no_scale_under_budgets_is_no_error_and_leaves_no_record(tmp_path):
    root = write_scales(tmp_path, count=2)
    stage(root)
    assert list((root / "reports/budgets").iterdir())
    edited(root, lambda raw: raw.pop("budgets"))
    for words in ((), ("--run",)):
        assert stage(root, *words) == "budgets: params.yaml names no scale\n"
        assert not list((root / "reports/budgets").iterdir())


def test_a_figure_of_earlier_runs_does_not_stay_where_none_is_drawn(tmp_path):
    root = write_scales(tmp_path, count=2)
    stage(root)
    for i, arm, seed in product(range(2), ("lolm", "transformer"), (1, 2)):
        Layout(f"s{i}", root).evaluation(arm, seed).unlink()
    stage(root)
    assert {path.name for path in (root / "reports/budgets").iterdir()} == {"budgets.json", "budgets.md"}


def test_the_stage_writes_record_page_figure_and_decides_claims(project):
    def claim():
        ledger = build_ledger(load_results(project, "s0"))
        return next(c for c in ledger if c.id == "lead_with_budget")

    assert claim().verdict == "not run"
    assert summary([claim()]) == {}, "nothing is said of a study that was not run"
    done = forks.stage(project, "budgets")
    assert done.returncode == 0, done.stderr
    folder = project / "reports" / "budgets"
    assert {path.name for path in folder.iterdir()} == {"budgets.json", "budgets.md", "budgets.svg", "budgets.csv"}
    assert read(folder / "budgets.json", Budgets).missing == ()
    page = (folder / "budgets.md").read_text()
    assert "partial result" not in page
    assert "| Transformer, published form | 1.50×" in page
    decided = claim()
    assert decided.verdict in ("holds", "fails", "inconclusive")
    assert decided.sound.value == pytest.approx(1.0, abs=0.02)
    assert decided.study == "budgets"
    assert decided.details["gap per tenfold tokens"].value < 0
    json.dumps(decided.to_record(), allow_nan=False)
    assert decided.sound.covers == "runs alone", "they differ in size too, and are no seeds"
    over = f"over {decided.sound.n_seeds} runs"
    assert over in decided.why
    assert over in summary([decided])["Budget"]
    assert decided.statement not in readme_block("s0", load_params(project / "params.yaml"), [decided]), (
        "not of the table's scale"
    )
    assert {f"{arm} · s{i} · seed {seed}" for arm, i, seed in product(("lolm", "transformer"), range(4), (1, 2))} == {
        name for name, _ in decided.runs
    }
    header = read(Layout("s3", project).header("lolm", 2), RunHeader)
    assert (header.name, header.fingerprint) in decided.runs


def test_a_part_of_the_study_shows_as_such_and_decides_nothing(tmp_path):
    root = write_scales(tmp_path, count=3, not_run=("s2/lolm-2", "s2/transformer"))
    assert "over 9 runs of 12; `make budgets` goes on" in stage(root)
    page = (root / "reports/budgets/budgets.md").read_text()
    assert "**a partial result**" in page
    assert "s2: transformer-1" in page
    assert "No law for Transformer, published form: 2 sizes" in page
    claim = next(c for c in build_ledger(load_results(root, "s0")) if c.id == "lead_with_budget")
    assert claim.verdict == "not run"
    assert "9 of the 12 runs" in claim.why


def verdicts(root):
    return {c.id: c for c in build_ledger(load_results(root, "s0")) if c.id in ("lead_with_budget", "latent_value_grows")}


@pytest.mark.parametrize(("measurement", "named"), [("evaluation", "not evaluated"), ("ablation", "interventions not measured")])
def test_a_run_whose_measurement_is_missing_is_missing(tmp_path, measurement, named):
    """All runs were made, but not all measured: those that were decide nothing."""
    root = write_scales(tmp_path, count=4)
    getattr(Layout("s2", root), measurement)("lolm", 2).unlink()
    stage(root)
    page = (root / "reports/budgets/budgets.md").read_text()
    assert "16 of 16 runs were made: **a partial result**, which decides no claim" in page
    assert f"Missing: s2: lolm-2, {named}." in page
    for claim in verdicts(root).values():
        assert claim.verdict == "not run"
        assert f"missing: s2: lolm-2, {named}" in claim.why


def test_a_diverged_run_is_named_and_waited_for_by_nobody(tmp_path):
    root = write_scales(tmp_path, count=4)
    layout = Layout("s1", root)
    header = read(layout.header("lolm", 2), RunHeader)
    write(layout.divergence("lolm", 2), Divergence("lolm", 2, header.name, header.fingerprint, 100, "loss is nan at step 100"))
    assert "goes on" not in stage(root)
    page = (root / "reports/budgets/budgets.md").read_text()
    assert "partial result" not in page
    assert "Diverged, and in no number here: s1: lolm-2." in page
    for claim in verdicts(root).values():
        assert claim.verdict in ("holds", "fails", "inconclusive")
        assert "Diverged: s1: lolm-2." in claim.why


def test_a_record_of_another_design_decides_nothing(tmp_path):
    """Scales are renamed in params.yaml, or all runs are of other parameters."""
    root = write_scales(tmp_path, count=4)
    stage(root)
    results = load_results(root, "s0")
    fewer = replace(results.params, budgets=dict.fromkeys(("s0", "s1", "s2"), "main"))
    claim = next(c for c in build_ledger(replace(results, params=fewer)) if c.id == "lead_with_budget")
    assert claim.verdict == "not run"
    assert "`budgets` in params.yaml" in claim.why
    assert set(verdicts(root)) == {"lead_with_budget", "latent_value_grows"}
    path = root / "params.yaml"
    text = path.read_text()
    path.write_text(text.replace("  clip: 1.0\n", "  clip: 2.0\n").replace("clip: 1.0\n", "clip: 2.0\n"))
    assert path.read_text() != text
    assert "not run" in stage(root)
    assert not list((root / "reports/budgets").iterdir())


@pytest.mark.parametrize(
    ("setting", "value"), [("confidence", 0.9), ("huber", 0.1), ("replicates", 50), ("inversion_statistic", "zero")]
)
def test_a_record_under_other_settings_decides_nothing(project, record, setting, value):
    """Its intervals would be called those of another level."""
    results = replace(load_results(project, "s0"), budgets=record)
    changed = replace(results.params, analysis=replace(results.params.analysis, **{setting: value}))
    for params, decided in ((results.params, True), (changed, False)):
        claims = {c.id: c for c in build_ledger(replace(results, params=params))}
        for name in ("lead_with_budget", "latent_value_grows"):
            assert (claims[name].verdict != "not run") == decided
            assert decided or f"`analysis.{setting}`; `make report`" in claims[name].why


def test_a_broken_record_is_made_again_by_what_its_error_names(tmp_path, project, record):
    root = shutil.copytree(project, tmp_path / "copy")
    path = budgets_record(root)
    write(path, record)
    path.write_text(path.read_text().replace('"settings"', '"setings"'))
    with pytest.raises(RecordError, match=r"budgets\.json: .*settings.*`make report`"):
        load_results(root, "s0")
    stage(root)
    assert load_results(root, "s0").budgets.points == record.points
    made = re.search(r"(?m)^report: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text()).group(1)
    assert re.findall(r"-m pipeline\.(\w+)", made)[:2] == ["budgets", "report"], "pages of studies read the record"


def planted(record, root, claim="lead_with_budget", **changes):
    """A claim by a changed record."""
    results = load_results(root, "s0")
    return next(c for c in build_ledger(replace(results, budgets=replace(record, **changes))) if c.id == claim)


def test_a_law_that_is_wrong_decides_nothing(project, record):
    up = tuple(replace(s, tenfold=Value(1.2, 1.1, 1.3, 8)) for s in record.slopes)
    assert planted(record, project, slopes=up).verdict == "holds"
    wrong = tuple(replace(law, form=0.01) if law.arm == "transformer" else law for law in record.laws)
    claim = planted(record, project, slopes=up, laws=wrong)
    assert claim.verdict == "inconclusive"
    assert "The law does not fit: Transformer, published form." in claim.why
    assert "Measured at equal size, per tenfold tokens: s0 1.00×" in claim.why
    assert claim.sound is None, "what is read off a law that is wrong is no finding"
    assert claim.details["by the laws"].value == 1.2
    (said,) = summary([claim]).values()
    assert "whether LOLM's lead over the published form of the Transformer grows" in said
    assert said.endswith("(the law does not fit: Transformer, published form).")


def test_a_change_over_a_short_range_decides_nothing(project, record):
    for high, verdict in ((3.1e12, "holds"), (2.9e12, "inconclusive")):
        up = tuple(replace(s, tenfold=Value(1.2, 1.1, 1.3, 8), low=1e12, high=high) for s in record.slopes)
        claim = planted(record, project, slopes=up)
        assert claim.verdict == verdict
    assert "over a factor of 2.9 of compute, of 3 asked" in claim.why


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        (((0.2, 0.1, 0.3, 3), (0.1, 0.05, 0.15, 3), (-9, None, None, 1)), "holds"),
        (((-0.2, -0.3, -0.1, 3), (-0.1, -0.15, -0.05, 4), (9, 8, 10, 2)), "fails"),
        (((0.2, 0.1, 0.3, 3), (-0.1, -0.15, -0.05, 3), (9, 8, 10, 2)), "inconclusive"),
        (((0.2, 0.1, 0.3, 3), (0.1, -0.05, 0.15, 3), (9, 8, 10, 2)), "inconclusive"),
        (((0.2, 0.1, 0.3, 2), (0.1, 0.05, 0.15, 2), (9, 8, 10, 2)), "inconclusive"),
    ],
)
def test_the_gap_with_most_tokens_is_judged_at_every_size_of_three_seeds(project, record, gaps, verdict):
    """With the most tokens that all sizes have; fewer, and a size's own surplus, count for nothing."""
    rows = [MeasuredGap("transformer", f"s{i}", 1000, Value(*gap)) for i, gap in enumerate(gaps)]
    rows += [MeasuredGap("transformer", f"s{i}", 10, Value(5, 4, 6, 3)) for i in range(3)]
    rows.append(MeasuredGap("transformer", "s0", 9000, Value(5, 4, 6, 3)))
    claim = planted(record, project, "lead_at_largest_budget", gaps=tuple(rows))
    assert claim.verdict == verdict
    assert {name: quantity.value for name, quantity in claim.details.items()} == {
        f"at s{i}": gap[0] for i, gap in enumerate(gaps)
    }
    judged = [gap[0] for gap in gaps if gap[3] > 2]
    assert (claim.sound and claim.sound.value) == (judged[-1] if judged else None)
    assert "Not declared before the runs" in claim.caveats[0]
    assert f"{claim.details['at s1'].shown_whole} at s1" in summary([claim])["Budget"]


def test_the_page_says_rates_unstable_ends_and_what_is_wrong_with_a_law(project, record):
    points = [replace(p, learning_rate=0.003 if p.scale == "s1" else 0.001) for p in record.points]
    last = max(range(len(points)), key=lambda i: (points[i].scale == "s1" and points[i].arm == "lolm", points[i].tokens))
    points[last] = replace(points[last], nats=9.0)
    laws = tuple(replace(law, form=0.01 if law.arm == "lolm" else 0.5, loose=()) for law in record.laws)
    page = budgets_page(replace(record, points=tuple(points), laws=laws), load_results(project, "s0").params)
    label = "LOLM v3, sound"
    assert f"| {label} | 0.001 | 0.003 | 0.001 | 0.001 |" in page
    assert f"s1: lolm-{points[last].seed} at" in page
    assert "9.000 after" in page
    forecast = {line.split(" | ")[3]: line for line in page.splitlines() if line.startswith("| 20m ")}
    assert forecast[label].endswith("| does not fit |")
    assert forecast["Transformer, published form"].endswith("| — |")


def raised(evaluation, nats):
    """The same with losses that many nats higher."""
    ends = tuple(replace(e, test=replace(e.test, nats=e.test.nats + nats)) for e in evaluation.schedule_ends)
    return replace(evaluation, test=replace(evaluation.test, nats=evaluation.test.nats + nats), schedule_ends=ends)


def test_no_slope_is_read_where_the_best_was_not_measured(project, record):
    assert all(0 < s.inside < 1 for s in record.slopes)
    for slope in record.slopes:
        between = [m for m in record.multipliers if m.shared == slope.shared and slope.low <= m.flops <= slope.high]
        assert between
        assert all(m.inside for m in between)
    results = results_of(project)
    for i, r in enumerate(results):  # so much is gained by a larger model that the best one was never made
        more = 30 * SIZE_HEIGHT * (100_000 * 2**i) ** -SIZE_EXPONENT
        results[i] = replace(r, runs=tuple(replace(run, evaluation=raised(run.evaluation, more)) for run in r.runs))
    moved = budgets(results)
    assert moved.laws
    assert not moved.slopes
    claim = planted(moved, project)
    assert claim.verdict == "inconclusive"
    assert "at no compute that both arms spent" in claim.why.lower()
    assert "Measured at equal size, per tenfold tokens: s0 " in claim.why
    assert claim.details["gap per tenfold tokens at s0"].n_seeds == 2


def test_nothing_is_written_before_the_first_run(tmp_path):
    root = write_scales(tmp_path, count=2, not_run=[f"s{i}/{arm}" for i in (0, 1) for arm in ("lolm", "transformer")])
    assert "not run" in stage(root)
    assert not (root / "reports/budgets").exists()


def test_what_is_not_run_has_its_command_and_price():
    params = load_params(ROOT / "params.yaml")

    class Unit:
        def training_flops(self, scale, arm):
            return 1.0

    found = needs(params, "tiny", "budgets", Unit())
    asked = [params.studies[name] for name in params.budgets.values()]
    assert found.command == "make budgets"
    assert found.training_flops == sum(len(study.arms) * len(study.seeds) for study in asked)
    assert needs(params, "budget_tiny", "budgets", Unit()).command == "make repro SCALE=budget_tiny STUDY=budgets"
    assert needs(params, "tiny", "context", Unit()).command == "make repro SCALE=context STUDY=context"
    entries = (*registry.budgets.ENTRIES, *registry.boundaries.ENTRIES)
    claims = {claim.id: claim for claim in merged_ledger({}, params, "tiny", entries)}
    assert claims["lag_with_budget"].needs.command == "make budgets"
    at_a_size = {claim.id: claim for claim in merged_ledger({}, params, "budget_nano")}
    assert at_a_size["lag_with_budget"].needs.command == "make budgets"  # one size decides no claim over sizes
    assert claims["gate_at_transitions"].needs.command == "make repro SCALE=context STUDY=context"


def test_the_design_shares_text_window_ends_and_pair():
    params = load_params(ROOT / "params.yaml")
    scales = [params.scales[name] for name in params.budgets]
    assert len({(s.corpus, s.tokenizer) for s in scales}) == 1
    assert len({(s.training.steps, s.training.cooldown_steps, s.training.tokens_per_step) for s in scales}) == 1
    assert scales[0].training.cooldown_steps == (1000, 2000, 4000, 8000)
    assert all(s.ablation.annealed and not s.training.snapshots for s in scales)
    for name in params.budgets:  # each is its own size's scale, trained longer
        preset, own = params.scales[name], params.scales[name.removeprefix("budget_")]
        assert {k: v for k, v in preset.sizes.items() if k != "lolm"} == {k: v for k, v in own.sizes.items() if k != "lolm"}
    smallest, control = params.scales["budget_nano"], params.scales["budget_rates"]
    assert control.sweep.steps == smallest.training.steps
    assert replace(control, sweep=smallest.sweep) == smallest, "the control of the rates differs in its sweep alone"


def test_numbers_without_a_bound_are_shown_so():
    assert shown(Value(None, 1.2, None, 8), "{:.2f}×") == "∞ [1.20× to ∞]"
    assert shown(Value(-0.5, -1.0, -0.1, 3)) == "−0.500 [−1.000 to −0.100]"
    assert shown(Value(1.0, n=1)) == "1.000"
    assert shown(Value(None)) == "—"
