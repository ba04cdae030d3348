"""Passwords and tokens of the environment stand in no record, page or message of a stage; for the store see tests/tracking."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from processes import STAGES
from study import copied, different, run, sized

SECRETS = {
    "HF_TOKEN": "hf_planted",
    "AWS_SECRET_ACCESS_KEY": "planted",
    "MLFLOW_TRACKING_PASSWORD": "planted",
    "MLFLOW_TRACKING_URI": "http://me:planted@127.0.0.1:9",
    "MY_OWN_TOKEN": "planted",
}


def content(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


@pytest.mark.parametrize("stage", sized(["report"], STAGES))
def test_secrets_of_the_environment_reach_no_file(study, folder, table, stage):
    """The report's stage writes the study's page."""
    copied(study.before(stage), folder)
    ended = run(study.forge, folder, stage, **SECRETS)
    wrong = [ended.said[-400:]] if ended.status else different(folder, study.after(stage))
    files = [path for path in folder.rglob("*") if path.is_file()]
    wrong += [f"in {path.relative_to(folder)}" for path in files if b"planted" in content(path)]
    wrong += ["in what was said"] if "planted" in ended.said else []
    wrong += [] if stage != "report" or (folder / "reports/smoke/one/report.html") in files else ["no page"]
    table.add("secrets in the environment", stage, ended.said, wrong)
    assert not wrong, "\n".join(wrong)
