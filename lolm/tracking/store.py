"""MLflow, filled from the records of runs. The only module that knows it.

The records (``config.json``, ``metrics.jsonl``, ``summary.json`` and the JSON of evaluation and ablation) are the truth and
MLflow is a view of them: :func:`sync_run` makes the one MLflow run of a *fingerprint* say what the records say, wherever they
come from: training that goes on, a finished run, DVC's cache, a fresh clone. Calling it again adds nothing. Records of another
execution (a forced rerun, say) have other ``seconds``; the MLflow run is then replaced as a whole, so that no point mixes in.

How a point is sent exactly once, though the process may die between any two calls: a point's timestamp is the run's start plus
``seconds``, and the store drops an exact duplicate. A tag says *before* a batch which lines will be sent, with their hash, and
*after* it that they were, so that lines are neither sent again nor mixed with those of another execution.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from lolm import LolmError
from lolm.config import flatten
from lolm.records import fingerprint_of, read_json
from lolm.tracking.series import (
    Point,
    Records,
    ablation_points,
    claim_points,
    evaluation_points,
    mean_points,
    recall_points,
    training_points,
)

METRICS_PER_CALL = 1000  # MLflow's limits
PARAMS_PER_CALL = 100
RUNNER = "LOLM_RUNNER"  # set in the environment of the stages that the runner starts


class TrackingError(LolmError):
    """The MLflow store cannot be used."""


# ---------------------------------------------------------------------------------------------- the store


def project_root() -> Path:
    """Folder that holds the store: ``DVC_ROOT`` (the main checkout, also in a DVC experiment), else the nearest with ``.dvc``."""
    if root := os.environ.get("DVC_ROOT"):
        return Path(root)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def store_uri() -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else ``mlflow.db`` (SQLite) in the project root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def experiment_name(scale: str) -> str:
    return f"lolm-{scale}"


def prepare_store() -> None:
    """Create the SQLite store, or bring an older one up to date; any number of processes may call it at once.

    A new store is built beside its place and renamed (8 s), so that a killed process leaves no half-made one.

    Raises:
        TrackingError: the store cannot be created, read or migrated.
    """
    path = _sqlite_path(store_uri())
    if path is None:
        return
    with _lock():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
            try:
                _open(f"sqlite:///{temporary}")
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            return
        try:
            _open(store_uri())
        except _mlflow().exceptions.MlflowException as error:
            if "out-of-date database schema" not in str(error):
                raise TrackingError(
                    f"{path}: not an MLflow store; move it away, `python -m pipeline.track` makes another"
                ) from error
            command = [sys.executable, "-m", "mlflow", "db", "upgrade", store_uri()]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise TrackingError(f"{path}: cannot bring the store up to date: {done.stderr.strip()[-500:]}") from None


def _open(uri: str) -> Any:
    """A client whose store is known to answer."""
    client = _mlflow().MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextmanager
def _lock() -> Iterator[None]:
    from filelock import FileLock

    with FileLock(project_root() / "mlflow.db.lock", timeout=600, is_singleton=True):  # re-entrant
        yield


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    for chatter in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(chatter).setLevel(logging.WARNING)
    return mlflow


def _client() -> Any:
    prepare_store()
    return _mlflow().MlflowClient(tracking_uri=store_uri())


def _experiment(client: Any, scale: str) -> str:
    return _experiment_called(client, experiment_name(scale))


def _experiment_called(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        local = _sqlite_path(store_uri()) is not None  # else the server decides where artifacts lie
        folder = (project_root() / "mlartifacts" / name).as_uri() if local else None
        return client.create_experiment(name, artifact_location=folder)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def experiment_id(scale: str) -> str | None:
    """Id of a scale's experiment in the store, or None when it holds none; used for the address of its page."""
    found = _client().get_experiment_by_name(experiment_name(scale))
    return None if found is None else found.experiment_id


# ---------------------------------------------------------------------------------------------- filling


def sync_run(run_dir: str | Path, *, finished: bool | None = None) -> str:
    """Make MLflow say of one run what its records say; returns the MLflow run's id.

    Args:
        run_dir: folder with ``config.json`` and ``metrics.jsonl``, and ``summary.json`` if the run is finished.
        finished: False at a checkpoint of training that goes on (default: whether there is a summary). Call it only *after*
            the checkpoint is durable, when no line of ``metrics.jsonl`` can be taken back by a resumed run.

    Raises:
        RecordError: a record is missing or broken. TrackingError, or any error of MLflow: the store cannot be used.
    """
    if finished is None:
        finished = (Path(run_dir) / "summary.json").exists()
    records = Records.load(Path(run_dir), finished)
    with _lock():
        client = _client()
        return _fill(client, _experiment(client, records.config["run"]["scale"]), records, finished)


def _fill(client: Any, experiment: str, records: Records, finished: bool) -> str:
    step, seconds = records.step, records.seconds
    measured: dict[str, tuple[Any, list[Point]]] = {}
    if records.evaluation is not None:
        measured["evaluate"] = (records.evaluation, evaluation_points(records.evaluation, step, seconds))
    if records.ablation is not None:
        measured["ablate"] = (records.ablation, ablation_points(records.ablation, seconds))
    if records.recall is not None:
        measured["recall"] = (records.recall, recall_points(records.recall, step, seconds))

    run = _find(client, experiment, records.config["fingerprint"])
    if run is not None and not _continues(run.data.tags, records, {k: fingerprint_of(v[0]) for k, v in measured.items()}):
        client.delete_run(run.info.run_id)
        run = None
    if run is None:
        start = int(1000 * (time.time() - seconds))
        tags = _tags(records)
        run = client.create_run(experiment, start_time=start, tags=tags, run_name=records.config["name"])
    run_id, start, tags = run.info.run_id, run.info.start_time, run.data.tags

    _send_params(client, run_id, _parameters(records.config), run.data.params)
    done, planned, _ = _sent(tags)
    if done < len(records.rows) or planned != len(records.rows):
        whole = f"{len(records.rows)} {fingerprint_of(records.rows)}"
        client.set_tag(run_id, "sent.metrics", f"{done} of {whole}")
        _send_points(client, run_id, start, training_points(records.rows[done:]))
        client.set_tag(run_id, "sent.metrics", f"{len(records.rows)} of {whole}")
    for stage, (record, points) in measured.items():
        digest = fingerprint_of(record)
        if tags.get(f"sent.{stage}") != f"all {digest}":
            client.set_tag(run_id, f"sent.{stage}", f"none {digest}")
            _send_points(client, run_id, start, points)
            client.set_tag(run_id, f"sent.{stage}", f"all {digest}")

    if finished and tags.get("records") != records.digest:
        for name in ("config.json", "summary.json"):
            client.log_artifact(run_id, str(records.folder / name))
        model = records.folder / "model.safetensors"
        if model.exists():
            client.set_tag(run_id, "model.md5", _md5(model))
        client.set_tag(run_id, "dvc.path", records.folder.as_posix())
        client.set_terminated(run_id, "FINISHED", end_time=start + int(1000 * seconds))
        client.set_tag(run_id, "records", records.digest)  # last: it says that nothing is left to do
    elif not finished and run.info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")
    return run_id


def sync_scale(scale: str, root: str | Path = ".") -> int:
    """Fill MLflow from all records of one scale under ``root``, and the reports of its studies; returns how many runs it wrote.

    When everything is there already this costs a look at the SQLite file, and MLflow isn't even imported.
    """
    folders = sorted(p.parent for p in (Path(root) / "artifacts" / scale / "runs").glob("*/summary.json"))
    known = _known(scale)
    missing = [records for records in (Records.load(f, finished=True) for f in folders) if records.digest not in known]
    written = sorted(path.parent for path in (Path(root) / "reports" / scale).glob("*/claims.json"))
    digests = {folder: _report_digest(folder, Path(root) / "dvc.lock", scale) for folder in written}
    reports = {folder: digest for folder, digest in digests.items() if digest not in known}
    if not missing and not reports:
        return 0
    with _lock():
        client = _client()
        experiment = _experiment(client, scale)
        for records in missing:
            _fill(client, experiment, records, finished=True)
        for folder, digest in reports.items():
            _fill_report(client, experiment, Path(root), folder, digest)
    return len(missing) + len(reports)


def _find(client: Any, experiment: str, fingerprint: str) -> Any:
    found = client.search_runs([experiment], f"tags.fingerprint = '{fingerprint}'", max_results=1)
    return found[0] if found else None


def _sent(tags: dict[str, str]) -> tuple[int, int, str]:
    """Lines that were sent, lines that were about to be, and the hash of the latter."""
    done, _, planned, digest = tags.get("sent.metrics", f"0 of 0 {fingerprint_of([])}").split()
    return int(done), int(planned), digest


def _continues(tags: dict[str, str], records: Records, measured: dict[str, str]) -> bool:
    """Whether all that was sent to this MLflow run, or was about to be, is part of these records."""
    _, planned, digest = _sent(tags)
    if planned > len(records.rows) or fingerprint_of(records.rows[:planned]) != digest:
        return False
    sent = {stage: tags[f"sent.{stage}"].split()[1] for stage in ("evaluate", "ablate", "recall") if f"sent.{stage}" in tags}
    return all(stage not in measured or measured[stage] == digest for stage, digest in sent.items())


def _send_points(client: Any, run_id: str, start: int, points: list[Point]) -> None:
    from mlflow.entities import Metric

    for i in range(0, len(points), METRICS_PER_CALL):
        batch = [Metric(key, value, start + int(1000 * s), step) for key, value, step, s in points[i : i + METRICS_PER_CALL]]
        client.log_batch(run_id, metrics=batch)


def _send_params(client: Any, run_id: str, wanted: dict[str, str], present: dict[str, str]) -> None:
    from mlflow.entities import Param

    new = [Param(key, value) for key, value in wanted.items() if key not in present]
    for i in range(0, len(new), PARAMS_PER_CALL):
        client.log_batch(run_id, params=new[i : i + PARAMS_PER_CALL])


def _parameters(config: dict[str, Any]) -> dict[str, str]:
    flat = flatten(config["run"])
    flat |= flatten({key: config[key] for key in ("parameters", "flops_per_token") if key in config})
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}


def _tags(records: Records) -> dict[str, str]:
    config, run = records.config, records.config["run"]
    total = config.get("parameters", {}).get("total", 0)
    note = f"{config.get('label', run['arm'])}: {total:,} parameters, scale {run['scale']}, seed {run['seed']}."
    tags = {
        "stage": "train",
        "arm": run["arm"],
        "seed": str(run["seed"]),
        "scale": run["scale"],
        "fingerprint": config["fingerprint"],
        "kernels": str(config.get("kernels", "")),
        "mlflow.note.content": note,
    }
    tags |= {f"data.{key}": str(value) for key, value in flatten(config.get("data", {})).items()}
    return tags | _provenance()


def _provenance() -> dict[str, str]:
    """Where this process runs: git commit, pipeline invocation, DVC experiment."""
    tags = {"mlflow.source.name": "dvc repro", "mlflow.source.type": "PROJECT"}
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git here
        git = ""
    if git:
        tags |= {"git.commit": git, "mlflow.source.git.commit": git.removesuffix("-dirty")}
    names = {"pipeline": "LOLM_PIPELINE", "dvc.exp_name": "DVC_EXP_NAME", "dvc.exp_baseline": "DVC_EXP_BASELINE_REV"}
    return tags | {tag: os.environ[variable] for tag, variable in names.items() if os.environ.get(variable)}


def _known(scale: str) -> set[str]:
    """Digests of the records that the local store holds whole; empty when that cannot be said cheaply."""
    path = _sqlite_path(store_uri())
    if path is None or not path.exists():
        return set()
    query = """SELECT tags.value FROM tags JOIN runs USING (run_uuid) JOIN experiments USING (experiment_id)
               WHERE tags.key = 'records' AND runs.lifecycle_stage = 'active'
               AND experiments.lifecycle_stage = 'active' AND experiments.name = ?"""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
            return {row[0] for row in database.execute(query, (experiment_name(scale),))}
    except sqlite3.Error:  # another schema: take the slow way, which says what is wrong
        return set()


# ---------------------------------------------------------------------------------------------- the report


REPORT_FILES = ("claims.json", "claims.md", "report.html", "leaderboard.csv")


def _report_digest(folder: Path, lock: Path, scale: str) -> str:
    """Hash of what a report's MLflow run shows, and of the scale's entries in ``dvc.lock``."""
    files = [folder / name for name in REPORT_FILES]
    return fingerprint_of(folder.name, [_md5(f) if f.exists() else None for f in files], _lock_entries(lock, scale))


def _lock_entries(path: Path, scale: str) -> list[str]:
    """The text of a scale's entries. Parsing the whole file would take longer than all else that an idle pipeline does."""
    if not path.exists():
        return []
    entries = re.split(r"^  (?=[^ ])", path.read_text(encoding="utf-8"), flags=re.MULTILINE)  # as DVC writes: a stage a block
    return [entry for entry in entries if (entry.partition(":")[0].partition("@")[2] + "-").startswith(f"{scale}-")]


def _fill_report(client: Any, experiment: str, root: Path, folder: Path, digest: str) -> None:
    """One flat run a study with the ledger: verdicts as parameters, values as metrics, the table as its description."""
    scale, study = folder.parent.name, folder.name
    claims = read_json(folder / "claims.json")
    fingerprint = fingerprint_of("report", scale, study, claims)
    table = folder / "claims.md"
    run = _find(client, experiment, fingerprint)
    if run is None:
        tags = {"stage": "report", "scale": scale, "study": study, "fingerprint": fingerprint} | _provenance()
        run = client.create_run(experiment, tags=tags, run_name=f"report · {scale} · {study}")
    run_id, start = run.info.run_id, run.info.start_time
    if table.exists():
        client.set_tag(run_id, "mlflow.note.content", table.read_text(encoding="utf-8")[:8000])
    _send_params(client, run_id, {f"verdict.{claim['id']}": claim["verdict"] for claim in claims}, run.data.params)
    _send_points(client, run_id, start, claim_points(claims) + mean_points(root / "artifacts" / scale / "evaluate"))
    for path in (*(folder / name for name in REPORT_FILES), root / "params.yaml", root / "dvc.lock"):
        if path.exists():
            client.log_artifact(run_id, str(path))
    client.set_terminated(run_id, "FINISHED", end_time=start)
    client.set_tag(run_id, "records", digest)


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


# ---------------------------------------------------------------------------------------------- the benchmark


BENCHMARK = "benchmark"  # the experiment's name, and that of its runs


def sync_benchmark(path: str | Path) -> str:
    """One MLflow run for a benchmark's record, its numbers as metrics; returns the run's id. Calling it again adds nothing.

    Raises:
        RecordError: there is no record, or a broken one. TrackingError, or any error of MLflow: the store cannot be used.
    """
    record = read_json(path)
    numbers, texts = {}, {}
    for key, value in flatten(record).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers[_metric_key(key.removesuffix(".median").replace(".", "/"))] = float(value)
        elif value is not None:
            texts[_metric_key(key)] = value if isinstance(value, str) else json.dumps(value)
    with _lock():
        client = _client()
        experiment = _experiment_called(client, BENCHMARK)
        fingerprint = fingerprint_of(BENCHMARK, record)
        run = _find(client, experiment, fingerprint)
        if run is None:
            tags = {"stage": BENCHMARK, "fingerprint": fingerprint} | _provenance()
            run = client.create_run(experiment, tags=tags, run_name=BENCHMARK)
        run_id, start = run.info.run_id, run.info.start_time
        if run.data.tags.get("records") == fingerprint:
            return run_id
        _send_params(client, run_id, texts, run.data.params)
        _send_points(client, run_id, start, [(key, value, 0, 0.0) for key, value in numbers.items()])
        client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, "FINISHED", end_time=start)
        client.set_tag(run_id, "records", fingerprint)
    return run_id


def _metric_key(text: str) -> str:
    """A name that MLflow takes: letters, digits, and some marks."""
    return re.sub(r"[^\w./ -]", "", text)


# ---------------------------------------------------------------------------------------------- from a stage


_warned = False
_last_try = time.monotonic()


def try_sync(run_dir: str | Path, finished: bool | None = None, min_interval: float = 20.0) -> None:
    """:func:`sync_run` for a training run, which must not die of it: any failure is one line on stderr, once.

    At checkpoints it does nothing within ``min_interval`` seconds of the process's start or of the last call: runs that short
    are not worth the import of MLflow (4 s) before they end. When they end it is left to the runner, if there is one.
    """
    global _last_try
    if finished is None:
        finished = (Path(run_dir) / "summary.json").exists()
    if not finished and time.monotonic() - _last_try < min_interval:
        return
    if finished and _left_to_runner():
        return
    _guarded(sync_run, run_dir, finished=finished)
    _last_try = time.monotonic()


def try_prepare_store() -> None:
    """:func:`prepare_store` under the same terms as :func:`try_sync`."""
    _guarded(prepare_store)


def try_sync_scale(scale: str) -> None:
    """:func:`sync_scale` for the report stage, under the same terms as :func:`try_sync`."""
    if not _left_to_runner():
        _guarded(sync_scale, scale)


def try_sync_benchmark(path: str | Path) -> None:
    """:func:`sync_benchmark` under the same terms as :func:`try_sync`."""
    _guarded(sync_benchmark, path)


def _left_to_runner() -> bool:
    """Whether ``pipeline.run`` stands behind this process, which fills MLflow from the records and has it loaded already."""
    return "mlflow" not in sys.modules and RUNNER in os.environ


def _guarded(call: Any, *args: Any, **kwargs: Any) -> None:
    global _warned
    try:
        call(*args, **kwargs)
    except Exception as error:
        if not _warned:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            print(f"warning: MLflow was not filled ({reason}); fill it later with `python -m pipeline.track`", file=sys.stderr)
        _warned = True
