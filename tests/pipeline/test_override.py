"""DVC at another scale or study than params.yaml names, without the file being touched."""

from __future__ import annotations

import json

import pytest
import yaml
from projects import python

from pipeline import dvc as ours

DVC_YAML = """
stages:
  made:
    matrix: {scale: ["${scale}"]}
    cmd: echo ${study} > ${item.scale}.txt
    params: [{params.yaml: }]
    outs: ["${item.scale}.txt": {cache: false}]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC project whose one stage says at which scale and study it was made; `pipeline` is ours."""
    from projects import ROOT

    (tmp_path / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (tmp_path / "params.yaml").write_text("scale: tiny  # smoke | tiny\nstudy: main\nsteps: {tiny: 3}\n", encoding="utf-8")
    for package in ("lolm", "pipeline"):
        (tmp_path / package).symlink_to(ROOT / package)
    python(tmp_path, "-m", "dvc", "init", "--no-scm", "--quiet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_interpolation_and_recorded_params_see_the_override_and_the_file_stays(project):
    before = (project / "params.yaml").read_bytes()
    python(project, "-m", "pipeline.dvc", "--scale", "smoke", "--study", "field", "repro")
    assert (project / "smoke.txt").read_text(encoding="utf-8").strip() == "field"
    lock = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert set(lock) == {"made@smoke"}
    assert lock["made@smoke"]["params"]["params.yaml"] == {"scale": "smoke", "study": "field", "steps": {"tiny": 3}}
    python(project, "-m", "pipeline.dvc", "repro")
    assert (project / "tiny.txt").read_text(encoding="utf-8").strip() == "main"
    for chosen, wanted in ((["--scale", "smoke", "--study", "field"], set()), ([], set()), (["--study", "field"], {"made@tiny"})):
        said = python(project, "-m", "pipeline.dvc", *chosen, "status", "--json")
        assert set(json.loads(said.splitlines()[-1])) == wanted
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_dvc_that_reads_its_parameters_elsewhere_is_refused_before_it_does_anything(project, monkeypatch):
    """The hook is one of DVC's own tables; where DVC stops to look there, scale and study would be silently those of the file."""
    from dvc.utils import serialize

    monkeypatch.setattr(serialize, "LOADERS", serialize.LOADERS.copy())
    monkeypatch.setattr("dvc.dependency.param.load_path", lambda path, fs, **options: serialize.load_yaml(path, fs=fs))
    with pytest.raises(ours.OverrideError, match="pinned version"):
        ours.override({"scale": "smoke"})
    assert ours.main(["--scale", "smoke", "repro"]) == 2
    assert not (project / "smoke.txt").exists()


def test_what_is_not_overridden_is_dvcs_own(project):
    assert "made@tiny" in python(project, "-m", "pipeline.dvc", "stage", "list", "--name-only")
    assert python(project, "-m", "pipeline.dvc", "no-such-command", status=None).count("invalid choice") == 1
