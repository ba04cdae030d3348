"""Runs in MLflow: made to say what their records say, each once and each point once.

The records are the truth and MLflow is a view of them. It has one run for a *fingerprint*, wherever the records come from:
training that goes on, a finished run, a fresh clone. Filling it again adds nothing. Records of another execution (a forced rerun,
say) have other ``seconds``; the MLflow run is then replaced as a whole, so that no point mixes in.

How a point is sent exactly once, though the process may die between any two calls: a point's timestamp is the run's start plus
``seconds``, and the store drops an exact duplicate. A tag says *before* a batch which lines will be sent, with their hash, and
*after* it that they were, so that lines are neither sent again nor mixed with those of another execution.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm.config import flatten
from lolm.config.strict import as_text
from lolm.records import (
    Layout,
    RecordError,
    RunKey,
    cooldown_path,
    fingerprint_of,
    read,
    read_rows,
    sha256_of,
    snapshot_path,
    to_record,
)
from lolm.records.results import RunRecord, load_run
from lolm.records.schema import Divergence, Identity, RunHeader
from lolm.records.series import Row
from lolm.tracking.experiments import GROUP_TAG, NOTE_TAG, say_studies
from lolm.tracking.models import ANNEALED, TEST, TRAIN, VALIDATION, data_of, data_set, log_data, log_models
from lolm.tracking.notes import LEDGER, first_note, note_of
from lolm.tracking.series import (
    Point,
    ablation_points,
    as_written,
    downstream_points,
    evaluation_points,
    layer_points,
    recall_points,
    training_points,
)
from lolm.tracking.store import (
    RECORDS,
    SENT,
    find_run,
    open_client,
    provenance,
    send_params,
    send_points,
    store_lock,
    training_experiment,
)

FORM = 3  # of what is said of a run; with another one a store that has all records is filled anew
FORM_TAG = "mlflow.lolm.form"
LINES = "lines"  # beside the stages, in the tag of what was sent


@dataclass(frozen=True)
class Measured:
    """What one stage measured on a run: the hash of its record, and its points."""

    digest: str
    points: list[Point]


@dataclass(frozen=True)
class View:
    """What MLflow is to say of one run.

    Attributes:
        layout: of the scale.
        rows: in the order they were written.
        digest: of all records; None while the run goes on.
        record: of a finished run.
        files: that are shown whole.
    """

    layout: Layout
    header: RunHeader
    rows: list[Row]
    measured: dict[str, Measured]
    digest: str | None = None
    record: RunRecord | None = None
    files: tuple[Path, ...] = ()

    @property
    def seconds(self) -> float:
        return max((row["seconds"] for row in self.rows), default=0.0)


def live_view(folder: Path) -> View:
    """A run that goes on, from the folder it writes to: ``config.json``, ``metrics.jsonl``."""
    header = read(folder / "config.json", RunHeader)
    return View(Layout(header.run.scale), header, as_written(read_rows(folder / "metrics.jsonl")), {})


def finished_view(layout: Layout, key: RunKey) -> View:
    """A finished run from its records; measurements of another model are left out.

    Raises:
        RecordError: a record is missing or broken.
    """
    run = load_run(layout, key)
    if run is None:
        raise RecordError(f"{layout.train(*key)}: no such run")
    rows, step = as_written(run.rows), run.summary.step
    seconds = max(row["seconds"] for row in rows)
    measured = {}
    if run.evaluation is not None:
        points = evaluation_points(run.evaluation, step, seconds)
        measured["evaluate"] = Measured(sha256_of(layout.evaluation(*key)), points)
    if run.ablation is not None:
        measured["ablate"] = Measured(sha256_of(layout.ablation(*key)), ablation_points(run.ablation, seconds))
    if run.layers is not None:
        measured["layers"] = Measured(sha256_of(layout.layers(*key)), layer_points(run.layers, seconds))
    if run.recall is not None:
        measured["recall"] = Measured(sha256_of(layout.recall(*key)), recall_points(run.recall, step, seconds))
    if run.downstream is not None:
        measured["downstream"] = Measured(sha256_of(layout.downstream(*key)), downstream_points(run.downstream, step, seconds))
    files = (layout.header(*key), layout.summary(*key))
    return View(layout, run.header, rows, measured, records_digest(layout, key), run, files)


def records_digest(layout: Layout, key: RunKey) -> str:
    """Hash of all that is said of a run, from the records' bytes: to tell that nothing is new takes no parsing."""
    paths = (
        layout.reports / LEDGER,
        layout.divergence(*key), layout.header(*key), layout.series(*key), layout.summary(*key), layout.evaluation(*key),
        layout.ablation(*key), layout.layers(*key), layout.recall(*key), layout.downstream(*key),
    )  # fmt: skip
    folders = [place(layout.weights(*key), 0).parent for place in (snapshot_path, cooldown_path)]
    there = [folder.name for folder in folders if folder.is_dir()]  # weights of which there are models too
    return fingerprint_of(FORM, str(key), [sha256_of(path) if path.exists() else None for path in paths], *there)


# ---------------------------------------------------------------------------------------------- filling


def sync_live(folder: str | Path) -> str:
    """Make MLflow say of a run that goes on what its folder says; returns the MLflow run's id.

    Args:
        folder: with ``config.json`` and ``metrics.jsonl``. Call it only *after* a checkpoint is durable, when no line of the
            series can be taken back by a resumed run.

    Raises:
        RecordError: a record is missing or broken. TrackingError, or any error of MLflow: the store cannot be used.
    """
    view = live_view(Path(folder))
    with store_lock():
        client = open_client()
        return fill(client, training_experiment(client, view.layout), view)


def sync_run(layout: Layout, key: RunKey) -> str:
    """Make MLflow say of a run that has ended, well or not, what its records say; errors as of :func:`sync_live`."""
    with store_lock():
        client = open_client()
        return fill_recorded(client, training_experiment(client, layout), layout, key)


def fill_recorded(client: Any, experiment: str, layout: Layout, key: RunKey) -> str:
    """A finished or a diverged run."""
    path = layout.divergence(*key)
    if path.exists():
        return _fill_divergence(client, experiment, layout, read(path, Divergence), records_digest(layout, key))
    return fill(client, experiment, finished_view(layout, key))


def fill(client: Any, experiment: str, view: View) -> str:
    """Make the one MLflow run of a fingerprint say what a view says; returns its id."""
    header, rows, record = view.header, view.rows, view.record
    run = find_run(client, experiment, header.fingerprint)
    if run is not None and not _continues(run.data.tags, view):
        for model in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run.info.run_id}'"):
            client.delete_logged_model(model.model_id)
        client.delete_run(run.info.run_id)
        run = None
    if run is None:
        start = int(1000 * (time.time() - view.seconds))
        run = client.create_run(experiment, start_time=start, tags=_tags(header), run_name=header.name)
    run_id, start, sent = run.info.run_id, run.info.start_time, _sent(run.data.tags)
    say_studies(client, run, view.layout)

    def say(what: str, value: str) -> None:
        sent[what] = value
        client.set_tag(run_id, SENT, json.dumps(sent))

    send_params(client, run_id, _parameters(header), run.data.params)
    done, planned, _ = _lines(sent)
    if done < len(rows) or planned != len(rows):
        whole = f"{len(rows)} {fingerprint_of(rows)}"
        say(LINES, f"{done} of {whole}")
        send_points(client, run_id, start, training_points(rows[done:]))
        say(LINES, f"{len(rows)} of {whole}")
    if record is not None and run.data.tags.get(RECORDS) != view.digest:
        sets = {split: data_set(header, view.layout, split) for split in (TRAIN, VALIDATION, TEST)}
        log_data(client, run_id, sets)
        models = log_models(client, experiment, run_id, record, view.layout)
        others = {point: model for model, weights in models.items() for point in weights.points}

        def of(point: Point) -> dict[str, str]:
            split, model = data_of(point[0]), others.get(point, None if point[0].startswith(ANNEALED) else next(iter(models)))
            data = {"dataset_name": sets[split].name, "dataset_digest": sets[split].digest} if split else {}
            return {} if split is None or model is None else {"model_id": model, "run_id": run_id} | data

        for stage, measured in view.measured.items():
            if sent.get(stage) != f"all {measured.digest}":
                say(stage, f"none {measured.digest}")
                send_points(client, run_id, start, measured.points, of)
                say(stage, f"all {measured.digest}")
        send_points(client, run_id, start, list(others), of)  # which the run has, and its models have not
        for path in view.files:
            client.log_artifact(run_id, str(path))
        client.set_tag(run_id, NOTE_TAG, note_of(record, view.layout))
        client.set_terminated(run_id, "FINISHED", end_time=start + int(1000 * view.seconds))
        client.set_tag(run_id, RECORDS, view.digest)  # last: it says that nothing is left to do
    elif record is None and run.info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")
    return run_id


def _fill_divergence(client: Any, experiment: str, layout: Layout, found: Divergence, digest: str) -> str:
    """A run that failed: what was sent of it while it went on stays, beside the step at which its loss was not finite."""
    run = find_run(client, experiment, found.fingerprint)
    if run is None:
        tags = identity_tags(found, layout.scale) | provenance()
        run = client.create_run(experiment, tags=tags, run_name=found.name)
    run_id, start = run.info.run_id, run.info.start_time
    if run.data.tags.get(RECORDS) != digest:
        client.set_tag(run_id, "diverged", found.reason or "the loss was not finite")
        send_points(client, run_id, start, [("train/diverged_at", float(found.step), found.step, 0.0)])
        client.log_artifact(run_id, str(layout.divergence(found.arm, found.seed)))
        client.set_terminated(run_id, "FAILED")
        client.set_tag(run_id, RECORDS, digest)
    return run_id


def _sent(tags: dict[str, str]) -> dict[str, str]:
    """What was sent to a run, and what was about to be: of its series (see :func:`_lines`), and of each stage's measurements."""
    return dict(json.loads(tags.get(SENT, "{}")))


def _lines(sent: dict[str, str]) -> tuple[int, int, str]:
    """Lines that were sent, lines that were about to be, and the hash of the latter."""
    done, _, planned, digest = sent.get(LINES, f"0 of 0 {fingerprint_of([])}").split()
    return int(done), int(planned), digest


def _continues(tags: dict[str, str], view: View) -> bool:
    """Whether all that was sent to this MLflow run, or was about to be, is part of this view."""
    if "diverged" in tags or tags.get(FORM_TAG) != str(FORM):
        return False
    sent = _sent(tags)
    _, planned, digest = _lines(sent)
    if planned > len(view.rows) or fingerprint_of(view.rows[:planned]) != digest:
        return False
    return all(sent[stage].split()[1] == measured.digest for stage, measured in view.measured.items() if stage in sent)


# ---------------------------------------------------------------------------------------------- what is said of a run


def _parameters(header: RunHeader) -> dict[str, str]:
    record = to_record(header)
    flat = flatten(record["run"]) | flatten({key: record[key] for key in ("parameters", "flops_per_token")})
    return {key: as_text(value) for key, value in flat.items()}


def _tags(header: RunHeader) -> dict[str, str]:
    run = header.run
    tags = identity_tags(Identity(run.arm, run.seed, header.name, header.fingerprint), run.scale)
    return tags | {"kernels": header.kernels, NOTE_TAG: first_note(header), FORM_TAG: str(FORM)} | provenance()


def identity_tags(found: Identity, scale: str) -> dict[str, str]:
    """Tags by which a run is found."""
    own = {"stage": "train", "arm": found.arm, "seed": str(found.seed), "scale": scale, "fingerprint": found.fingerprint}
    return own | {GROUP_TAG: found.arm}


def unknown(layout: Layout, known: Sequence[str] | set[str]) -> list[RunKey]:
    """Runs of a scale whose records the store does not hold whole, by their digests."""
    return [key for key in layout.recorded_runs() if records_digest(layout, key) not in known]
