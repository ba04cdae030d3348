"""Interventions scored on held-out text."""

import math

import pytest
import torch
from builders import ArrayStream, make_model

from lolm.data.batches import EvaluationSet
from lolm.evaluation.held_out import score_model
from lolm.interventions import Intervention, StreamMeans, force_gate, measure, standard_set
from lolm.laboratory.scoring import score_interventions


@pytest.fixture(scope="module")
def held_out() -> EvaluationSet:
    return EvaluationSet(ArrayStream(1000), 320, 32)


def everything(model, held_out):
    means = measure(model, (x for x, _ in held_out.batches(4))).streams
    return score_interventions(model, standard_set(model, [0.0, 0.5, 1.0], means), held_out, 4)


@pytest.mark.parametrize("arm", ["lolm", "lolm_published", "transformer"])
def test_the_learned_model_is_at_distance_zero_and_scores_as_ever(arm, held_out):
    model = make_model(arm)
    none, *others = everything(model, held_out)
    score, _ = score_model(model, held_out, 4)
    assert (none.nats, none.bits_per_byte, none.accuracy) == (score.nats, score.bits_per_byte, score.accuracy)
    assert none.kl_to_full == 0.0
    assert none.top1_agreement == 1.0
    assert others
    for row in others:
        assert row.kl_to_full >= -1e-6, row
        assert 0 <= row.top1_agreement <= 1


@torch.no_grad()
def test_numbers_by_hand(held_out):
    model = make_model("lolm_published")
    row = score_interventions(model, [force_gate(1.0)], held_out, 3)[0]
    nats = kl = agree = 0.0
    for window in held_out.windows():
        x, y = torch.from_numpy(window)[None, :-1], torch.from_numpy(window)[1:]
        streams = model.streams(x)
        full = model.logits(model.fuse(streams))[0].double().log_softmax(dim=-1)
        changed = model.logits(model.fuse(force_gate(1.0).apply(streams)))[0].double().log_softmax(dim=-1)
        nats -= float(changed[torch.arange(32), y].sum())
        kl += float((full.exp() * (full - changed)).sum())
        agree += float((full.argmax(dim=-1) == changed.argmax(dim=-1)).sum())
    assert row.intervention == "gate"
    assert row.value == 1.0
    assert row.nats == pytest.approx(nats / 320, rel=1e-5)
    assert row.bits_per_byte == pytest.approx(nats / math.log(2) / held_out.n_bytes, rel=1e-5)
    assert row.kl_to_full == pytest.approx(kl / 320, rel=1e-4)
    assert row.top1_agreement == agree / 320


def test_a_decoder_without_its_last_blocks(held_out):
    model = make_model("transformer")
    rows = score_interventions(model, standard_set(model, [], StreamMeans(None, None)), held_out, 4)
    assert [(row.intervention, row.value) for row in rows] == [("none", None)] + [("skip_last_blocks", k) for k in (1, 2, 3, 4)]
    short = make_model("transformer", size={"n_layers": 2})
    short.load_state_dict({k: v for k, v in model.state_dict().items() if "layers.2." not in k and "layers.3." not in k})
    assert rows[2].nats == score_model(short, held_out, 4)[0].nats
    assert rows[2].kl_to_full > 0


def test_nothing_is_clipped_and_nothing_is_infinite(held_out):
    """The published script capped losses at 20 nats; here a huge loss is a huge number."""
    model = make_model("lolm_published")
    with torch.no_grad():
        model.embedding.weight.mul_(1e4)
    for row in everything(model, held_out):
        assert 20 < row.nats < math.inf, row
        assert 0 <= row.kl_to_full < math.inf, row
    forced = score_interventions(model, [force_gate(0.0)], held_out, 4)[0]
    assert forced.kl_to_full > 20


def test_streams_are_computed_once_per_batch(held_out, monkeypatch):
    model, calls = make_model("lolm"), []
    original = model.streams
    monkeypatch.setattr(model, "streams", lambda x, **k: calls.append(len(x)) or original(x, **k))
    score_interventions(model, [Intervention("none"), force_gate(0.0), force_gate(1.0)], held_out, 4)
    assert calls == [4, 4, 2]
