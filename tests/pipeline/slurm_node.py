"""A real Slurm of one node for tests: daemons of this user, with all they need in a temporary folder, ended with the tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

SEARCHED = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
INSTALLED = all(shutil.which(name, path=SEARCHED) for name in ("munged", "slurmctld", "slurmd", "sbatch", "setpriv"))

# No cgroups, which a container has not; no plugin that wants to be root.
CONFIGURATION = """
ClusterName=lolm
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=both Nodes=ALL Default=YES MaxTime=60 State=UP
"""


@contextmanager
def started() -> Iterator[dict[str, str]]:
    """Start the daemons; gives the environment in which Slurm's commands talk to them, and ends jobs and daemons at the end."""
    with ExitStack() as stack:
        # One at a time: two would each give all cores away, and a requeued task has to begin within what a test waits for.
        stack.enter_context(FileLock(Path(tempfile.gettempdir()) / f"lolm-slurm-{getpass.getuser()}.lock"))
        # Under the system's own folder: the path of a socket may not be long.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lolm-slurm-", ignore_cleanup_errors=True)))
        host, ports = socket.gethostname().split(".")[0], _free_ports(2)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(folder=folder, host=host, ports=ports, user=getpass.getuser()), encoding="utf-8"
        )
        (folder / "key").write_bytes(os.urandom(256))
        (folder / "key").chmod(0o600)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": SEARCHED}
        own = [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
        daemons = [
            ["munged", "--foreground", "--force", f"--key-file={folder}/key", f"--socket={folder}/munge.socket", *own],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-N", host],
        ]
        for words in daemons:
            stack.callback(_end, _begin(words, folder, environment))
            if words[0] == "munged":
                _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        stack.callback(_end_jobs, environment)
        _wait_for(lambda: said(environment, "sinfo", "--noheader", "--format=%T") == "idle", folder)
        yield environment


def _begin(words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # They are told to end if the process that tests is killed.
    with open(folder / f"{words[0]}.out", "wb") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *words],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(timeout=10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _end_jobs(environment: dict[str, str]) -> None:
    said(environment, "scancel", "--me")
    until = time.monotonic() + 15
    while said(environment, "squeue", "--noheader") and time.monotonic() < until:
        time.sleep(0.2)


def said(environment: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False).stdout.strip()


def _wait_for(condition, folder: Path, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        logs = {path.name: path.read_text(errors="replace")[-1000:] for path in [*folder.glob("*.out"), *folder.glob("*.log")]}
        assert time.monotonic() < until, f"Slurm does not start: {logs}"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
