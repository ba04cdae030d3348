"""`python -m` of stages, the benchmark, DVC and notebooks' kernels as forks of one process that has their libraries imported.

Most of what such a process takes, two seconds on a core, goes into importing PyTorch, MLflow and DVC. Nothing of this project is
imported before the fork: a copy of the project runs its own code. What a fork shares with others, and a process of its own would
not, are the seed of Python's hashes and that parts of libraries are there which nobody imported; tests of these start
``sys.executable`` themselves. A fork is killed with the process that stands for it.
"""

from __future__ import annotations

import array
import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NoReturn

LIBRARIES = (
    *("torch.utils.flop_counter", "torch.profiler", "numba", "sentencepiece", "safetensors.torch"),
    *("scipy.stats", "scipy.optimize", "pandas"),
    *("pyarrow.parquet", "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
    *("jinja2", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "dvc.cli.parser", "dvc.repo", "dvc.render.convert"),
    # What these import no sooner than they are used.
    *("torch.utils._device", "pyarrow.pandas_compat", "pandas.io.formats.csvs", "cffi", "pycparser.c_parser"),
    *("networkx", "ruamel.yaml", "dulwich.worktree", "scmrepo.git", "configobj", "flatten_dict", "platformdirs"),
    *("dvc.scm", "dvc.data_cloud", "dvc.cachemgr", "dvc.lock", "dvc.rwlock", "dvc.dirs", "dvc.utils.strictyaml"),
    *("dvc.repo.index", "dvc.repo.graph", "dvc.repo.stage", "dvc.repo.reproduce", "dvc.repo.trie", "dvc.repo.open_repo"),
    *("dvc.repo.metrics", "dvc.repo.params", "dvc.repo.plots", "dvc.repo.datasets", "dvc.repo.artifacts"),
    *("dvc_data.hashfile.db.local", "fsspec.implementations.memory"),
)
CLIENT = Path(__file__).with_name("fork_client.py")
ROOT = Path(__file__).resolve().parents[1]


@cache
def interpreter() -> str:
    """A stand-in for ``sys.executable``, in a folder of its own; the server behind it ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="forks-")  # a socket's path must be short
    address, stand_in = f"{folder.name}/socket", Path(folder.name, "bin/python")
    stand_in.parent.mkdir()
    words = f'"{sys.executable}" -IS "{CLIENT}" "{sys.executable}" "{address}"'
    stand_in.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    stand_in.chmod(0o755)
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, __file__, address, str(stand_in)]
    server = subprocess.Popen(command, env=os.environ | own, cwd=folder.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None

    def close() -> None:
        server.stdin.close()
        server.wait(timeout=30)
        folder.cleanup()

    atexit.register(close)
    assert server.stdout.readline() == b"ready\n"
    return str(stand_in)


def stage(folder: Path, name: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A stage with this project's code, in a folder that has none."""
    own = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    command = [interpreter(), "-m", f"pipeline.{name}", *words]
    return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=120, check=False)


def begun(folder: Path, code: str, **variables: str) -> subprocess.Popen[str]:
    """A process of that code, which may import this project's library, begun in a folder."""
    place = Path(tempfile.mkdtemp(dir=Path(interpreter()).parents[1]))
    (place / "pipeline").mkdir()
    (place / "pipeline/__init__.py").touch()
    (place / "pipeline/own.py").write_text(code, encoding="utf-8")
    own = {"PYTHONPATH": f"{place}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}  # whose folder is a new one each time
    command, pipe = [interpreter(), "-m", "pipeline.own"], subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=os.environ | own | variables, stdout=pipe, stderr=pipe, text=True)


def _serve(address: str, stand_in: str) -> None:
    sys.path.pop(0)  # this folder
    for name in LIBRARIES:
        import_module(name)
    assert not {"lolm", "pipeline", "benchmarks"} & set(sys.modules)
    sys.modules["numba"].njit(lambda: 0)()  # sets up its compiler, which takes longer than to load a compiled kernel
    gc.freeze()  # what is shared stays shared
    sys.executable = stand_in
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for a client's process
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in readable:  # its other end was closed
                return
            client, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _attend(client)
            client.close()


def _attend(client: socket.socket) -> NoReturn:
    """Fork a client's process and tell how it ended; it ends with its client."""
    size = int.from_bytes(client.recv(8, socket.MSG_WAITALL), "big")
    descriptors = array.array("i")
    text, passed, _, _ = client.recvmsg(1, socket.CMSG_SPACE(3 * descriptors.itemsize))
    descriptors.frombytes(passed[0][2])
    asked = json.loads(text + client.recv(size - 1, socket.MSG_WAITALL))
    own = os.getpid()
    if (process := os.fork()) == 0:
        client.close()
        _become(asked, descriptors.tolist(), own)
    with suppress(OSError):  # the client has ended already
        client.sendall(process.to_bytes(8, "big"))
    threading.Thread(target=_end_with, args=(client, process), daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):
        client.sendall((status + 256).to_bytes(8, "big"))
    os._exit(0)


def _end_with(client: socket.socket, process: int) -> None:
    with suppress(OSError):
        client.recv(1)  # nothing comes: the client has ended
    for end in (os.killpg, os.kill):  # it may have no group of its own yet
        with suppress(OSError):
            end(process, signal.SIGKILL)


def _become(asked: dict, descriptors: list[int], parent: int) -> NoReturn:
    """This fork does and ends as `python -m` would."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for descriptor, source in enumerate(descriptors):
        os.dup2(source, descriptor)
        os.close(source)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ |= asked["environment"]
    if "LOLM_PARENT" in os.environ:
        os.environ["LOLM_PARENT"] = str(parent)  # who ends this process when its client is gone
    sys.dont_write_bytecode, sys.pycache_prefix = "PYTHONDONTWRITEBYTECODE" in os.environ, os.environ.get("PYTHONPYCACHEPREFIX")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through="PYTHONUNBUFFERED" in os.environ)  # type: ignore[union-attr]
    path = os.environ.get("PYTHONPATH", "")
    sys.path[:0] = [asked["folder"], *(path.split(os.pathsep) if path else ())]
    sys.argv = asked["words"]
    status = 0
    try:
        if first := os.environ.get("FORK_FIRST"):  # see projects.in_forks
            exec(Path(first).read_text(encoding="utf-8"), {})
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status & 255)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
