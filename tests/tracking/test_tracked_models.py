"""What MLflow shows of a run: its model, which loads without this project, its data, its verdicts, and charts without set-up."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch
from builders import ROOT
from minicorpus import make_texts
from synthetic import Truth, keep_weights, write_results

import lolm
from lolm import tracking
from lolm.config import load_params
from lolm.corpus.tokenizer import train_tokenizer
from lolm.export.pyfunc import _load_pyfunc
from lolm.models.build import build_model
from lolm.records import Layout, RunKey, cooldown_path, read, sha256_of, snapshot_path, write_json
from lolm.records.schema import RunHeader
from lolm.tracking.experiments import EVERY_ARM, GROUP_TAG, LONGEST_TAG, SECTIONS, STUDIES_TAG, VIEW_TAG, chart_page
from lolm.tracking.models import EXAMPLE
from lolm.tracking.notes import LONGEST
from lolm.tracking.runs import finished_view
from lolm.tracking.store import open_client

KEY = RunKey("lolm", 1)
INSIDE, LATER, END = 20, 10, 10  # steps of snapshots, and of an annealed copy
STRANGER = """
import json, sys
sys.modules.update(dict.fromkeys(("lolm", "pipeline", "numba", "triton")))
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
print(json.dumps(model.predict(model.input_example, params={"max_tokens": 8, "seed": 1}).to_dict("records")))
"""


@pytest.fixture(scope="module")
def synced(tmp_path_factory, migrated):
    """A project whose records MLflow holds, with the weights of its one run; the layout, a client, the run and its model."""
    root = tmp_path_factory.mktemp("tracked")
    shutil.copy(migrated, root / "mlflow.db")
    as_long = Truth(steps=40, log_every=2, eval_every=10, cooldowns=(0.25, 0.5))  # as scale smoke says
    write_results(root, arms=("lolm",), seeds=(1,), truth=as_long)
    layout = Layout("smoke", root)
    run = read(layout.header(*KEY), RunHeader).run
    lines = [line for text in make_texts(300).values() for line in text.split("\n")]
    layout.tokenizer.mkdir(parents=True)
    (layout.tokenizer / "tokenizer.model").write_bytes(train_tokenizer(lines, run.vocab_size))
    write_json(layout.tokenizer / "tokenizer.json", {"model_sha256": sha256_of(layout.tokenizer / "tokenizer.model")})
    torch.manual_seed(0)
    folder = layout.weights(*KEY)
    weights = folder / "model.safetensors"
    for path in (weights, snapshot_path(folder, INSIDE), cooldown_path(folder, END)):
        keep_weights(path, build_model(run), layout, run)
    header = read(layout.header(*KEY), RunHeader)
    said = {
        "id": "twice",
        "group": "gate",
        "source": "a paper",
        "published": [{"value": 2.0, "unit": "x"}],
        "sound": {"shown": "1.5×"},
    }
    this = [{"name": header.name, "fingerprint": header.fingerprint}]
    claims = [said | {"statement": "Twice.", "runs": this, "verdict": "fails"}]
    claims += [said | {"statement": "Of another.", "runs": [], "verdict": "holds"}]
    write_json(layout.reports / "claims.json", claims)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("DVC_ROOT", str(root))
        patch.chdir(root)
        tracking.sync_scale("smoke", root)
        client = open_client()
        (experiment,) = [found for found in client.search_experiments() if found.name == "lolm-smoke"]
        (run,) = client.search_runs([experiment.experiment_id])
        (model,) = client.search_logged_models([experiment.experiment_id], filter_string="name = 'lolm-1'")
        yield layout, client, experiment, run, model


def test_the_model_loads_without_this_project_and_says_what_it_says(synced, tmp_path):
    layout, _, _, run, model = synced
    environment = os.environ | {"PYTHONPATH": "", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-P", "-c", STRANGER, model.artifact_location]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout.splitlines()[-1])
    ours = lolm.load(layout.weights(*KEY))
    scored = ours.score(EXAMPLE)
    assert found["tokens"] == scored.tokens
    assert found["nats_per_token"] == pytest.approx(scored.nats_per_token, abs=1e-5)
    assert found["bits_per_byte"] == pytest.approx(scored.bits_per_byte, abs=1e-5)
    assert found["continuation"] == ours.generate(EXAMPLE, max_tokens=8, seed=1)
    outputs = {output.model_id: output.step for output in run.outputs.model_outputs}
    assert outputs[model.model_id] == ours.records.summary.step
    size = sum(path.stat().st_size for path in Path(model.artifact_location.removeprefix("file://")).rglob("*") if path.is_file())
    assert size < 150_000, "weights are linked"


def test_metrics_of_the_model_are_of_a_data_set(synced):
    layout, _, _, run, model = synced
    record = finished_view(layout, KEY).record
    found = {metric.key: metric for metric in model.metrics}
    assert found["eval/test_nats"].value == record.evaluation.test.nats
    assert found["eval/validation_nats"].dataset_name == "smoke-validation"
    digests = {made.dataset.name: made.dataset.digest for made in run.inputs.dataset_inputs}
    assert found["eval/test_nats"].dataset_digest == digests["smoke-test"]
    assert not [key for key in found if not key.startswith("eval/")]


def test_every_kept_checkpoint_is_a_model_with_what_was_measured_of_it(synced):
    layout, client, experiment, run, model = synced
    models = {found.name: found for found in client.search_logged_models([experiment.experiment_id])}
    inside, end = f"lolm-1-step-{INSIDE}", f"lolm-1-annealed-{END}"
    assert set(models) == {"lolm-1", inside, end}, "weights of other steps are not there"
    assert {output.model_id for output in run.outputs.model_outputs} == {found.model_id for found in models.values()}
    rows = finished_view(layout, KEY).record.rows
    metrics = {name: {metric.key: metric for metric in found.metrics} for name, found in models.items()}
    assert metrics[inside].keys() == {"val/nats", "val/accuracy", "val/gate_mean"}
    (row,) = [row for row in rows if row["step"] == INSIDE and "val/nats" in row]
    nats = metrics[inside]["val/nats"]
    assert (nats.value, nats.step, nats.dataset_name) == (row["val/nats"], INSIDE, "smoke-validation")
    assert metrics[end].keys() == {"annealed/nats", "eval/annealed_test_nats"}
    assert models[end].params["step"] == str(END)
    assert models[end].tags["mlflow.note.content"].startswith(f"A copy annealed to an end at step {END} of 40. **LOLM")
    ours = lolm.load(layout.weights(*KEY), step=INSIDE)
    loaded = _load_pyfunc(f"{models[inside].artifact_location.removeprefix('file://')}/data")
    assert torch.equal(loaded.model.embedding.weight, ours.model.embedding.weight)
    history = client.get_metric_history(run.info.run_id, "val/nats")
    assert len(history) == len({metric.step for metric in history}), "no point twice"


def test_weights_that_come_later_become_models(synced):
    layout, client, experiment, run, _ = synced
    assert tracking.sync_scale("smoke", layout.root) == 0
    folder = snapshot_path(layout.weights(*KEY), INSIDE).parent
    folder.rename(folder.with_name("away"))
    before = len(client.search_logged_models([experiment.experiment_id]))
    assert tracking.sync_scale("smoke", layout.root) == 1
    folder.with_name("away").rename(folder)
    shutil.copy(snapshot_path(layout.weights(*KEY), INSIDE), snapshot_path(layout.weights(*KEY), LATER))
    assert tracking.sync_scale("smoke", layout.root) == 1
    assert len(client.search_logged_models([experiment.experiment_id])) == before + 1


def test_other_weights_and_missing_ones_are_refused(synced, tmp_path, monkeypatch):
    layout, _, _, _, model = synced
    copy = tmp_path / "artifacts" / "model"
    shutil.copytree(model.artifact_location.removeprefix("file://"), copy)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="not in this project; `dvc pull`"):
        _load_pyfunc(str(copy / "data"))
    shutil.copytree(layout.artifacts, tmp_path / "artifacts" / "smoke")
    weights = Layout("smoke", tmp_path).weights(*KEY) / "model.safetensors"
    *others, last = weights.read_bytes()
    weights.write_bytes(bytes([*others, last ^ 1]))
    with pytest.raises(ValueError, match="not the file of this model"):
        _load_pyfunc(str(copy / "data"))


def test_the_description_says_what_the_run_is_and_its_verdicts(synced):
    layout, client, _, run, _ = synced
    note = run.data.tags["mlflow.note.content"]
    assert "(arm `lolm`), scale smoke, seed 1: 100,000 parameters" in note
    assert "| Twice. | 2.00× | 1.5× | **fails** |" in note
    assert "Of another" not in note
    assert len(note) <= LONGEST
    write_json(layout.reports / "claims.json", [])
    assert tracking.sync_scale("smoke", layout.root) == 1, "another ledger, another description"
    assert "No published claim" in client.get_run(run.info.run_id).data.tags["mlflow.note.content"]


def test_the_chart_view_compares_arms_by_metrics_that_runs_have(synced):
    _, _, experiment, run, _ = synced
    view = experiment.tags[VIEW_TAG + EVERY_ARM]
    assert len(view) <= LONGEST_TAG
    state = json.loads(view)
    first, *_ = state["compareRunCharts"]
    assert (first["metricKey"], first["selectedXAxisMetricKey"]) == ("val/nats", "val/tokens")
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": GROUP_TAG}]
    assert run.data.tags[GROUP_TAG] == run.data.tags["arm"]
    assert {metric for charts in SECTIONS.values() for metric in charts} <= set(run.data.metrics)
    assert "arm" in run.data.params
    assert "searchFilter" not in state
    assert f"({chart_page(experiment.experiment_id)})" in experiment.tags["mlflow.note.content"]
    assert len(run.data.metrics) <= 45


def test_no_two_arms_of_a_study_have_one_colour():
    """By MLflow's rule for a group's colour, and the palette of its page as it is installed."""
    script = next((Path(mlflow.__file__).parent / "server/js/build/static/js").glob("main.*.js")).read_text(encoding="utf-8")
    assert ".charCodeAt(r))%255,n=(n+t)%255;return r.T[(t|n<<8)%r.T.length]" in script
    palette = re.search(r'const r=\[("#a6630c"(?:,"#[0-9a-f]{6}")+)\]', script)[1].split(",")

    def colour(arm: str) -> str:
        first = second = 0
        for character in f"tag.{GROUP_TAG}.{arm}":
            first = (first + ord(character)) % 255
            second = (second + first) % 255
        return palette[(first | second << 8) % len(palette)]

    studies = load_params(ROOT / "params.yaml").studies
    alike = {name for name, study in studies.items() if len({colour(arm) for arm in study.arms}) < len(study.arms)}
    assert alike <= {"baselines", "isolation", "parts", "regime", "zoo"}, "many arms for 29 colours"


def test_the_charts_of_a_study_show_the_runs_of_its_arms(synced):
    layout, client, experiment, _, _ = synced
    ident, where = experiment.experiment_id, layout.root / "params.yaml"
    before = where.read_text(encoding="utf-8")
    tag = lambda: client.search_runs([ident])[0].data.tags.get(STUDIES_TAG, "")  # noqa: E731
    params = load_params(ROOT / "params.yaml")
    studies = [study for name, study in params.studies.items() if params.is_made_for(name, "smoke")]
    of_lolm = [study.name for study in studies if "lolm" in study.arms]
    of_others = [study.name for study in studies if "lolm" not in study.arms]
    assert "main" in of_lolm
    assert of_others
    shutil.copy(ROOT / "params.yaml", where)
    try:
        assert tracking.chart_page_of(layout, "main") == chart_page(ident, "main")
        assert tag() == "".join(f"· {name} " for name in of_lolm) + "·"
        tags = client.get_experiment(ident).tags
        for name in [*of_lolm, *of_others]:
            state = json.loads(tags[VIEW_TAG + name])
            assert len(tags[VIEW_TAG + name]) <= LONGEST_TAG
            assert len(client.search_runs([ident], state["searchFilter"])) == (name in of_lolm), name
            assert f"[{name}]({chart_page(ident, name)})" in tags["mlflow.note.content"]
        where.write_text("studies: [", encoding="utf-8")
        assert tracking.chart_page_of(layout, "main") == chart_page(ident, EVERY_ARM), "a file with mistakes has no study"
        assert tag() == ""
    finally:
        where.write_text(before, encoding="utf-8")
