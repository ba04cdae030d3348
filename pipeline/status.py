"""One look at a study: what is made, what is being made here, and what is left with the time that it takes."""

from __future__ import annotations

import time
from collections import defaultdict
from importlib import import_module
from pathlib import Path

from lolm import LolmError
from pipeline.environment import JOBS, said
from pipeline.estimate import PER_ARM, PER_RUN, duration, estimate, pieces_of
from pipeline.runs import LOGS, Piece, default_jobs
from pipeline.stage import Stage, arguments, main, opened, refuse_other_scale


def status() -> None:
    stage = opened(arguments(__doc__))
    refuse_other_scale(stage.params)
    study = stage.study
    seeds = ", ".join(map(str, study.seeds))
    print(f"study {study.name} at scale {stage.scale}: {', '.join(study.arms)}; seeds {seeds}")
    going, left, untrained = running(stage), [], set()
    for name in (*PER_ARM, *PER_RUN):
        reasons = {piece: why(stage, name, piece) for piece in pieces(stage, name)}
        if name == "train":
            untrained = {piece for piece, reason in reasons.items() if reason}
        elif name in PER_RUN and name != "recall":
            reasons |= dict.fromkeys(reasons.keys() & untrained, "not trained")
        waiting = defaultdict(list)
        for piece, reason in reasons.items():
            if reason and piece not in going.get(name, ()):
                waiting[reason].append(str(piece))
        left += [(name, piece.arm) for piece, reason in reasons.items() if reason]
        print(f"  {name:9} {sum(not reason for reason in reasons.values()):3} of {len(reasons)} made")
        for piece in going.get(name, ()):
            print(f"            running {piece}{last_line(stage, name, piece)}")
        for reason, names in waiting.items():
            print(f"            left, {reason}: {', '.join(names)}")
    jobs = said(JOBS) or default_jobs(stage.preset.training.threads)
    print(f"left: {estimate(stage.params, left).text(jobs)}, {jobs} at a time" if left else "all of it is made")
    page = stage.layout.study(study.name) / "report.html"
    if page.exists():
        print(f"the page: {page}, {duration(time.time() - page.stat().st_mtime)} old")


def pieces(stage: Stage, name: str) -> list[Piece]:
    """Of one stage, in the order of the study."""
    arms = dict.fromkeys(arm for of, arm in pieces_of(stage.params) if of == name)
    return [Piece(arm, seed) for arm in arms for seed in (stage.study.seeds if name in PER_RUN else (None,))]


def why(stage: Stage, name: str, piece: Piece) -> str | None:
    """Why a piece is to be made, as its stage says; None if it is made."""
    module = import_module(f"pipeline.{name}")
    try:
        reason: str | None = module.why(stage, piece.arm if piece.seed is None else piece.key)
    except LolmError:  # of a stage before it nothing is there
        return "nothing to make it from yet"
    return reason


def running(stage: Stage) -> dict[str, list[Piece]]:
    """Pieces by stage that processes of this folder are making, as far as the system shows them (/proc)."""
    found: dict[str, list[Piece]] = defaultdict(list)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text(encoding="utf-8").split("\0")
            here = (process / "cwd").resolve() == Path.cwd().resolve()
        except (OSError, UnicodeDecodeError):  # it has ended, or is another user's
            continue
        said = dict(zip(words, words[1:], strict=False))
        module = said.get("-m", "").removeprefix("pipeline.")
        if here and module in (*PER_ARM, *PER_RUN) and said.get("--scale") == stage.scale and "--arm" in said:
            piece = Piece(said["--arm"], int(said["--seed"]) if "--seed" in said else None)
            if piece not in found[module]:  # of torchrun's processes one
                found[module].append(piece)
    return found


def last_line(stage: Stage, name: str, piece: Piece) -> str:
    """The last line of a piece's log; a piece that is made alone has none, but writes to the terminal."""
    log = LOGS / f"{stage.scale}-{name}-{piece}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return f": {lines[-1]}" if lines else ""


if __name__ == "__main__":
    main(status)
