"""The published forced gate on training text is the laboratory's intervention on the same text."""

import pytest
from builders import ArrayStream, make_model

from lolm.data.batches import EvaluationSet
from lolm.evaluation.training_stream import score_training_stream
from lolm.interventions import Intervention, force_gate
from lolm.laboratory.scoring import score_interventions


def test_losses_are_those_of_the_laboratory():
    text = EvaluationSet(ArrayStream(1000), 320, 32)
    model = make_model("lolm").train()
    found = score_training_stream(model, text.batches(4), 7)
    rows = score_interventions(model, [Intervention("none"), force_gate(1.0), force_gate(0.0)], text, 4)
    assert (found.step, found.tokens) == (7, text.n_tokens)
    assert (found.nats, found.gate_one, found.gate_zero) == pytest.approx([row.nats for row in rows], rel=1e-6)
    assert 0 < found.gate < 1


def test_a_model_without_a_gate_has_its_loss_alone():
    text = EvaluationSet(ArrayStream(1000), 320, 32)
    found = score_training_stream(make_model("transformer"), text.batches(4), 0)
    assert found.nats > 0
    assert (found.gate, found.gate_one, found.gate_zero) == (None, None, None)
