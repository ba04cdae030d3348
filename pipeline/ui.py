"""Open the local MLflow store: fill it from the records, start the server, print the address of the charts."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from lolm import LolmError, tracking
from lolm.config.ranges import Port, Text
from lolm.records import Layout, recorded_scales
from pipeline import stage

LOG = Path(".scratch/logs/mlflow-ui.log")


def ui() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--host", type=stage.option(Text), default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument("--port", type=stage.option(Port), default=5000, help="default: %(default)s")
    parser.add_argument("--scale", help="whose experiment the printed address opens (default: that of params.yaml)")
    parser.add_argument("--study", help="whose arms it compares (default: that of params.yaml)")
    args = parser.parse_args()
    chosen = stage.opened(args).params
    stage.refuse_other_scale(chosen)
    elsewhere = tracking.store_uri().startswith("http")  # a server of somebody's, which is running
    if not elsewhere:
        refuse_taken(args.host, args.port)
    for recorded in recorded_scales():
        tracking.sync_scale(recorded)
    page = tracking.chart_page_of(Layout(chosen.scale), chosen.study)
    if elsewhere:
        print(f"{tracking.store_uri().rstrip('/')}/{page}")
    else:
        serve(args.host, args.port, page)


def refuse_taken(host: str, port: int) -> None:
    """Raises LolmError where nothing can listen on this address, before the store is filled."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, UnicodeError) as error:  # a host may be no name at all
            reason = error.strerror if isinstance(error, OSError) else error
            raise LolmError(f"cannot listen on {host}:{port} ({reason}); try `make ui PORT=5001`") from None


def serve(host: str, port: int, page: str) -> None:
    """Start the server, print the address of ``page``, and stay until it ends or is stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Without job execution the server is two processes instead of ten.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    print("starting the MLflow server (some 20 s)", flush=True)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with open(LOG, "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            command(host, port),
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while server.poll() is None and not _answers(f"http://{host}:{port}/health"):
            time.sleep(0.5)
        if server.poll() is None:
            print(f"\n  http://{host}:{port}/{page}\n\nCtrl-C stops it", flush=True)
        if server.wait():
            raise LolmError(f"the MLflow server ended with status {server.returncode}; the reason is in {LOG}")
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=20)


def command(host: str, port: int) -> list[str]:
    """What starts the server.

    On a loopback address it answers to that machine's own names alone: by MLflow's own rule a page elsewhere whose name leads
    here, such as 10.example.com, could read the store in a visitor's browser. ``MLFLOW_SERVER_ALLOWED_HOSTS`` says otherwise.
    """
    words = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking.store_uri(), "--workers", "1"]
    words += ["--host", host, "--port", str(port)]
    if (host != "localhost" and not host.startswith("127.")) or "MLFLOW_SERVER_ALLOWED_HOSTS" in os.environ:
        return words
    names = dict.fromkeys((host, "127.0.0.1", "localhost"))
    return [*words, "--allowed-hosts", ",".join(f"{name},{name}:*" for name in names)]


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    stage.main(ui)
