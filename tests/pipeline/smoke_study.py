"""A short study at scale smoke, in a project of its own in which the whole pipeline has run once."""

from __future__ import annotations

import json
import lzma
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import yaml
from projects import copy_of_project, git, keep_kernels, python

ARMS, SEEDS, STEPS = ("lolm", "transformer"), (1, 2), 30
RUNS = [(arm, seed) for arm in ARMS for seed in SEEDS]
SAID = ".scratch/said"  # what the runner printed


def make(root: Path) -> None:
    """A copy of this project with the short study chosen, in a fresh repository, and all its results."""
    copy_of_project(root)
    _shorten(root / "lolm/corpus/embedded/embedded.jsonl.xz")
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params |= {"scale": "smoke", "study": "main"}
    # Of other studies every page would count anew what they cost, a quarter of what a page takes.
    params |= {"studies": {study: params["studies"][study] for study in ("main", "smoke")}, "budgets": {}}
    params["studies"]["main"]["seeds"] = list(SEEDS)
    smoke = params["scales"]["smoke"]
    smoke["training"]["steps"] = STEPS
    smoke["ablation"] |= {"tokens": 1024, "refit_steps": 2, "refit_checks": 1, "fine_tune_steps": 1}
    smoke["layers"]["draws"] = 1
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "copy")
    (root / SAID).write_text(python(root, "-m", "pipeline.run", "--jobs", "2"), encoding="utf-8")


def _shorten(corpus: Path) -> None:
    """Keep the beginning of every document: thirty steps need no 20 MB, which every measurement would count again."""
    with lzma.open(corpus, "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    with lzma.open(corpus, "wt", encoding="utf-8", preset=0) as file:
        file.writelines(json.dumps(document | {"text": document["text"][:2000]}) + "\n" for document in documents)


def copied(made: Path, folder: Path, *left_out: str) -> Path:
    """A project like it in another folder, without what names the folder: DVC's notes on files, and the MLflow store."""
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns(".site", "mlflow.db", *left_out))
    keep_kernels(made, folder)
    for page in folder.glob("reports/*/*/report.html"):
        page.touch()  # else a stage that makes runs would make it anew between them, once it is two minutes old
    return folder


def mlflow_rows(root: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        return database.execute(query).fetchall()
