"""What every stage shares: its arguments, what they choose, and how errors reach the user."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm import LolmError, printable
from lolm.config import ConfigError, Params, ScaleConfig, StudyConfig, load_params, scale_of
from lolm.config.ranges import Seed
from lolm.config.strict import from_text
from lolm.records import Layout
from pipeline import environment
from pipeline.environment import DEVICE, STAGES, said

# What PyTorch, its matrix library and Python say of it in a RuntimeError.
NO_MEMORY = "can't allocate memory|out of memory|could not create a primitive|can't start new thread"
CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EIO), "see to the disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "let this user read and write there"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (`ulimit -n`)"),
    errno.EFBIG: "allow larger files (`ulimit -f`)",
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "move away what has that name"),
    errno.EISDIR: "a file is wanted: name one, or move away the folder that has that name",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOENT: "put it there, or name another",
    errno.EPIPE: "let what reads the output read to its end",
}


@dataclass(frozen=True)
class Stage:
    """The parameters with a scale and a study chosen, and where the records of that scale lie."""

    params: Params

    @property
    def scale(self) -> str:
        return self.params.scale

    @property
    def study(self) -> StudyConfig:
        return self.params.selected

    @property
    def preset(self) -> ScaleConfig:
        return scale_of(self.params, self.scale)

    @property
    def layout(self) -> Layout:
        return Layout(self.scale)


def opened(args: argparse.Namespace) -> Stage:
    """The parameters as the arguments choose them; raises ConfigError naming the nearest scale or study."""
    return Stage(load_params().select(args.scale, args.study))


def refuse_other_scale(params: Params) -> None:
    """Raises ConfigError where the study is made for other scales than the one chosen: its runs there would answer nothing."""
    if not params.is_made_for(params.study, params.scale):
        scales = " or ".join(map(repr, params.scales_for(params.study)))
        advice = "choose both" if params.selected.scale else "choose both, or `make budgets` makes it with the others"
        raise ConfigError(f"scale: {params.scale!r}, but study {params.study!r} is made for {scales} alone; {advice}")


def arguments(
    description: str | None, *, arm: bool = False, seed: bool = False, more: Mapping[str, dict[str, Any]] | None = None
) -> argparse.Namespace:
    """Parse the arguments of a stage: ``--scale`` and ``--study``; where a stage has one piece of work for each arm or each run,
    ``--arm`` and ``--seed`` choose that one; ``more`` are its own, by flag."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", help="name under `scales` in params.yaml (default: its `scale`)")
    parser.add_argument("--study", help="name under `studies` in params.yaml (default: its `study`)")
    if arm or seed:
        parser.add_argument("--arm", help="only this arm" if not seed else "only the run of this arm, with --seed")
    if seed:
        parser.add_argument("--seed", type=option(Seed), help="only the run with this seed, with --arm")
    for flag, options in (more or {}).items():
        parser.add_argument(flag, **options)
    args = parser.parse_args()
    if seed and (args.arm is None) != (args.seed is None):
        parser.error("--arm and --seed go together")
    return args


def option(kind: Any) -> Callable[[str], Any]:
    """The ``type`` of an argument of the parser that is of a kind, see :func:`lolm.config.strict.from_text`."""

    def value(text: str) -> Any:
        try:
            return from_text(kind, text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return value


def training_device() -> str:
    """``cuda`` where PyTorch sees a device, else ``cpu``; of the machine that makes the pieces where that is another one."""
    if device := said(DEVICE):
        return str(device)
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _of_system(error: OSError) -> str:
    """What the system says of a file, and what to do."""
    paths = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    what = f"{paths}: {error.strerror}" if paths and error.strerror else str(error)
    return f"{what}; {CURES.get(error.errno or 0, 'mend that')}, then the same command goes on"


def main(stage: Callable[[], None]) -> None:
    """Run a stage; an expected error becomes one line on stderr and exit status 2.

    Expected errors are LolmError, OSError and a lack of memory; anything else is a bug and keeps its traceback.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    stages, name = os.environ.get(STAGES, "").split(), Path(sys.argv[0]).stem
    if name in stages and "--arm" not in sys.argv:  # DVC says which stage it runs, but not how many are left
        print(f"stage {stages.index(name) + 1} of {len(stages)}: {name}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as on Ctrl-C: processes that were started are ended too
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of few characters shows the others by their codes
    try:
        environment.check()
        stage()
    except (LolmError, OSError) as error:
        print(f"error: {printable(_of_system(error)) if isinstance(error, OSError) else error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error))):
            raise
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        advice = "JOBS=1 makes one run at a time, and `make plan` says what a step needs"
        print(f"error: out of memory ({reason}); {advice}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
