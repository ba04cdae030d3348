"""Files that are cut short or have a flipped bit: whoever reads one says which it is, or ends as with a whole one."""

from __future__ import annotations

import copy
import json
import lzma
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import KILL
from projects import environment
from study import STRANGER, copied, cureless, different, only_error, run, sized, unshared

SHARDS, WEIGHTS, TRAIN = "artifacts/smoke/shards", "artifacts/smoke/runs/lolm-1", "reports/smoke/train/lolm-1"
READ = [  # stage that reads, file
    ("tokenizer", "artifacts/smoke/corpus/train.parquet"),
    ("tokenizer", "artifacts/smoke/corpus/manifest.json"),
    ("shards", "artifacts/smoke/corpus/validation.parquet"),
    ("shards", "artifacts/smoke/tokenizer/tokenizer.model"),
    ("shards", "artifacts/smoke/tokenizer/tokenizer.json"),
    ("train", f"{SHARDS}/index.json"),
    ("train", f"{SHARDS}/train/00000.bin"),
    ("train", f"{SHARDS}/validation/00000.bin"),
    ("train", f"{SHARDS}/train/documents.npy"),
    ("train", f"{SHARDS}/token_bytes.npy"),
    ("train", "reports/smoke/sweep/lolm.json"),
    ("evaluate", f"{WEIGHTS}/model.safetensors"),
    ("evaluate", f"{WEIGHTS}/cooldowns/step-000004.safetensors"),
    ("evaluate", f"{TRAIN}/config.json"),
    ("evaluate", f"{TRAIN}/summary.json"),
    ("evaluate", f"{TRAIN}/metrics.jsonl.xz"),
    ("ablate", f"{WEIGHTS}/snapshots/step-000004.safetensors"),
    ("front", "reports/smoke/evaluate/lolm-1.json"),
    ("front", "reports/smoke/ablate/lolm-1.json.xz"),
    ("front", "reports/smoke/layers/lolm-1.json.xz"),
    ("front", "reports/smoke/recall/lolm-1.json"),
]
FORMS = [  # records that are JSON
    *(entry for entry in READ if ".json" in entry[1] and "jsonl" not in entry[1]),
    ("evaluate", f"{SHARDS}/test/documents.json"),
    ("report", "reports/smoke/corpus.json"),
]
STORES = ["locked", "cut short", "a flipped bit", "garbage", "newer", "no server", "read-only"]
CHECKPOINTS = ["checkpoint.pt", "checkpoint.before.pt", "metrics.jsonl", "branches/step-000004.pt"]


BACKWARDS = """
import sys
from alembic.command import downgrade
from mlflow.store.db.utils import _get_alembic_config
downgrade(_get_alembic_config(sys.argv[1]), sys.argv[2])
"""
KEPT = {  # of a store, but for ids and times, which each has of its own
    "runs": "name, status, lifecycle_stage",
    "metrics": "key, value, step, is_nan",
    "params": "key, value",
    "tags": "key, value",
    "experiments": "name, lifecycle_stage",
}


def damaged(raw: bytes, seed: int) -> list[tuple[str, bytes]]:
    """Cut to nothing, in the middle and by a byte; and a bit flipped at two places."""
    rng, found = random.Random(seed), [("cut short", raw[:size]) for size in (0, len(raw) // 2, len(raw) - 1)]
    for place in rng.sample(range(len(raw)), 2):
        found.append(("a flipped bit", raw[:place] + bytes([raw[place] ^ 1 << rng.randrange(8)]) + raw[place + 1 :]))
    return found


OTHER: list[Any] = [[], 5, "text", {}]


def deformed(value: Any, seed: int) -> Iterator[Any]:
    """JSON of another form: as a whole, at a known key, and one level below."""
    rng = random.Random(seed)
    yield from (other for other in OTHER if other != value)
    places = list(value.items() if isinstance(value, dict) else enumerate(value[:1]))
    for key, inner in rng.sample(places, min(len(places), 6)):
        below = [*(inner.items() if isinstance(inner, dict) else enumerate(inner[:1]) if isinstance(inner, list) else ())][:1]
        for path, old in [((key,), inner), *(((key, more), deep) for more, deep in below)]:
            changed = place = copy.deepcopy(value)
            for step in path[:-1]:
                place = place[step]
            number = isinstance(old, int | float)  # which may well be another number
            place[path[-1]] = rng.choice([o for o in OTHER if type(o) is not type(old) and not (number and o == 5)])
            yield changed


def told(said: str, status: int, file: str) -> list[str]:
    """What is wrong with how a reader ended that could not go on."""
    found = [f"ended with {status}"] if status != 2 else []
    parts = Path(file)
    near = (parts.name, parts.parent.name + "/") if parts.suffix != ".parquet" else (parts.name, "corpus")
    named = [line for line in only_error(said) if any(name in line for name in near)]
    return found + (cureless(named[0]) if named else [f"no one line that names the file: {said[-300:]!r}"])


def is_record(file: str) -> bool:
    return file.endswith(".json") and file.startswith("reports/")


@pytest.mark.parametrize(("stage", "file"), sized(READ[5:7], READ))
def test_a_damaged_file_is_named_or_does_no_harm(study, folder, table, stage, file):
    before, after, found = study.before(stage), study.after(stage), []
    for fault, content in damaged((before / file).read_bytes(), seed=len(file)):
        shutil.rmtree(folder, ignore_errors=True)
        copied(before, folder)
        (folder / file).write_bytes(content)
        ended = run(study.forge, folder, stage)
        if ended.status:
            wrong = told(ended.said, ended.status, file)
        else:
            (folder / file).write_bytes((before / file).read_bytes())
            wrong = [f"silently {text}" for text in different(folder, after)]
            # A digit of a record in JSON: nothing but git and `dvc status` know what it was; the tables are made of it.
            if fault == "a flipped bit" and is_record(file):
                wrong = []
        table.add(fault, file.replace("smoke", "<scale>").replace("lolm-1", "<run>"), ended.said, wrong)
        found += [f"{fault}: {text}" for text in wrong]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("stage", "file"), sized([READ[5]], FORMS))
def test_a_record_of_another_form_is_named_or_does_no_harm(study, folder, table, stage, file):
    before, after, found = study.before(stage), study.after(stage), []
    raw = (before / file).read_bytes()
    packed = file.endswith(".xz")
    for value in deformed(json.loads(lzma.decompress(raw) if packed else raw), seed=len(file)):
        shutil.rmtree(folder, ignore_errors=True)
        copied(before, folder)
        text = json.dumps(value).encode()
        (folder / file).write_bytes(lzma.compress(text) if packed else text)
        ended = run(study.forge, folder, stage)
        if ended.status:
            wrong = told(ended.said, ended.status, file)
        else:
            (folder / file).write_bytes(raw)
            wrong = [f"silently {text}" for text in different(folder, after)]
        table.add("JSON of another form", file.replace("smoke", "<scale>").replace("lolm-1", "<run>"), ended.said, wrong)
        found += [f"{text[:300]!r}: {problem}" for problem in wrong]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", sized(CHECKPOINTS[:1], CHECKPOINTS))
def test_a_damaged_checkpoint_is_named_or_gone_around(study, folder, table, file):
    """Where there is an older checkpoint, it is taken and that is said: the same weights in the end."""
    before, after, found = study.before("train"), study.after("train"), []
    killed = folder.with_name("killed")
    copied(before, killed)
    run(study.forge, killed, "train", at=study.written["train"] * 3 // 4, kind=KILL)
    (whole,) = killed.glob(f".scratch/*/{file}")
    for fault, content in damaged(whole.read_bytes(), seed=3):
        shutil.rmtree(folder, ignore_errors=True)
        copied(killed, folder)
        (folder / whole.relative_to(killed)).write_bytes(content)
        ended = run(study.forge, folder, "train")
        wrong = told(ended.said, ended.status, str(whole)) if ended.status else different(folder, after)
        table.add(fault, f".scratch/<run>/{file}", ended.said, wrong)
        found += [f"{fault}: {text}" for text in wrong]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("fault", sized([], STORES))
def test_a_store_that_cannot_be_used_is_named(study, folder, table, fault, tmp_path):
    import sqlite3

    if fault == "read-only" and not unshared("-U"):
        pytest.skip("no namespaces of users here")
    copied(study.after("report"), folder)
    store = folder / "mlflow.db"
    where = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"} if fault == "no server" else {}
    held, user = None, 0
    if fault != "no server":
        assert study.forge.run(folder, "pipeline.track").status == 0
        known = stored(store)
        raw = store.read_bytes()
        (folder / "reports/smoke/one/leaderboard.csv").write_text("changed", encoding="utf-8")  # there is something to write
        if fault == "cut short":
            store.write_bytes(raw[: len(raw) // 2])
        elif fault == "a flipped bit":
            store.write_bytes(raw[:40] + bytes([raw[40] ^ 1]) + raw[41:])
        elif fault == "garbage":
            store.write_bytes(b"no database" * 1000)
        elif fault == "newer":
            with sqlite3.connect(store) as database:
                database.execute("update alembic_version set version_num = 'ffffffffffff'")
        elif fault == "read-only":
            store.chmod(0o444)
            user = STRANGER
        else:
            held = sqlite3.connect(store, isolation_level=None)
            held.execute("begin exclusive")
    ended = study.forge.run(folder, "pipeline.track", user=user, **where)
    store.chmod(0o644) if user else None
    wrong = [] if ended.status == 0 and fault == "a flipped bit" else told(ended.said, ended.status, "mlflow.db")
    if held is not None or user:
        held.close() if held is not None else None
        again = study.forge.run(folder, "pipeline.track")
        wrong += [] if again.status == 0 and stored(store) >= known else ["does not go on"]
    if fault == "no server":
        wrong = told(ended.said, ended.status, "127.0.0.1:9")
    table.add(f"store: {fault}", "track", ended.said, wrong)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("back", sized([], [1, 8]))
def test_an_older_store_is_brought_up_to_date(study, folder, table, back):
    """A store of MLflow's earlier tables, by MLflow's own way back; what a user wrote into it is still there."""
    import sqlite3

    copied(study.after("report"), folder)
    store, full = folder / "mlflow.db", folder.with_name("full")
    assert study.forge.run(folder, "pipeline.track").status == 0
    with sqlite3.connect(store) as database:
        database.execute("insert into tags (key, value, run_uuid) select 'note', 'of a user', run_uuid from runs")
    (folder / "reports/smoke/one/leaderboard.csv").write_text("changed", encoding="utf-8")  # there is something to write
    copied(folder, full)
    assert study.forge.run(full, "pipeline.track").status == 0
    words = [sys.executable, "-c", BACKWARDS, f"sqlite:///{store}", f"-{back}"]
    subprocess.run(words, env=environment(folder), check=True, capture_output=True)
    version = "select version_num from alembic_version"
    assert asked(store, version) != asked(full / "mlflow.db", version)
    ended = study.forge.run(folder, "pipeline.track")
    wrong = [ended.said[-400:]] if ended.status else []
    for query in (version, *(f"select {columns} from {rows} order by {columns}" for rows, columns in KEPT.items())):
        wrong += [] if asked(store, query) == asked(full / "mlflow.db", query) else [f"lost: {query}"]
    wrong += [f"left over: {path.name}" for path in folder.glob("mlflow.db.*.new*")]
    table.add("store: older", "track", ended.said, wrong)
    assert not wrong, "\n".join(wrong)


def asked(path: Path, query: str) -> list[tuple]:
    import sqlite3

    with sqlite3.connect(path) as database:
        return database.execute(query).fetchall()


def stored(path: Path) -> int:
    return asked(path, "select count(*) from metrics")[0][0]
