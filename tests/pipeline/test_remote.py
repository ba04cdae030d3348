"""Shards and weights go to an S3 remote and come back; the server is moto's, over HTTP."""

import hashlib
import shutil
import urllib.request

import pytest

pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed (extra `s3`)")
server = pytest.importorskip("moto.server", reason="moto is not installed (extra `test`)")


@pytest.fixture
def bucket(monkeypatch):
    """Address of an S3 server with a bucket ``lolm``."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{address}/lolm", method="PUT"), timeout=30).close()
    yield address
    running.stop()


@pytest.fixture
def project(tmp_path, data, monkeypatch):
    """A DVC project with the shards of a small corpus and a file of weights."""
    root = tmp_path / "project"
    (root / "artifacts/smoke/runs/lolm-1").mkdir(parents=True)
    shutil.copytree(data / "shards", root / "artifacts/smoke/shards")
    (root / "artifacts/smoke/runs/lolm-1/final.safetensors").write_bytes(hashlib.sha256(b"weights").digest() * 5000)
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    return root


def dvc(*words: str) -> None:
    from dvc.cli import main

    assert main([*words, "--quiet"]) == 0, words


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def forget(project):
    """As a fresh clone: neither cache nor outputs."""
    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(project / "artifacts/smoke/shards")
    shutil.rmtree(project / "artifacts/smoke/runs")


@pytest.mark.system
def test_push_and_pull_through_s3(project, bucket):
    folder = project / "artifacts/smoke"
    dvc("init", "--no-scm")
    dvc("remote", "add", "--default", "store", "s3://lolm/store")
    dvc("remote", "modify", "store", "endpointurl", bucket)
    dvc("add", "artifacts/smoke/shards", "artifacts/smoke/runs")
    made = {name: files_of(folder / name) for name in ("shards", "runs")}
    dvc("push")
    forget(project)
    dvc("pull")
    assert {name: files_of(folder / name) for name in ("shards", "runs")} == made

    old = (folder / "runs.dvc").read_text()
    (folder / "runs/lolm-1/final.safetensors").unlink()
    (folder / "runs/lolm-1/final.safetensors").write_bytes(b"other weights")
    dvc("add", "artifacts/smoke/runs")
    dvc("push")
    dvc("gc", "--workspace", "--cloud", "--force")
    forget(project)
    dvc("pull")  # what the workspace names is still there
    assert files_of(folder / "shards") == made["shards"]
    assert files_of(folder / "runs") == {"lolm-1/final.safetensors": b"other weights"}
    (folder / "runs.dvc").write_text(old)
    from dvc.cli import main

    assert main(["pull", "--quiet", "artifacts/smoke/runs.dvc"]) != 0  # what it does not name is not
