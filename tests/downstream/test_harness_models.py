"""A model as the harness asks it equals the model, in whatever batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import ArrayStream, make_model

from lolm.downstream.harness_models import BigramModel, HarnessModel, TrainedModel
from lolm.evaluation.ngram import Bigram

PAIRS = [
    ("The cat sat on the", " mat and slept"),
    ("", "One day a dog came to the house."),
    ("The cat sat on the", " moon"),
    ("It rained. ", "They stayed at home"),  # its space belongs to the continuation
    ("A cat. " * 20, "It slept"),  # a context longer than the model reads
    ("He", " said " + "again and again " * 7),  # a continuation that is
    ("He", " said " + "again and again " * 7),
]
T = 40


def asked(pairs):
    return [SimpleNamespace(args=pair) for pair in pairs]


@pytest.fixture(scope="module", params=["lolm", "lolm_published", "mamba"])
def model(request, tokenizer):
    return make_model(request.param, vocab_size=tokenizer.vocab_size).eval()


def direct(model, ids, scored):
    """Sum over the last ids of the log-probability by a forward pass over exactly these ids."""
    tokens = torch.tensor([ids])
    with torch.no_grad():
        logs = F.log_softmax(model(tokens[:, :-1]).double(), dim=-1)[0]
    found = logs[torch.arange(len(ids) - 1), tokens[0, 1:]][-scored:]
    return float(found.sum()), bool((logs.argmax(-1) == tokens[0, 1:])[-scored:].all())


def test_scores_equal_a_direct_computation(model, tokenizer):
    lm = TrainedModel(model, tokenizer, T, batch_tokens=200)
    found = lm.loglikelihood(asked(PAIRS), disable_tqdm=True)
    encode = lambda text: tokenizer.encode(text).tolist()  # noqa: E731
    for (context, continuation), (score, greedy) in zip(PAIRS[:5], found, strict=False):
        start = encode(context.rstrip()) if context else [tokenizer.eos_id]
        whole = encode(context + continuation) if context else [tokenizer.eos_id, *encode(continuation)]
        scored = len(whole) - len(start)
        wanted = direct(model, whole[-(T + 1) :], scored)
        assert score == pytest.approx(wanted[0], abs=1e-6 * max(1, abs(wanted[0])))
        assert greedy == wanted[1]
    # longer than the model reads: whole windows, then what is left with as much before it as there is room for
    ids, start = encode("".join(PAIRS[5])), len(encode(PAIRS[5][0]))
    rest = ids[start:]
    assert T < len(rest) < 2 * T
    wanted = direct(model, ids[start - 1 : start + T], T)[0] + direct(model, ids[-(T + 1) :], len(rest) - T)[0]
    assert found[5][0] == pytest.approx(wanted, rel=1e-6)
    assert lm.loglikelihood_rolling(asked([(PAIRS[1][1],)])) == [pytest.approx(found[1][0], rel=1e-6)]
    # white space alone is no context: what stands before the text is the end of another document
    for context, continuation in (("\n", " They stayed"), (" ", "again and again " * 7)):
        whole = [tokenizer.eos_id, *encode(context + continuation)]
        wanted = lm.loglikelihood_rolling(asked([(context + continuation,)]))
        assert [score for score, _ in lm.loglikelihood(asked([(context, continuation)]))] == wanted
        if len(whole) <= T + 1:
            assert wanted == [pytest.approx(direct(model, whole, len(whole) - 1)[0], rel=1e-6)]


def test_scores_do_not_depend_on_the_batch(model, tokenizer):
    """Nor on the order of requests; also where the memory's chunks depend on the length."""
    alone = TrainedModel(model, tokenizer, T, batch_tokens=1).loglikelihood(asked(PAIRS), disable_tqdm=True)
    for sequences in (7, 32):
        lm = TrainedModel(model, tokenizer, T, batch_tokens=sequences * (T + 1))
        found = lm.loglikelihood(asked(PAIRS[::-1] * 3), disable_tqdm=True)
        np.testing.assert_allclose([score for score, _ in found], [score for score, _ in alone[::-1]] * 3, rtol=1e-6)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in alone[::-1]] * 3


def test_no_sequence_is_padded(tokenizer):
    class Lengths(BigramModel):
        def losses(self, ids):
            seen.append(ids.shape)
            return super().losses(ids)

    seen = []
    bigram = Bigram(ArrayStream(500, vocab_size=tokenizer.vocab_size), np.array([[1, 500]]))
    Lengths(bigram, tokenizer, T, 100).loglikelihood(asked(PAIRS), disable_tqdm=True)
    assert all(rows * length <= max(100, length) for rows, length in seen)
    assert sum(rows for rows, _ in seen) == 5 + 2 * 2  # two requests take two windows each
    assert len({length for _, length in seen}) > 3


def test_a_bigram_knows_pairs_alone(tokenizer):
    bigram = Bigram(ArrayStream(3000, vocab_size=tokenizer.vocab_size), np.array([[1, 3000]]))
    lm = BigramModel(bigram, tokenizer, T, 200)
    every = np.arange(tokenizer.vocab_size)
    for previous in (5, 17, tokenizer.vocab_size - 1):
        p = bigram.probability(np.full_like(every, previous), every)
        best = int(p.argmax())
        nats, first = lm.losses(np.array([[previous, best], [previous, (best + 1) % len(every)]]))
        np.testing.assert_allclose(nats[:, 0], -np.log(p[[best, (best + 1) % len(every)]]))
        assert first[:, 0].tolist() == [True, False]
        assert list(lm.continued([3, previous], 1)) == [best]


def test_generation_stops_at_the_first_stop_text(tokenizer):
    class Recites(HarnessModel):
        losses = None

        def continued(self, context, tokens):
            assert context == (tokenizer.encode("Say it:").tolist() or [tokenizer.eos_id])
            yield from tokenizer.encode(text).tolist()[:tokens]
            yield tokenizer.eos_id
            raise AssertionError("the document has ended")

    text = "one two. three"
    Recites.__abstractmethods__ = frozenset()
    lm = Recites(tokenizer, T, 100)
    ask = lambda **options: lm.generate_until(asked([("Say it:", options)]))[0]  # noqa: E731
    assert ask(until=["."]) == "one two"
    assert ask(until="three") == "one two. "
    assert ask(until=["?"]) == ask() == text
    assert ask(until=[".", "wo"]) == "one t"
    assert ask(max_gen_toks=1) == tokenizer.decode(tokenizer.encode(text)[:1])


def test_generation_is_greedy(model, tokenizer):
    lm = TrainedModel(model, tokenizer, T, 100)
    ids = tokenizer.encode("The cat sat on the mat").tolist()
    with torch.no_grad():
        wanted = int(model(torch.tensor([ids]))[0, -1].argmax())
    assert next(lm.continued(ids, 3)) == wanted
