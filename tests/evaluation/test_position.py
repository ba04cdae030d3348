"""Loss by position, by hand."""

import math

import numpy as np
import pytest
import torch
from builders import ArrayStream, make_model
from rules import RuleModel, certain, uniform

from lolm.data.batches import EvaluationSet
from lolm.evaluation.held_out import score_model, set_losses, token_losses
from lolm.evaluation.position import bin_edges, describe_positions
from lolm.records.schema import PositionChange


@pytest.mark.parametrize(
    ("length", "edges"), [(1, [0, 1]), (2, [0, 1, 2]), (8, [0, 1, 2, 4, 8]), (11, [0, 1, 2, 4, 8, 11]), (3, [0, 1, 2, 3])]
)
def test_edges_double(length, edges):
    assert bin_edges(length) == edges


def test_positions_by_hand():
    nats = np.array([[8.0, 4, 2, 2, 1, 1, 1, 1], [6.0, 4, 3, 1, 1, 1, 0, 2]])
    correct = np.array([[0, 0, 0, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 1, 0, 1]], dtype=bool)
    n_bytes = np.array([[1, 2, 1, 1, 1, 1, 2, 2], [2, 2, 1, 1, 1, 1, 2, 2]])
    found = describe_positions(nats, correct, n_bytes)
    assert [(b.start, b.stop, b.nats, b.accuracy) for b in found.bins] == [
        (0, 1, 7.0, 0.5), (1, 2, 4.0, 0.0), (2, 4, 2.0, 0.25), (4, 8, 1.0, 0.75),
    ]  # fmt: skip
    assert found.bins[0].bits_per_byte == pytest.approx(14 / 3 / math.log(2))
    assert (found.early.nats, found.late.nats) == (5.5, 1.0)  # two positions each
    assert found.change.nats == pytest.approx(1 / 5.5 - 1)
    assert found.change.bits_per_byte == pytest.approx((4 / 8) / (22 / 7) - 1)
    assert found.change.accuracy == pytest.approx(0.75 / 0.25 - 1)


def test_a_change_without_meaning_is_none():
    found = describe_positions(np.ones((1, 4)), np.zeros((1, 4), dtype=bool), np.array([[0, 1, 1, 1]]))
    assert found.early.bits_per_byte is None  # a control token has no bytes
    assert found.change == PositionChange(0.0, None, None)


def test_bins_add_up_to_the_whole_score():
    held_out = EvaluationSet(ArrayStream(1000), 320, 32)
    model = make_model("transformer")
    score, _ = score_model(model, held_out, 4)
    bins = describe_positions(*set_losses(model, held_out, 3), held_out.target_bytes()).bins
    width = np.array([b.stop - b.start for b in bins])
    assert np.dot(width, [b.nats for b in bins]) / 32 == pytest.approx(score.nats, rel=1e-6)
    assert np.dot(width, [b.accuracy for b in bins]) / 32 == pytest.approx(score.accuracy)


def test_token_losses_belong_to_their_targets():
    windows = np.array([[0, 1, 2], [3, 3, 1]])
    nats, correct = token_losses(RuleModel(5, lambda x: certain((x + 1) % 5, 5)), windows, 1)
    np.testing.assert_allclose(nats, [[0, 0], [50, 50]], atol=1e-5)
    np.testing.assert_array_equal(correct, [[True, True], [False, False]])
    nats, _ = token_losses(uniform(5), windows, 8)
    np.testing.assert_allclose(nats, math.log(5), rtol=1e-6)
    assert torch.is_grad_enabled()
