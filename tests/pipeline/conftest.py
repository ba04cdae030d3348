"""The study of the end-to-end tests is made once for all processes that test; each test that changes it has a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import smoke_study
from filelock import FileLock
from projects import keep_kernels

from lolm.records import Layout


@pytest.fixture(scope="session")
def made(tmp_path_factory, worker_id) -> Path:
    """A copy of a project in which the whole pipeline has run; tests only read and copy it. The project itself, with its MLflow
    store, lies beside it as ``walked``, for the module that walks through it."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "study"
    made = root / "made"
    with FileLock(f"{root}.lock"):
        if not made.exists():
            shutil.rmtree(root, ignore_errors=True)
            smoke_study.make(root / "walked")
            copy = smoke_study.copied(root / "walked", root / "copying")
            keep_kernels(copy, copy.rename(made))
    return made


@pytest.fixture
def layout(made) -> Layout:
    """Where its undisturbed results lie."""
    return Layout("smoke", made)
