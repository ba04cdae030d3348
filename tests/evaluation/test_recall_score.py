"""Recall is scored where it is asked, on models whose answers are known."""

import math

import pytest
import torch
from builders import make_model
from rules import RuleModel, certain, copier, uniform

from lolm.data.synthetic import IGNORED, MQAR, Induction
from lolm.evaluation.recall import recall_evaluation, score_recall

TASKS = [MQAR(64, 32, 4), Induction(64, 32)]
names = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@names
def test_a_model_that_looks_up_the_earlier_occurrence_is_perfect(task):
    found = recall_evaluation(task, 100, seed=1)(copier(64))
    assert found["recall/accuracy"] == 1.0
    assert found["recall/nats"] < 1e-6


@names
def test_a_uniform_model_has_ln_v_nats_and_no_recall(task):
    found = recall_evaluation(task, 100, seed=1)(uniform(64))
    assert found["recall/nats"] == pytest.approx(math.log(64), rel=1e-6)
    assert found["recall/accuracy"] < 0.05  # of equals id 0 ranks first


def test_only_asked_positions_count():
    targets = torch.tensor([[IGNORED, 3, IGNORED], [5, IGNORED, 2]])
    model = RuleModel(8, lambda tokens: certain(torch.tensor([[0, 3, 0], [5, 0, 7]]), 8))
    accuracy, nats = score_recall(model, [(torch.zeros(2, 3, dtype=torch.long), targets)])
    assert accuracy == pytest.approx(2 / 3)
    assert nats == pytest.approx(50 / 3, rel=1e-6)


def test_whatever_the_last_batch_all_sequences_are_scored_and_the_mode_is_kept():
    model = make_model("transformer", vocab_size=64, size={"dropout": 0.5}).train()
    evaluate = recall_evaluation(TASKS[0], 70, seed=1)  # 64 and 6
    assert evaluate(model) == evaluate(model)
    assert model.training
    lengths = copier(64)
    evaluate(lengths)
    assert lengths.lengths == [32, 32]


def test_held_out_sequences_are_of_their_own_stream_and_differ_between_seeds():
    model = make_model("transformer", vocab_size=64)
    first, other = (recall_evaluation(TASKS[0], 64, seed)(model)["recall/nats"] for seed in (1, 2))
    assert first != other
