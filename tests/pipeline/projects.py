"""DVC projects in a temporary folder: this project's files, in a repository or without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import forks
from numba.core.caching import _CacheLocator

ROOT = Path(__file__).resolve().parents[2]
DVC_CONFIG = "[core]\n    no_scm = true\n    analytics = false\n"
DROPPED = (
    *("DVC_ROOT", "MLFLOW_TRACKING_URI", "LOLM_PIPELINE", "LOLM_JOBS", "LOLM_FORCE", "LOLM_RECORDED", "LOLM_RUNNER"),
    "PYTHONPATH",
)

HALT = """
import os, signal
replace = os.replace
def halt(source, target, **folders):
    folder, name = os.path.split(os.fspath(target))
    first = name == "checkpoint.pt" and os.path.basename(folder) in os.environ["HALTED"].split() and not os.path.exists(target)
    first = first and not os.path.exists(os.path.join(folder, "checkpoint.before.pt"))
    replace(source, target, **folders)
    if first:
        os.kill(os.getpid(), signal.SIGSTOP)
os.replace = halt
"""


def environment(root: Path, interpreter: str = sys.executable, **variables: str) -> dict[str, str]:
    """Of a user in that folder: its own code is imported, DVC and MLflow keep what they keep in it."""
    path = os.pathsep.join([str(Path(interpreter).parent), os.environ["PATH"]])
    own = {"PATH": path, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(root / ".site"), "OMP_NUM_THREADS": "1"}
    return {key: value for key, value in os.environ.items() if key not in DROPPED} | own | variables


def halting(folder: Path, *fingerprints: str) -> dict[str, str]:
    """Environment in which the runs of these fingerprints stand still (SIGSTOP) as soon as their first checkpoint is written.

    A test can then end them in the middle, however fast the machine and however late its own process gets a turn.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HALT, encoding="utf-8")
    return {"PYTHONPATH": str(folder), "HALTED": " ".join(fingerprints)}


def in_forks(variables: dict[str, str]) -> dict[str, str]:
    """An environment whose PYTHONPATH is a folder with a ``sitecustomize.py``, which forks run as well, see forks.py."""
    return variables | {"FORK_FIRST": str(Path(variables["PYTHONPATH"], "sitecustomize.py"))}


def process_of(root: Path, stage: str, arm: str, seed: int) -> tuple[int, int] | None:
    """The process that makes a piece of a project, and its parent; None while there is none."""
    words = [f"pipeline.{stage}", "--arm", arm, "--seed", str(seed)]
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            command = (folder / "cmdline").read_text(encoding="utf-8").split("\0")
            if all(word in command for word in words) and (folder / "cwd").resolve() == root.resolve():
                status = (folder / "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
                return int(folder.name), int(status[1])
    return None


def command(root: Path, *words: str, status: int | None = 0, **variables: str) -> str:
    """Run a command there; returns what it printed. ``status`` None: whatever it ends with."""
    own = environment(root, words[0] if Path(words[0]).name == "python" else sys.executable, **variables)
    done = subprocess.run(words, cwd=root, env=own, capture_output=True, text=True, check=False)
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def python(root: Path, *words: str, status: int | None = 0, **variables: str) -> str:
    """`python` there, with its modules and those it starts as forks, see forks.py."""
    return command(root, forks.interpreter(), *words, status=status, **variables)


def dvc(root: Path, *words: str, status: int | None = 0) -> str:
    return python(root, "-m", "dvc", *words, status=status)


def stale(root: Path, *chosen: str) -> dict[str, list]:
    """What `dvc status` says, at another scale or study if chosen."""
    words = [forks.interpreter(), "-m", "pipeline.dvc", *chosen, "status", "--json"]
    done = subprocess.run(words, cwd=root, env=environment(root, words[0]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def git(root: Path, *words: str) -> str:
    return command(root, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", *words)


def copy_of_project(root: Path, *left_out: str) -> Path:
    """The files git knows or would add, but for tests, results and what starts with ``left_out``."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in listed:
        if name and (ROOT / name).is_file() and not name.startswith(("reports/", "tests/", "dvc.lock", *left_out)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    if (ROOT / KERNELS).exists():
        shutil.copytree(ROOT / KERNELS, root / KERNELS, copy_function=_copy_what_stays)
    keep_kernels(ROOT, root)
    return root


def _copy_what_stays(source: str, target: str) -> None:
    with suppress(FileNotFoundError):  # another process has just finished compiling it, and it has its name now
        shutil.copy2(source, target)


KERNELS = Path("lolm/ops/cpu/__pycache__")


def keep_kernels(source: Path, copy: Path) -> None:
    """Numba looks for compiled kernels under a hash of their source's folder: let it find the copied ones of a copied source, as
    compiling them takes longer than what is tested."""
    old, new = (_CacheLocator.get_suitable_cache_subpath(str(root / "lolm/ops/cpu/scan.py")) for root in (source, copy))
    for folder in (copy / KERNELS).glob(f"kernels-*/{old}"):
        folder.rename(folder.with_name(new))


def edited(path: Path, old: str, new: str) -> None:
    """Replace what stands once in a file."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")
