"""The local MLflow store: where it lies, how it is made, and what it holds."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from lolm import LolmError, redacted
from lolm.records import Layout
from lolm.tracking.experiments import KIND, KIND_TAG, arrange
from lolm.tracking.series import Point

METRICS_PER_CALL = 1000  # MLflow's limits
PARAMS_PER_CALL = 100
ARTIFACTS = "mlartifacts"  # folder beside a local store
ADDRESSES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))
REPORTS = "lolm-reports"  # the experiment of studies' reports, of all scales
RECORDS, SENT = "mlflow.lolm.records", "mlflow.lolm.sent"  # tags of a run that say what it holds; pages hide those of this prefix


MOVE_AWAY = "move it away: `python -m pipeline.track` fills another"
MAKE_WRITABLE = "let this user write it, then `python -m pipeline.track` fills it"
PATIENCE, SAID_AFTER = 600.0, 5.0  # seconds for which another process that fills the store is waited for, and until that is said


class TrackingError(LolmError):
    """The MLflow store cannot be used."""


class BusyError(TrackingError):
    """Another process fills the store."""


def project_root() -> Path:
    """Folder that holds the store: ``DVC_ROOT`` (the main checkout, also in a DVC experiment), else the nearest with ``.dvc``."""
    if root := os.environ.get("DVC_ROOT"):
        return Path(root)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def store_uri() -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else ``mlflow.db`` (SQLite) in the project root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _sqlite_uri(project_root() / "mlflow.db")


def experiment_name(scale: str) -> str:
    return f"lolm-{scale}"


def prepare_store() -> None:
    """Create the SQLite store, or bring an older one up to date; any number of processes may call it at once.

    Both are done beside its place, which takes some 8 s, and renamed: a killed process leaves no half-made one.

    Raises:
        TrackingError: the store cannot be created, read or migrated.
    """
    path = sqlite_path(store_uri())
    if path is None:
        return
    with store_lock():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _beside(path) as temporary:
                _open(_sqlite_uri(temporary))
            return
        try:
            _open(store_uri())
        except _mlflow().exceptions.MlflowException as error:
            if "out-of-date database schema" not in str(error):
                raise TrackingError(f"{path}: not an MLflow store; {MOVE_AWAY}") from error
            _bring_up_to_date(path)
        _move_in(path)


def _bring_up_to_date(path: Path) -> None:
    """Let MLflow bring the tables of an older store into their present form, in a copy."""
    if not os.access(path, os.W_OK):
        raise TrackingError(f"{path}: of an older MLflow, and cannot be written; {MAKE_WRITABLE}")
    with _beside(path) as temporary:
        shutil.copy2(path, temporary)
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", _sqlite_uri(temporary)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = _reason((done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1])
            reason = "a newer MLflow has made it" if "Can't locate revision" in said else said
            raise TrackingError(f"{path}: cannot be brought up to date ({reason}); {MOVE_AWAY}")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name beside a store for what becomes it, if all goes well; what killed processes left of such is cleared away."""
    for left in path.parent.glob(f"{path.name}.*.new*"):
        left.unlink()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _move_in(path: Path) -> None:
    """Where a project's folder was copied or moved with its store, let artifacts be looked for and written in this one.

    MLflow keeps absolute addresses: the copy of a project would write into the folders of the first.
    """
    root = project_root()
    if path != root / path.name:  # a store of several projects
        return
    home = (root / ARTIFACTS).as_uri() + "/"
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        rows = database.execute("SELECT name, artifact_location FROM experiments WHERE name LIKE 'lolm-%'")
        ends = [(location, f"/{ARTIFACTS}/{name}") for name, location in rows]
        for old in {location.removesuffix(end) + f"/{ARTIFACTS}/" for location, end in ends if location.endswith(end)} - {home}:
            for table, column in ADDRESSES:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (home, len(old) + 1, len(old), old),
                )


def _open(uri: str) -> Any:
    """A client whose store is known to answer."""
    client = _mlflow().MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite address; None of another."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])) if uri.startswith("sqlite:///") else None


def _sqlite_uri(path: Path) -> str:
    """The address of a SQLite file; a quoted one has no slash, as MLflow makes folders of what stands before the last."""
    text = str(path)
    return "sqlite:///" + (quote(text, safe="") if re.search("[?#%]", text) else text)


@contextmanager
def store_lock(patience: float = PATIENCE) -> Iterator[None]:
    """Held while the store is read and written; a process may take it again inside.

    Raises:
        BusyError: another process has held it for ``patience`` seconds.
        TrackingError: for what MLflow and the libraries below it raise, which have no common class; names the store.
    """
    with _locked(patience):
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("alembic", "mlflow", "requests", "sqlalchemy", "sqlite3"):
                raise
            reason, path = _reason(redacted(str(error))), sqlite_path(store_uri())
            if path is None and not re.match("https?://", store_uri()):
                advice = "set MLFLOW_TRACKING_URI to the address of a server, http://…, or of a file, sqlite:///…, or unset it"
            elif path is None:
                advice = "start its server, or unset MLFLOW_TRACKING_URI"
            elif "readonly" in reason:
                advice = MAKE_WRITABLE
            else:
                advice = f"wait for what holds it, or {MOVE_AWAY}"
            raise TrackingError(f"{path or store_uri()}: cannot be used ({reason}); {advice}") from error


def _reason(said: str) -> str:
    """The first line of what a library says, without SQLAlchemy's remark on when and the name of its class of errors."""
    line = re.sub(r"\(raised as a result of [^\n]*\n", "", said).partition("\n")[0][:300]
    return re.sub(r"^(?:\((?:\w+\.)+\w+\) |(?:\w+\.)*\w*(?:Error|Exception): )+", "", line)


@contextmanager
def _locked(patience: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(project_root() / "mlflow.db.lock", is_singleton=True)  # re-entrant
    try:
        try:
            lock.acquire(timeout=min(patience, SAID_AFTER))
        except Timeout:
            if patience <= SAID_AFTER:
                raise
            print(f"waiting for another process that fills MLflow (lock {lock.lock_file})", file=sys.stderr, flush=True)
            lock.acquire(timeout=patience - SAID_AFTER)
    except Timeout:
        raise BusyError(
            f"{lock.lock_file}: another process has filled MLflow for {patience:.0f} s; wait for it, or end it"
        ) from None
    try:
        yield
    finally:
        lock.release()


@cache
def _mlflow() -> Any:
    # A server that does not answer is given up after some 20 s, not after minutes.
    for name, value in (("DISABLE_TELEMETRY", "true"), ("HTTP_REQUEST_MAX_RETRIES", "1"), ("HTTP_REQUEST_TIMEOUT", "10")):
        os.environ.setdefault(f"MLFLOW_{name}", value)
    import mlflow

    for chatter in ("alembic", "mlflow.tracking.fluent"):
        logging.getLogger(chatter).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs the traceback of what it raises as well
    return mlflow


def in_use() -> bool:
    """Whether this process has taken MLflow's seconds of importing on itself already."""
    return _mlflow.cache_info().currsize > 0


def open_client() -> Any:
    """A client of the store, which is made or brought up to date first."""
    prepare_store()
    return _mlflow().MlflowClient(tracking_uri=store_uri())


def experiment_called(client: Any, name: str) -> str:
    """Id of an experiment, made if there is none of that name."""
    found = client.get_experiment_by_name(name)
    if found is None:
        local = sqlite_path(store_uri()) is not None  # else the server decides where artifacts lie
        folder = (project_root() / ARTIFACTS / name).as_uri() if local else None
        return client.create_experiment(name, artifact_location=folder, tags={KIND_TAG: KIND})
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def training_experiment(client: Any, layout: Layout) -> str:
    """Id of the experiment of a scale's training runs, made and arranged where it is not."""
    experiment = experiment_called(client, experiment_name(layout.scale))
    arrange(client, client.get_experiment(experiment), layout)
    return experiment


def known_digests(scale: str) -> set[str]:
    """Digests of a scale's records and reports that the local store holds whole; empty when that cannot be said cheaply."""
    path = sqlite_path(store_uri())
    if path is None or not path.exists():
        return set()
    query = """SELECT tags.value FROM tags JOIN runs USING (run_uuid) JOIN experiments USING (experiment_id)
               WHERE tags.key = ? AND runs.lifecycle_stage = 'active'
               AND experiments.lifecycle_stage = 'active' AND experiments.name IN (?, ?)"""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as database:
            return {row[0] for row in database.execute(query, (RECORDS, experiment_name(scale), REPORTS))}
    except sqlite3.Error:  # another schema: take the slow way, which says what is wrong
        return set()


# ---------------------------------------------------------------------------------------------- writing to it


def find_run(client: Any, experiment: str, fingerprint: str) -> Any:
    """The run of a fingerprint, or None."""
    found = client.search_runs([experiment], f"tags.fingerprint = '{fingerprint}'", max_results=1)
    return found[0] if found else None


def send_points(client: Any, run_id: str, start: int, points: list[Point], of: Callable[[Point], Any] = lambda point: {}) -> None:
    """Send points in batches; the store drops an exact duplicate.

    Args:
        of: what a point is of: fields of MLflow's ``Metric`` that name a model and a data set.
    """
    from mlflow.entities import Metric

    for i in range(0, len(points), METRICS_PER_CALL):
        some = points[i : i + METRICS_PER_CALL]
        batch = [Metric(key, n, start + int(1000 * s), step, **of((key, n, step, s))) for key, n, step, s in some]
        client.log_batch(run_id, metrics=batch)


def send_params(client: Any, run_id: str, wanted: dict[str, str], present: dict[str, str]) -> None:
    """Send the parameters that a run lacks."""
    from mlflow.entities import Param

    new = [Param(key, value) for key, value in wanted.items() if key not in present]
    for i in range(0, len(new), PARAMS_PER_CALL):
        client.log_batch(run_id, params=new[i : i + PARAMS_PER_CALL])


def provenance() -> dict[str, str]:
    """Where this process runs: git commit, pipeline invocation, DVC experiment."""
    tags = {"mlflow.source.name": "dvc repro", "mlflow.source.type": "PROJECT"}
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git here
        git = ""
    if git:
        dirty = str(git.endswith("-dirty")).lower()
        tags |= {"mlflow.source.git.commit": git.removesuffix("-dirty"), "mlflow.source.git.dirty": dirty}
    names = {"pipeline": "LOLM_PIPELINE", "dvc.exp_name": "DVC_EXP_NAME", "dvc.exp_baseline": "DVC_EXP_BASELINE_REV"}
    return tags | {tag: os.environ[variable] for tag, variable in names.items() if os.environ.get(variable)}
