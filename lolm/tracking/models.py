"""What a run made and read, as MLflow knows it: models of the weights it kept, and the data sets it was trained and scored on.

A model is a link. Its folder has the code that computes it, in one file that Python imports from, and says where in the project
weights and tokenizer lie and which bytes they are: some 110 kB, whatever the model's size.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lolm.config import to_mapping
from lolm.records import (
    FINAL_WEIGHTS,
    Layout,
    cooldown_path,
    fingerprint_of,
    has,
    names,
    read_mapping,
    sha256_of,
    snapshot_path,
    write_json,
    write_text,
)
from lolm.records.results import RunRecord
from lolm.records.schema import RunHeader
from lolm.source import flat_modules
from lolm.tracking.experiments import NOTE_TAG
from lolm.tracking.notes import first_note
from lolm.tracking.series import VAL_TOKENS, Point, evaluation_points, training_points

EXAMPLE = "The rain stopped. Nobody had seen the ship, and the old man went home."
ANNEALED = (f"{names.ANNEALED}/", f"eval/{names.ANNEALED}_")  # metrics of copies that were annealed to an earlier end
READ_BY_IT = ("numpy", "pandas", "safetensors", "sentencepiece", "torch")  # distributions that the loader imports
TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class Kept:
    """Weights that a run kept.

    Attributes:
        name: of the model in MLflow.
        path: of the file.
        what: it has, in words; empty for the run's last.
        points: of the run's records that are of these weights; none for the last, of which all others are that say a text.
    """

    name: str
    path: Path
    step: int
    what: str = ""
    points: tuple[Point, ...] = ()


def kept(record: RunRecord, layout: Layout) -> list[Kept]:
    """A run's last weights, there or not; then snapshots and ends of annealed copies that are there and were scored."""
    training, folder, key = record.header.run.training, layout.weights(*record.key), str(record.key)
    steps = {*training.snapshot_steps, *training.cooldown_steps}
    points = training_points(row for row in record.rows if row["step"] in steps)
    if record.evaluation is not None:
        points += evaluation_points(record.evaluation, record.summary.step, 0.0)
    found = [Kept(key, folder / FINAL_WEIGHTS, record.summary.step)]
    for place, inside, what, of, sections in (
        (snapshot_path, training.snapshot_steps, "Weights after", f"{key}-step", f"{names.VAL}/"),
        (cooldown_path, training.cooldown_steps, "A copy annealed to an end at", f"{key}-annealed", ANNEALED),
    ):
        for step in inside:
            own = [p for p in points if p[2] == step and p[0].startswith(sections) and p[0] != VAL_TOKENS]
            if own and (path := place(folder, step)).exists():
                words = f"{what} step {step:,} of {training.steps:,}. "
                found.append(Kept(f"{of}-{step}", path, step, words, tuple(own)))
    return found


def data_set(header: RunHeader, layout: Layout, split: str) -> Any:
    """A split as MLflow's entity: a digest of its bytes, where it lies, how much it is."""
    from mlflow.entities import Dataset

    path = layout.shards_record
    counts = read_mapping(path) if path.exists() else {}
    if split in counts:
        has(counts, str(path), {split: {"*": float}})
    digests = {TRAIN: header.data.train, VALIDATION: header.data.validation}
    digest = digests.get(split) or fingerprint_of(header.data.train, split, counts.get(split))  # held out of the same corpus
    return Dataset(
        name=f"{layout.scale}-{split}",
        digest=digest[:32],
        source_type="local",
        source=json.dumps({"uri": f"artifacts/{layout.scale}/shards"}),
        schema=json.dumps({"mlflow_colspec": [{"name": "token", "type": "integer", "required": True}]}),
        profile=json.dumps({key: n for key, n in counts.get(split, {}).items() if key != "shards"}),
    )


def log_data(client: Any, run_id: str, sets: dict[str, Any]) -> None:
    """Say what a run was trained on (context ``training``) and scored on; the store keeps each once."""
    from mlflow.entities import DatasetInput, InputTag

    context = {TRAIN: "training", VALIDATION: "validation", TEST: "testing"}
    inputs = [DatasetInput(data, [InputTag("mlflow.data.context", context[split])]) for split, data in sets.items()]
    client.log_inputs(run_id, inputs)


def data_of(key: str) -> str | None:
    """The split that a metric of a model is of, empty for another text; None for a metric of something else."""
    if key.startswith("tasks/"):
        return ""
    if key.startswith((f"{names.VAL}/", f"{names.ANNEALED}/", "eval/validation")):
        return VALIDATION
    return TEST if key.startswith("eval/") else None


def log_models(client: Any, experiment: str, run_id: str, record: RunRecord, layout: Layout) -> dict[str, Kept]:
    """Models of the weights that a run kept, made where there are none yet; by their ids, that of the last weights first."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    there = {
        model.name: model for model in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")
    }
    found: dict[str, Kept] = {}
    for weights in kept(record, layout):
        model = there.get(weights.name)
        if model is None or model.status != LoggedModelStatus.READY:
            found[_log_model(client, experiment, run_id, record, layout, weights, model and model.model_id)] = weights
        else:
            found[model.model_id] = weights
    outputs = client.get_run(run_id).outputs
    known = {output.model_id for output in outputs.model_outputs} if outputs is not None else set()
    if new := [LoggedModelOutput(model, weights.step) for model, weights in found.items() if model not in known]:
        client.log_outputs(run_id, new)
    return found


def _log_model(
    client: Any, experiment: str, run_id: str, record: RunRecord, layout: Layout, weights: Kept, model_id: str | None
) -> str:
    """One model, made or, where it has an id, made ready."""
    header, path = record.header, weights.path
    digest = record.summary.weights.get(path.relative_to(layout.weights(*record.key)).as_posix())
    known = digest or (sha256_of(path) if path.exists() else None)
    of_tokenizer = layout.tokenizer_record
    facts = read_mapping(of_tokenizer, model_sha256=str) if of_tokenizer.exists() else {}
    files: dict[str, dict[str, Any]] = {
        "weights": {"path": path.relative_to(layout.root).as_posix(), "sha256": known},
        "tokenizer": {
            "path": (layout.tokenizer / "tokenizer.model").relative_to(layout.root).as_posix(),
            "sha256": facts.get("model_sha256"),
        },
    }
    if model_id is None:
        params = {"arm": record.arm, "seed": record.seed, "step": weights.step, "parameters": header.parameters.total}
        tags = {NOTE_TAG: weights.what + first_note(header), "fingerprint": header.fingerprint}
        tags |= {"weights": files["weights"]["path"], "weights.sha256": known or "unknown"}
        params = {key: str(value) for key, value in params.items()}
        model_id = client.create_logged_model(experiment, weights.name, run_id, tags, params, "language model").model_id
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), header, files, run_id, model_id)
        client.log_model_artifacts(model_id, folder)
    client.finalize_logged_model(model_id, "READY")
    return model_id


def _write(folder: Path, header: RunHeader, files: dict[str, Any], run_id: str, model_id: str) -> None:
    """The model's folder: ``MLmodel`` with its signature, an example of an input, what to install, code, and the link."""
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    package, code = _code()
    columns = {"continuation": "string", "tokens": "long", "nats_per_token": "double", "bits_per_byte": "double"}
    params = {"max_tokens": ("long", 32), "temperature": ("double", 0.8), "top_k": ("long", 50), "seed": ("long", 0)}
    signature = ModelSignature(
        Schema([ColSpec("string", "text")]),
        Schema([ColSpec(kind, name) for name, kind in columns.items()]),
        ParamSchema([ParamSpec(name, kind, default) for name, (kind, default) in params.items()]),
    )
    example = {"artifact_path": "input_example.json", "type": "dataframe", "pandas_orient": "split"}
    model = Model(run_id=run_id, model_id=model_id, signature=signature, saved_input_example_info=example)
    pyfunc.add_to_model(model, f"{package}.pyfunc", data="data", code="code.zip", python_env="python_env.yaml")
    model.save(str(folder / "MLmodel"))
    write_json(folder / "input_example.json", {"columns": ["text"], "data": [[EXAMPLE]]})
    write_text(folder / "requirements.txt", _requirements())
    write_text(folder / "python_env.yaml", "dependencies: [-r requirements.txt]\n")
    write_json(folder / "data" / "run.json", {"run": to_mapping(header.run), "files": files})
    (folder / "code.zip").write_bytes(code)


@cache
def _requirements() -> str:
    return "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in READ_BY_IT)


@cache
def _code() -> tuple[str, bytes]:
    """Name of a package and its files in a zip archive. The name is of its bytes, so that models of other code load beside it."""
    modules = flat_modules("lolm.export.pyfunc") | {"__init__.py": ""}
    package = f"lolm_{fingerprint_of(modules)}"
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, source in modules.items():
                archive.writestr(zipfile.ZipInfo(f"{package}/{name}"), source, zipfile.ZIP_DEFLATED)
        file.seek(0)
        return package, file.read()
