"""A process that takes training steps on demand: for runs side by side, and for what compiling costs.

It prints one JSON line when it is ready, then for each line with a number of steps the seconds that they took.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from benchmarks.timing import Unavailable


class Worker:
    """The process, seen from outside; closed with its ``stack``."""

    def __init__(
        self, stack: ExitStack, scale: str, arm: str, threads: int, compiled: bool = False, extra: Mapping[str, str] | None = None
    ) -> None:
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()", "--scale", scale]
        command += ["--arm", arm, "--threads", str(threads)]
        command += ["--compile"] if compiled else []
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | dict(extra or {})
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - lives as long; a pipe would fill
        stack.callback(self._errors.close)
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            start_new_session=True,
        )  # fmt: skip
        stack.callback(self._close)

    def ready(self, limit: float | None = None) -> dict[str, Any]:
        """Wait until it can take steps: tokens of a step, and seconds of the first one.

        Raises:
            Unavailable: it ended, or was not ready after ``limit`` seconds.
        """
        assert self._process.stdout is not None
        if limit is not None and not select.select([self._process.stdout], [], [], limit)[0]:
            raise Unavailable(f"the first step was not done after {limit:.0f} s")
        return json.loads(self._line())

    def ask(self, steps: int) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)

    def seconds(self) -> float:
        """Wait until it has taken the steps."""
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            named = [text for text in lines if re.match(r"[\w.]*(Error|Exception|Unsupported)\b", text)]
            last = (named or lines or ["no message"])[-1]
            raise Unavailable(f"a process of the benchmark ended with status {self._process.wait()}: {last}")
        return line

    def _close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with the compilers that it started
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        self._process.wait()


def serve() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", required=True)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--threads", required=True, type=int)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    import torch

    from benchmarks.settings import Settings
    from benchmarks.steps import Stepper
    from benchmarks.timing import timed
    from lolm.config import load_params

    torch.set_num_threads(args.threads)
    settings = Settings(load_params(), args.scale, (args.arm,))
    stepper = Stepper(settings.run(args.arm, compile=args.compile, threads=args.threads))
    first = timed(stepper)
    stepper()
    print(json.dumps({"tokens": stepper.tokens, "first_seconds": first}), flush=True)
    for line in sys.stdin:
        count = int(line)
        print(timed(lambda n=count: take(stepper, n)), flush=True)  # type: ignore[misc]


def take(stepper: Callable[[], None], count: int) -> None:
    for _ in range(count):
        stepper()


if __name__ == "__main__":
    serve()
