"""What is said of a stage of many pieces while it runs: how many are made and how long the rest will take; and the study's page,
made from the first pair of runs on and again as runs come in."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from lolm.tracking import RUNNER
from pipeline.estimate import PER_RUN, arms_of, duration, ends, estimate
from pipeline.stage import Stage

PAGE_EVERY = 120.0  # seconds between two pages, which take some six each


class Progress:
    """A stage under way.

    Estimates come from other runs, another machine, or FLOPs: as pieces end they are corrected by what those of the same arm took
    here, or while there are none by what all took.

    Args:
        arms: of the pieces, in the order in which they are begun.
        jobs: pieces at a time.
    """

    def __init__(self, name: str, stage: Stage, arms: Sequence[str], jobs: int) -> None:
        self.name, self.stage, self.arms, self.jobs = name, stage, arms, jobs
        self.estimate = estimate(stage.params, [(name, arm) for arm in arms])
        self.seconds = self.estimate.pieces if self.estimate.known else (1.0,) * len(arms)
        after = PER_RUN[PER_RUN.index(name) + 1 :] if name in PER_RUN else ()
        later = [(then, arm) for then in after for arm in arms if arm in arms_of(stage.params, then)]
        self.later = list(zip((arm for _, arm in later), estimate(stage.params, later).pieces, strict=True))
        self.begun = dict.fromkeys(range(min(jobs, len(arms))), time.monotonic())  # of pieces under way, by their places
        self.waiting = list(range(len(self.begun), len(arms)))  # places of pieces that are not begun
        self.took: dict[str, list[float]] = defaultdict(list)  # by arm: what pieces took, as a share of what was expected
        self.ended = 0
        self.page: Path | None = stage.layout.study(stage.study.name) / "report.html"  # None once it could not be made

    def piece_ended(self, place: int) -> None:
        """Say how far the stage is, and make the page if it is due; the core of the piece that ended is free for that."""
        if (began := self.begun.pop(place, None)) is not None:
            self.took[self.arms[place]].append((time.monotonic() - began) / self.seconds[place])
        else:  # a cluster began it in an order of its own, nobody knows when
            self.waiting.remove(place)
        self.ended += 1
        print(f"{self.name}: {self.ended} of {len(self.arms)} ended{self._left()}", flush=True)
        if self.name in PER_RUN and self.ended < len(self.arms) and self._page_due():
            self._make_page()
        if self.waiting and len(self.begun) < self.jobs:
            self.begun[self.waiting.pop(0)] = time.monotonic()

    def _left(self) -> str:
        now = time.monotonic()
        left = [max(0.0, self._pace(self.arms[i]) * self.seconds[i] - (now - begun)) for i, begun in self.begun.items()]
        left += [self._pace(self.arms[i]) * self.seconds[i] for i in self.waiting]
        here = max(ends(left, self.jobs), default=0.0)
        more = sum(self._pace(arm) * s for arm, s in self.later) / self.jobs
        texts = [f"about {duration(here)} left"] if left else []
        if self.later and self.estimate.known and not math.isnan(more):
            texts.append(f"{duration(here + more)} with their measurements")
        return f"; {', '.join(texts)}" if texts else ""

    def _pace(self, arm: str) -> float:
        """What pieces of an arm take here, as a share of what was expected; that share is 1 while none was timed."""
        return statistics.mean(self.took.get(arm) or list(itertools.chain(*self.took.values())) or (1.0,))

    def _pair(self) -> bool:
        """Whether there are runs of one seed of the two arms that the study compares."""
        study, layout = self.stage.study, self.stage.layout
        pair = [arm for arm in (study.subject, study.baseline) if arm]
        return any(all(layout.summary(arm, seed).exists() for arm in pair) for seed in study.seeds)

    def _page_due(self) -> bool:
        if self.page is None or not self._pair():
            return False
        return not self.page.exists() or time.time() - self.page.stat().st_mtime >= PAGE_EVERY

    def _make_page(self) -> None:
        words = page_command(self.stage.scale, self.stage.study.name)
        done = subprocess.run(words, env=os.environ | {RUNNER: "1"}, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"warning: {self.page} could not be made yet, and the runs go on: {reason}", file=sys.stderr, flush=True)
            self.page = None
        else:
            print(f"the page so far: {self.page}", flush=True)


def page_command(scale: str, study: str) -> list[str]:
    """Makes the page of a study; with :data:`RUNNER` in the environment it leaves MLflow to others."""
    return [sys.executable, "-m", "pipeline.report", "--scale", scale, "--study", study]
