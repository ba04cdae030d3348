"""Processes that die or whose writes fail at any of their writes: the same command then leaves what an undisturbed one leaves."""

from __future__ import annotations

import os
import shutil
import signal
from itertools import product

import pytest
from processes import BROKEN, FULL, GROUP, KILL, SHORT, SIGNAL, STAGES, TORN, TREE
from study import NAMESPACE, copied, different, faults_of, half, run, sized

NAMES = {
    KILL: "kill -9 before a write",
    TORN: "kill -9 in the middle of a write",
    GROUP: "kill -9 of the process group",
    TREE: "kill -9 of the whole tree",
    FULL: "disk full from a write on",
    BROKEN: "I/O error at a write",
    SHORT: "short writes",
    **{SIGNAL + number: number.name for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
}
KILLS = [("train", 36), ("corpus", 14), ("shards", 14), ("sweep", 10), ("recall", 6), ("tokenizer", 6), ("plan", 4), ("front", 4),
         ("evaluate", 3), ("report", 2), ("ablate", 2), ("layers", 2)]  # fmt: skip
SAMPLED = [("corpus", 2), ("shards", 2), ("train", 3)]


def strike(study, folder, table, stage: str, kind: int, points: int) -> None:
    """Strike a stage at points spread evenly over its writes, and each time run it again."""
    before, after = study.before(stage), study.after(stage)
    written, found = study.written[stage], []
    for point in range(points):
        at = 1 + (2 * point + 1) * written // (2 * points)
        shutil.rmtree(folder, ignore_errors=True)
        copied(before, folder)
        ended = run(study.forge, folder, stage, at=at, kind=kind)
        wrong = faults_of(ended, kind) + half(folder, before, after)
        if kind == TREE:  # whose left-overs stay for a day, as it may live where we do not see it
            for path in folder.rglob(".*.tmp"):
                os.utime(path, (0, 0))
        again = run(study.forge, folder, stage) if ended.status else ended
        wrong += [f"does not go on: {again.said[-300:]}"] if again.status else different(folder, after)
        table.add(NAMES[kind], stage, ended.said, wrong)
        found += [f"write {at} of {written}, {ended.calls[-1:]}: {text}" for text in wrong]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("stage", "points"), sized(SAMPLED, KILLS))
def test_a_killed_stage_goes_on_and_ends_alike(study, folder, table, stage, points):
    """kill -9 before writes, and in the middle of them: torn files."""
    strike(study, folder, table, stage, KILL, points - points // 2)
    strike(study, folder, table, stage, TORN, points // 2)


@pytest.mark.parametrize("kind", [GROUP, pytest.param(TREE, marks=NAMESPACE)])
@pytest.mark.parametrize(("stage", "points"), sized([("tokenizer", 1)], [(stage, (points + 1) // 2) for stage, points in KILLS]))
def test_a_stage_killed_with_those_above_it_goes_on_and_ends_alike(study, folder, table, stage, points, kind):
    """Its process group, and all of a namespace of processes, in which it has a small number that another has outside."""
    strike(study, folder, table, stage, kind, points)


FAILS = sized([("train", FULL), ("tokenizer", BROKEN)], product(STAGES, (FULL, BROKEN, SHORT)))


@pytest.mark.parametrize(("stage", "kind"), FAILS)
def test_a_write_that_fails_is_named_and_loses_nothing(study, folder, table, stage, kind):
    strike(study, folder, table, stage, kind, 3 if kind != SHORT and stage in ("train", "shards", "corpus") else 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", sized([], STAGES))
def test_a_stopped_stage_goes_on_and_ends_alike(study, folder, table, stage, number):
    strike(study, folder, table, stage, SIGNAL + number, 2 if stage in ("train", "shards", "corpus") else 1)
