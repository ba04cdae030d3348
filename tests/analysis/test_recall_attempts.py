"""Recall on which a run's training diverged: the same in the leaderboard and in the numbers of one run."""

import pytest
from synthetic import Truth, recall_diverged

from lolm.analysis.leaderboard import leaderboard
from lolm.analysis.recall import attempt, mean_accuracy
from lolm.records import Layout, RunKey, read_json
from pipeline.headline import write_headline


def test_it_is_not_solved_and_leaves_no_mean(results_of, tmp_path):
    results = recall_diverged(results_of(Truth(solved=0.95), seeds=(1, 2, 3)), "lolm-2")
    first, second, _ = results.of("lolm")
    assert (attempt(first, "mqar"), attempt(second, "mqar")) == (0.95, 0.0)
    assert mean_accuracy(first) == pytest.approx((0.95 + first.accuracy("induction")) / 2)
    assert mean_accuracy(second) is None
    board = next(entry for entry in leaderboard(results) if entry.arm == "lolm")
    assert (board.solved["mqar"].per_seed, board.accuracy["mqar"], board.diverged_tasks["mqar"]) == ((1.0, 0.0, 1.0), None, 1)
    layout = Layout("smoke", tmp_path)
    for run in (first, second):
        write_headline(layout, RunKey("lolm", run.seed), results.analysis, lambda layout, key, run=run: run)
    assert read_json(layout.metrics("lolm", 1))["recall"] == round(mean_accuracy(first), 4)
    assert "recall" not in read_json(layout.metrics("lolm", 2))
