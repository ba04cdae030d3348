"""The real pipeline at scale smoke, in a copy of the project: what a user gets, and what a second run does."""

from __future__ import annotations

import re

import pytest
import yaml
from projects import dvc, python
from smoke_study import ARMS, RUNS, SAID, SEEDS, mlflow_rows

from lolm.records import Layout, read, read_json, read_series
from lolm.records.results import load_results
from lolm.records.schema import RunHeader, Sweep

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(made):
    return made.with_name("walked")


@pytest.fixture
def layout(project):
    return Layout("smoke", project)


def test_every_record_of_every_run_is_there(project, layout):
    results = load_results(project)
    assert [run.key for run in results.runs] == RUNS
    assert (results.missing, results.diverged) == ((), ())
    for run in results.runs:
        assert [row["step"] for row in run.rows if "val/nats" in row] == [0, 10, 20, 30]
        assert [(end.step, end.tokens) for end in run.evaluation.schedule_ends] == [(step, step * 256) for step in (8, 15, 30)]
        assert (run.evaluation.tokens, run.evaluation.subset_tokens) == (4096, 2048)
        assert run.evaluation.schedule_ends[-1].validation == run.evaluation.validation
        assert run.evaluation.schedule_ends[-1].test != run.evaluation.test, "of a part of the text, and of the whole"
        assert run.evaluation.samples.generated.distinct_2 is not None
        assert run.evaluation.positions.bins[-1].stop == 64
        assert set(run.evaluation.lengths.windows) | set(run.evaluation.lengths.left_out) == {"1", "2", "4"}
        assert set(run.recall.tasks) == {"mqar", "induction"}
        assert run.ablation_steps == (8, 15, 30)
        assert all(record.inputs for record in (run.evaluation, run.ablation, run.recall))
        assert sorted(path.name for path in layout.weights(*run.key).iterdir()) == ["cooldowns", "model.safetensors", "snapshots"]
        assert set(read_json(layout.metrics(*run.key))) >= {"test_nats", "bits_per_byte", "accuracy", "parameters", "seconds"}
    assert "inversion" in read_json(layout.metrics("lolm", 1))
    assert not list((project / ".scratch").glob("*/checkpoint.pt"))


def test_the_runner_says_where_it_is_and_ends_with_what_was_found(project):
    lines = (project / SAID).read_text(encoding="utf-8").splitlines()
    stages = list(yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    told = [line for line in lines if re.match(r"stage \d+ of \d+: ", line)]
    assert sorted(told, key=lambda line: int(line.split()[1])) == [f"stage {i} of 12: {name}" for i, name in enumerate(stages, 1)]
    assert told.index("stage 6 of 12: train") < told.index("stage 11 of 12: report")
    early = lines.index("the page so far: reports/smoke/main/report.html")
    assert lines.index("stage 6 of 12: train") < early < lines.index("stage 7 of 12: evaluate"), "once there was a pair"
    ended = [line for line in lines if re.match(r"train: \d of 4 ended; .* with their measurements$", line)]
    assert len(ended) == 4
    looked = python(project, "-m", "pipeline.status")
    assert re.findall(r"(\d+) of (\d+) made", looked) == [("2", "2"), ("4", "4"), ("4", "4"), ("4", "4"), ("2", "2"), ("4", "4")]
    assert "all of it is made" in looked
    found = [line.split(".")[0] for line in lines[-8:]]
    assert [topic for topic in found if topic in ("Efficiency", "Inversion", "Generality")] == [
        "Efficiency",
        "Inversion",
        "Generality",
    ]


def test_the_swept_rate_is_the_one_trained_with(layout):
    for arm in ARMS:
        sweep = read(layout.sweep(arm), Sweep)
        rates = {rate.learning_rate: rate.nats for rate in sweep.rates}
        assert len(rates) == 3
        assert sweep.chosen == min(rates, key=rates.__getitem__)
        for seed in SEEDS:
            assert read(layout.header(arm, seed), RunHeader).run.size.learning_rate == sweep.chosen


def test_pages_and_the_front_page(project, layout):
    for page in (layout.study("main") / "report.html", layout.reports / "index.html"):
        text = page.read_text(encoding="utf-8")
        assert "<svg" in text
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text), "the page must need nothing from outside"
    assert (project / "reports/index.html").exists()
    board = read_json(layout.study("main") / "leaderboard.json")
    assert set(board) == set(ARMS)
    columns = {"length_2x_nats", "length_4x_nats", "late_minus_early_bits_per_byte", "mqar_accuracy", "distinct_2"}
    assert all(columns <= set(row) for row in board.values()), "what the stages write is what the leaderboard reads"


# Claims of which a study of LOLM and its baseline at scale smoke measures all that they need, whatever comes out. A record that
# lost a key, or a measure that asks for another name, would make one of them "not testable" without a word.
MEASURED = """
    efficiency_2x efficiency_direction matched_budget early_lead behind_at_end gate_level gate_surface gate_reversal
    gate_target gate_share gate_reversal_everywhere inversion_preregistered inversion_null inversion_ways inversion_total
    surface_direct latent_direct latent_is_serial latent_branch_alone surface_branch_alone latent_minority dependency_grows
    function_words inversion inversion_over_training inversion_control latent_alone surface_alone half_worse_than_one
    gate_context regime_codes cpc_chance regime_contribution memory_contribution regime_entropy memory_loss pythia_late
    pythia_context pythia_repetition sanity_lolm sanity_transformer
""".split()  # noqa: SIM905


def test_claims_that_must_be_measured_are(layout):
    """Thirty steps decide nothing, so verdicts are withheld; the numbers behind them are there all the same."""
    claims = {claim["id"]: claim for claim in read_json(layout.study("main") / "claims.json")}
    assert sorted(set(MEASURED) - set(claims)) == []
    lacking = [name for name in MEASURED if claims[name]["sound"] is None or claims[name]["sound"]["value"] is None]
    assert lacking == []
    assert all(claims[name]["runs"] for name in MEASURED)
    assert not any(claims[name]["verdict"] == "not run" for name in MEASURED)
    assert {claims[f"sanity_{arm}"]["verdict"] for arm in ARMS} <= {"holds", "fails", "inconclusive"}


def test_second_run_does_nothing(project):
    folders = (project / "artifacts", project / "reports")
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}
    printed = dvc(project, "repro")
    assert "Running stage" not in printed
    assert "Data and pipelines are up to date" in printed
    assert before == {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_every_run_is_in_mlflow_once_with_what_the_records_say(project, layout):
    names = [row[0] for row in mlflow_rows(project, "SELECT name FROM runs WHERE lifecycle_stage = 'active'")]
    assert sorted(name for name in names if "report" not in name) == [f"{arm} · smoke · seed {seed}" for arm, seed in RUNS]
    for key in RUNS:
        fingerprint = read(layout.header(*key), RunHeader).fingerprint
        query = f"""SELECT metrics.step, metrics.value FROM metrics JOIN tags USING (run_uuid)
                    WHERE tags.key = 'fingerprint' AND tags.value = '{fingerprint}' AND metrics.key = 'val/nats'"""
        recorded = [(row["step"], row["val/nats"]) for row in read_series(layout.series(*key)) if "val/nats" in row]
        assert sorted(mlflow_rows(project, query)) == recorded
    runs_of_claims = {run["fingerprint"] for claim in read_json(layout.study("main") / "claims.json") for run in claim["runs"]}
    tagged = {row[0] for row in mlflow_rows(project, "SELECT value FROM tags WHERE key = 'fingerprint'")}
    assert runs_of_claims
    assert runs_of_claims <= tagged, "each number of the ledger leads to a run in MLflow"


def test_lost_store_is_filled_again_from_the_records(project):
    query = "SELECT key, value, step FROM metrics ORDER BY key, step, value"
    before = mlflow_rows(project, query)
    (project / "mlflow.db").rename(project / "kept.db")
    try:
        for _ in range(2):
            python(project, "-m", "pipeline.track")
            assert mlflow_rows(project, query) == before
    finally:
        (project / "kept.db").rename(project / "mlflow.db")


def test_dvc_shows_metrics_that_fit_a_terminal_and_a_plot_by_arm(project):
    shown = dvc(project, "metrics", "show")
    assert "test_nats" in shown
    assert max(map(len, shown.splitlines())) <= 160
    dvc(project, "plots", "show", "-o", "plots")
    page = (project / "plots" / "index.html").read_text(encoding="utf-8")
    assert "Held-out loss of each arm" in page
    assert '"field": "arm"' in page
    assert "learning_curves" in page
    assert "train@smoke" in dvc(project, "dag")


def test_notebooks_run_on_the_results(project, monkeypatch):
    """Those that read them; test_notebooks.py executes the others, which have models and texts of their own."""
    import nbformat
    from nbclient import NotebookClient

    for name, value in {"LOLM_ROOT": str(project), "LOLM_SCALE": "smoke", "MPLBACKEND": "agg"}.items():
        monkeypatch.setenv(name, value)
    paths = [path for path in sorted((project / "notebooks").glob("*.ipynb")) if "LOLM_ROOT" in path.read_text(encoding="utf-8")]
    assert paths
    for path in paths:
        NotebookClient(nbformat.read(path, as_version=4), timeout=120, kernel_name="python3").execute()
