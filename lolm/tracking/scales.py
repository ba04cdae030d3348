"""A scale in MLflow: its runs; the reports of its studies, each a run of an experiment of their own; and the benchmark."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

from lolm.config import flatten
from lolm.config.strict import as_text
from lolm.records import Layout, RunKey, fingerprint_of, read, read_mapping, sha256_of
from lolm.records.schema import Evaluation, RunHeader
from lolm.tracking.experiments import EVERY_ARM, chart_page, say_studies, studies_of
from lolm.tracking.runs import fill_recorded, unknown
from lolm.tracking.series import claim_points, mean_points
from lolm.tracking.store import (
    RECORDS,
    REPORTS,
    experiment_called,
    experiment_name,
    find_run,
    known_digests,
    open_client,
    provenance,
    send_params,
    send_points,
    store_lock,
    training_experiment,
)

REPORT_FILES, FIGURES = ("claims.json", "claims.md", "report.html", "leaderboard.csv"), "figures"
SAID_EVERY = 5.0  # seconds: MLflow takes one or two of them for a run
BENCHMARK = "benchmark"  # the experiment's name, and that of its runs


def sync_scale(scale: str, root: str | Path = ".") -> int:
    """Fill MLflow from all records of one scale under ``root``, and the reports of its studies; returns how many runs it wrote.

    When everything is there already this costs a look at the SQLite file, and MLflow isn't even imported.

    Raises:
        RecordError: a record is broken. TrackingError, or any error of MLflow: the store cannot be used.
    """
    layout, known = Layout(scale, Path(root)), known_digests(scale)
    missing = unknown(layout, known)
    written = sorted(path.parent for path in layout.reports.glob("*/claims.json"))
    digests = {folder: _report_digest(folder, Path(root) / "dvc.lock", scale) for folder in written}
    reports = {folder: digest for folder, digest in digests.items() if digest not in known}
    if not missing and not reports:
        return 0
    with store_lock():
        client = open_client()
        experiment = training_experiment(client, layout)
        for run in client.search_runs([experiment], "tags.stage = 'report'"):  # an older form had them here
            client.delete_run(run.info.run_id)
        said = time.monotonic()
        for done, key in enumerate(missing):
            if time.monotonic() - said > SAID_EVERY:
                print(f"filling MLflow from reports/{scale}: {done} of {len(missing)} runs", file=sys.stderr, flush=True)
                said = time.monotonic()
            fill_recorded(client, experiment, layout, key)
        _say_studies_of_all(client, experiment, layout)  # of runs that are shown already too: a study may be new
        if reports:
            experiment = experiment_called(client, REPORTS)
            for folder, digest in reports.items():
                _fill_report(client, experiment, layout, folder, digest)
    return len(missing) + len(reports)


def chart_page_of(layout: Layout, study: str) -> str:
    """Fragment of the address of a study's charts, all set up; of every arm's where it isn't a study of that scale.

    Empty where the store has nothing of the scale.
    """
    client = open_client()
    found = client.get_experiment_by_name(experiment_name(layout.scale))
    if found is None:
        return ""
    with store_lock():
        experiment = training_experiment(client, layout)
        _say_studies_of_all(client, experiment, layout)
    return chart_page(experiment, study if study in studies_of(layout) else EVERY_ARM)


def _say_studies_of_all(client: Any, experiment: str, layout: Layout) -> None:
    token = None
    while token != "":
        runs = client.search_runs([experiment], page_token=token)
        for run in runs:
            say_studies(client, run, layout)
        token = runs.token or ""


def _report_digest(folder: Path, lock: Path, scale: str) -> str:
    """Hash of what a report's MLflow run shows, and of the scale's entries in ``dvc.lock``."""
    files = [*(folder / name for name in REPORT_FILES), *sorted((folder / FIGURES).glob("*.svg"))]
    return fingerprint_of(folder.name, [sha256_of(f) if f.exists() else None for f in files], _lock_entries(lock, scale))


def _lock_entries(path: Path, scale: str) -> list[str]:
    """The text of a scale's entries. Parsing the whole file would take longer than all else that an idle pipeline does."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    entries = re.split(r"^  (?=[^ ])", text, flags=re.MULTILINE)  # as DVC writes: a stage a block
    return [entry for entry in entries if (entry.partition(":")[0].partition("@")[2] + "-").startswith(f"{scale}-")]


def _fill_report(client: Any, experiment: str, layout: Layout, folder: Path, digest: str) -> None:
    """One flat run a study with the ledger: verdicts as parameters, values as metrics, the table as its description."""
    from lolm.claims.ledger import read_ledger  # which brings libraries that nothing new does without

    scale, study = layout.scale, folder.name
    claims = read_ledger(folder / "claims.json")
    fingerprint = fingerprint_of("report", scale, study, claims)
    table = folder / "claims.md"
    run = find_run(client, experiment, fingerprint)
    if run is None:
        tags = {"stage": "report", "scale": scale, "study": study, "fingerprint": fingerprint} | provenance()
        run = client.create_run(experiment, tags=tags, run_name=f"report · {scale} · {study}")
    run_id, start = run.info.run_id, run.info.start_time
    if table.exists():
        client.set_tag(run_id, "mlflow.note.content", table.read_text(encoding="utf-8", errors="replace")[:8000])
    send_params(client, run_id, {f"verdict.{claim['id']}": claim["verdict"] for claim in claims}, run.data.params)
    send_points(client, run_id, start, claim_points(claims) + mean_points(_evaluations(layout, study)))
    for path in (*(folder / name for name in REPORT_FILES), layout.root / "params.yaml", layout.root / "dvc.lock"):
        if path.exists():
            client.log_artifact(run_id, str(path))
    for path in sorted((folder / FIGURES).glob("*.svg")):
        client.log_artifact(run_id, str(path), FIGURES)
    client.set_terminated(run_id, "FINISHED", end_time=start)
    client.set_tag(run_id, RECORDS, digest)


def _evaluations(layout: Layout, study: str) -> list[Evaluation]:
    """Those of a study's runs, but for what was measured of another model than the run's present one."""
    asked, found = studies_of(layout).get(study), []
    for key in [RunKey(arm, seed) for arm in asked.arms for seed in asked.seeds] if asked else ():
        if layout.header(*key).exists() and layout.evaluation(*key).exists():
            evaluation = read(layout.evaluation(*key), Evaluation)
            if evaluation.fingerprint == read(layout.header(*key), RunHeader).fingerprint:
                found.append(evaluation)
    return found


def sync_benchmark(path: str | Path) -> str:
    """One MLflow run for a benchmark's record, its numbers as metrics; returns the run's id. Calling it again adds nothing.

    Raises:
        RecordError: there is no record, or a broken one. TrackingError, or any error of MLflow: the store cannot be used.
    """
    record = read_mapping(path)
    numbers, texts = {}, {}
    for key, value in flatten(record).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers[_metric_key(key.removesuffix(".median").replace(".", "/"))] = float(value)
        elif value is not None:
            texts[_metric_key(key)] = as_text(value)
    with store_lock():
        client = open_client()
        experiment = experiment_called(client, BENCHMARK)
        fingerprint = fingerprint_of(BENCHMARK, record)
        run = find_run(client, experiment, fingerprint)
        if run is None:
            tags = {"stage": BENCHMARK, "fingerprint": fingerprint} | provenance()
            run = client.create_run(experiment, tags=tags, run_name=BENCHMARK)
        run_id, start = run.info.run_id, run.info.start_time
        if run.data.tags.get(RECORDS) == fingerprint:
            return run_id
        send_params(client, run_id, texts, run.data.params)
        send_points(client, run_id, start, [(key, value, 0, 0.0) for key, value in numbers.items()])
        client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, "FINISHED", end_time=start)
        client.set_tag(run_id, RECORDS, fingerprint)
    return run_id


def _metric_key(text: str) -> str:
    """A name that MLflow takes: letters, digits, and some marks."""
    return re.sub(r"[^\w./ -]", "", text)
