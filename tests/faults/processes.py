"""Stages as processes that are struck at their n-th write: PyTorch and MLflow are imported once, and each try is a fork of that.

``Forge`` runs this file under ``shim.c`` and asks it, by a line of JSON, for one process after another.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from projects import ROOT, environment

KILL, TORN, FULL, BROKEN, SHORT, GROUP, TREE, SIGNAL = 1, 2, 3, 4, 5, 6, 7, 100  # see shim.c
STAGES = ("plan", "corpus", "tokenizer", "shards", "sweep", "train", "evaluate", "ablate", "layers", "recall", "report", "front")
HEAVY = (
    *("pyarrow.parquet", "sentencepiece", "scipy.stats", "matplotlib.backends.backend_svg", "pandas.core.api", "cffi"),
    *("torch.utils.flop_counter", "torch.profiler"),
    *(f"lolm.ops.cpu.{path.stem}" for path in sorted((ROOT / "lolm/ops/cpu").glob("[a-z]*.py"))),
)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status (negative: the signal), what it printed, and the paths of its writing calls."""

    status: int
    said: str
    calls: list[str] = field(repr=False)


def compiled_shim(folder: Path) -> Path | None:
    """The library that strikes; None where nothing compiles C."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "shim.so"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(Path(__file__).with_name("shim.c")), "-ldl"], check=True
    )
    return library


class Forge:
    """Makes processes that share one import of everything heavy."""

    def __init__(self, shim: Path, folder: Path, *modules: str) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/faults"), str(ROOT / "tests/pipeline")])
        own = {
            "LD_PRELOAD": str(shim),
            "PYTHONPATH": paths,
            "LOLM_RUNNER": "1",
            "DVC_STAGE": "1",
            "MKL_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
        }
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env=environment(folder, **own),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def run(
        self, root: Path, module: str, *arguments: str, at: int = 0, kind: int = 0, limits: dict[str, int] | None = None,
        user: int = 0, **env: str,
    ) -> Ended:  # fmt: skip
        """`python -m module` in a project, struck at its ``at``-th writing call there (0: never), under limits, as another user;
        an empty variable is taken out of the environment."""
        said, calls = self._folder / "said.txt", self._folder / "calls.txt"
        asked = {"root": str(root), "module": module, "arguments": arguments, "at": at, "kind": kind, "env": env}
        asked |= {"said": str(said), "calls": str(calls), "limits": limits or {}, "user": user}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        status = int(self._answer())
        return Ended(status, said.read_text(encoding="utf-8", errors="replace"), calls.read_text(encoding="utf-8").splitlines())

    @property
    def address_space(self) -> int:
        """Bytes that a process has before it does anything."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmSize")).split()[1])

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def _serve() -> None:
    from importlib import import_module

    os.chdir(ROOT)
    for name in sys.argv[1:]:
        import_module(name)
    from lolm.tracking import stages as tracking
    from pipeline.code import code_hash

    for stage in STAGES:
        code_hash(f"pipeline.{stage}")  # which files import which is kept
    gc.freeze()  # what is shared stays shared
    ctypes.CDLL(None).prctl(36, 1)  # processes whose parent has ended become ours
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        tracking._last_try = time.monotonic()  # as in a process that has just begun
        if (process := os.fork()) == 0:
            _become(asked)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with suppress(ChildProcessError):
            while asked["kind"] in (GROUP, TREE) and os.wait():  # those below it, whose numbers are free then
                pass
        print(status, flush=True)


def _go_on_below(tree: bool) -> None:
    """Return in a process below this one: of its group, or in a namespace of processes, whose first one is between the two.

    This one kills that first one when it is told to through descriptor 62, and ends as it does.
    """
    import signal

    told, tell = os.pipe()
    if tree and ctypes.CDLL(None).unshare(0x20000000):
        os._exit(1)
    if first := os.fork():
        os.close(tell)
        if tree and os.read(told, 1):
            os.kill(first, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        os.kill(os.getpid(), -status) if status < 0 else os._exit(status)
    os.dup2(tell, 62)
    if tree and (stage := os.fork()):
        os.close(tell)
        os.close(62)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1]) & 255)


def _become(asked: dict[str, Any]) -> None:
    """This fork ends as `python -m` would."""
    import resource
    import runpy
    import signal
    import traceback
    import warnings

    os.setsid()
    if asked["kind"] in (GROUP, TREE):
        _go_on_below(asked["kind"] == TREE)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for name, descriptors in (("said", (1, 2)), ("calls", (63,))):
        opened = os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in descriptors:
            os.dup2(opened, descriptor)
        os.close(opened)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.chdir(asked["root"])
    os.environ |= asked["env"]
    for name in [name for name, value in asked["env"].items() if not value]:
        del os.environ[name]
    if asked["user"]:
        outside = os.getuid()
        ctypes.CDLL(None).unshare(0x10000000)  # a namespace of users, in which ours has that number and none of root's rights
        Path("/proc/self/uid_map").write_text(f"{asked['user']} {outside} 1", encoding="ascii")
    for name, value in asked["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    sys.argv = [asked["module"], *asked["arguments"]]
    warnings.filterwarnings("ignore", message=".*found in sys.modules.*")
    shim = ctypes.CDLL(None)
    shim.fault_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int)
    shim.fault_arm(os.path.realpath(asked["root"]).encode(), asked["at"], asked["kind"], 63)
    status = 0
    try:
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
