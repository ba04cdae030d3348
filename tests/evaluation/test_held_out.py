"""Scores against float64 arithmetic on each token."""

import math

import pytest
import torch
from builders import ArrayStream, make_model

from lolm.data.batches import EvaluationSet
from lolm.evaluation.held_out import ScoreSum, ranked_first, score_model


@pytest.fixture(scope="module")
def held_out() -> EvaluationSet:
    return EvaluationSet(ArrayStream(1000), 320, 32)


@torch.no_grad()
def by_hand(model, held_out) -> tuple[float, float, float]:
    nats, correct, n_bytes, tokens = 0.0, 0, 0, 0
    for window in held_out.windows():
        window = torch.from_numpy(window)
        logits = model(window[None, :-1])[0].double()
        for t, target in enumerate(window[1:].tolist()):
            nats += float(torch.logsumexp(logits[t], dim=0) - logits[t, target])
            correct += int(logits[t].argmax() == target)
            n_bytes += int(held_out.stream.token_bytes[target])
            tokens += 1
    assert (tokens, n_bytes) == (held_out.n_tokens, held_out.n_bytes)
    return nats / tokens, nats / math.log(2) / n_bytes, correct / tokens


@pytest.mark.parametrize("arm", ["lolm", "transformer_published"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])  # ten windows: the last batch of four is smaller
def test_score_by_hand_whatever_the_batch(arm, batch_size, held_out):
    model = make_model(arm)
    score, gate = score_model(model, held_out, batch_size)
    nats, bits, accuracy = by_hand(model, held_out)
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(bits, rel=1e-5)
    assert score.accuracy == accuracy
    if arm == "lolm":
        with torch.no_grad():
            values = [model.streams(torch.from_numpy(w)[None, :-1]).g.double().mean() for w in held_out.windows()]
        assert gate == pytest.approx(float(torch.stack(values).mean()), rel=1e-6)
    else:
        assert gate is None


def test_scoring_is_in_evaluation_mode_and_leaves_the_mode_as_it_was(held_out):
    model = make_model("lolm", size={"dropout": 0.5})
    first = score_model(model, held_out, 4)
    model.train()
    assert score_model(model, held_out, 4) == first  # neither dropout nor Gumbel noise
    assert model.training
    model.eval()
    score_model(model, held_out, 4)
    assert not model.training


def test_nothing_is_clipped(held_out):
    model = make_model("transformer_published")
    with torch.no_grad():
        model.embedding.weight.mul_(300)
    score, _ = score_model(model, held_out, 4)
    assert 20 < score.nats < math.inf
    assert score.nats == pytest.approx(by_hand(model, held_out)[0], rel=1e-4)


def test_a_uniform_model_scores_ln_v():
    total = ScoreSum()
    total.add(torch.full((6, 50), 1 / 50).log(), torch.arange(6))
    score = total.score(12)
    assert score.nats == pytest.approx(math.log(50))
    assert score.bits_per_byte == pytest.approx(math.log2(50) * 6 / 12)
    assert score.accuracy == pytest.approx(1 / 6)  # of equals the first is chosen


def test_the_first_of_equals_ranks_first_as_in_pytorch():
    scores = torch.randint(3, (50, 2, 7), generator=torch.Generator().manual_seed(0)).float()  # full of ties
    scores[0, 0, 4] = math.nan
    scores[1] = -math.inf
    assert torch.equal(ranked_first(scores), scores.argmax(dim=-1))
