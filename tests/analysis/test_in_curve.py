"""Readings inside a run end where its rate begins to fall."""

import math

import pytest

from lolm.analysis.in_curve import constant_until, heldout_before_decay, training_before_decay
from lolm.records import RecordError
from lolm.records.results import RunRecord


def run_of(rate):
    """100 steps, logged every tenth and validated every twentieth; losses say their step."""
    rows = []
    for step in range(0, 101, 10):
        row = {"step": step, "tokens": 4 * step, "flops": 8 * step, "seconds": step}
        row |= {"train/loss": 200 - step, "train/lr": rate(step)} if step else {}
        row |= {"val/nats": 100 - step} if step % 20 == 0 else {}
        rows.append(row)
    return RunRecord("a", 1, None, rows, None)


def wsd(step):
    return min(step / 30, 1.0) if step <= 70 else (100 - step) / 30


def test_a_constant_rate_ends_where_it_decays():
    run = run_of(wsd)
    assert constant_until(run) == 70
    curve = heldout_before_decay(run, "flops")
    assert curve.positions == (0, 160, 320, 480)  # the last validation at the constant rate is step 60
    assert curve.losses == (100, 80, 60, 40)
    assert training_before_decay(run, 10).positions == (10, 20, 30, 40, 50, 60, 70)


def test_a_cosine_is_read_at_the_published_share_of_its_peak():
    """98 % of the peak: 9 % of a cosine after its warm-up, as step 20,000 of 200,000 was."""

    def cosine(step):
        return 0.5 * (1 + math.cos(math.pi * step / 100))

    assert constant_until(run_of(cosine)) == 10
    assert 0.5 * (1 + math.cos(math.pi * 16_000 / 196_000)) == pytest.approx(0.984, abs=5e-4)  # 4,000 steps of warm-up


def test_a_run_without_a_logged_rate_is_an_error():
    rows = [{"step": 10, "tokens": 1, "flops": 1, "seconds": 1, "val/nats": 3.0}]
    with pytest.raises(RecordError, match="train/lr"):
        constant_until(RunRecord("a", 1, None, rows, None))
