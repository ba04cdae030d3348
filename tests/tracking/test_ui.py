"""The page of the store: on the loopback address, and to nobody who comes under another name."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import forks
import psutil
import pytest
from builders import ROOT

from pipeline import ui


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_on_a_loopback_address_only_its_names_are_answered(monkeypatch, host):
    monkeypatch.delenv("MLFLOW_SERVER_ALLOWED_HOSTS", raising=False)
    words = ui.command(host, 5000)
    assert words[words.index("--host") + 1] == host
    allowed = words[words.index("--allowed-hosts") + 1].split(",")
    assert set(allowed) == {name + port for name in (host, "127.0.0.1", "localhost") for port in ("", ":*")}


def test_on_another_address_and_where_the_user_says_so_the_rule_is_theirs(monkeypatch):
    monkeypatch.delenv("MLFLOW_SERVER_ALLOWED_HOSTS", raising=False)
    assert "--allowed-hosts" not in ui.command("0.0.0.0", 5000)
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mlflow.example.com")
    assert "--allowed-hosts" not in ui.command("127.0.0.1", 5000)


def test_where_the_store_is_a_server_its_address_is_printed_and_none_is_started(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.com:5000/")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a server was started"))
    monkeypatch.setattr("lolm.tracking.chart_page_of", lambda layout, study: "#/experiments/1")
    monkeypatch.setattr(sys, "argv", ["ui"])
    ui.ui()
    assert capsys.readouterr().out == "http://mlflow.example.com:5000/#/experiments/1\n"


def answered(port: int, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host})
    return connection.getresponse().status


@pytest.mark.system
def test_a_server_listens_on_the_loopback_address_and_refuses_foreign_names(tmp_path, migrated):
    shutil.copy(migrated, tmp_path / "mlflow.db")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / ".dvc").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    dropped = ("MLFLOW_TRACKING_URI", "MLFLOW_SERVER_ALLOWED_HOSTS", "DVC_ROOT")
    own = {key: value for key, value in os.environ.items() if key not in dropped} | {"PYTHONPATH": str(ROOT)}
    words = [forks.interpreter(), "-m", "pipeline.ui", "--port", str(port)]
    with subprocess.Popen(words, cwd=tmp_path, env=own, stdout=subprocess.PIPE, text=True) as server:
        try:
            while f"http://127.0.0.1:{port}/" not in server.stdout.readline():
                assert server.poll() is None, (tmp_path / ui.LOG).read_text(encoding="utf-8")
                time.sleep(0.01)
            tree = psutil.Process().children(recursive=True)  # forks, and what they start, are of one server of ours
            listening = {c.laddr.ip for p in tree for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
            assert listening == {"127.0.0.1"}
            assert {answered(port, f"{name}:{port}") for name in ("127.0.0.1", "localhost")} == {200}
            foreign = ("example.com", f"example.com:{port}", "10.example.com", "192.168.example.com", "localhost.example.com")
            assert {answered(port, name) for name in foreign} == {403}
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)
