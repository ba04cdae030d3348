"""The synthetic tasks against their own definitions, position by position."""

import numpy as np
import pytest

from lolm.config import ConfigError, RecallConfig
from lolm.data.synthetic import IGNORED, MQAR, Induction, SyntheticSampler, build_task


def draw(task, count=300, seed=0):
    return task.draw(np.random.default_rng(seed), count)


def test_mqar_asks_each_key_once_for_the_value_it_was_shown_with():
    x, y = draw(MQAR(vocab_size=40, seq_len=30, pairs=5))
    for tokens, targets in zip(x, y, strict=True):
        keys, values = tokens[0:10:2], tokens[1:10:2]
        assert len(set(keys)) == len(set(values)) == 5
        assert keys.min() >= 1
        assert keys.max() < 20 <= values.min()
        assert values.max() < 40
        asked = np.flatnonzero(targets != IGNORED)
        assert asked.min() >= 10
        pairs = dict(zip(keys.tolist(), values.tolist(), strict=True))
        assert sorted(tokens[asked]) == sorted(keys)
        assert [pairs[key] for key in tokens[asked].tolist()] == targets[asked].tolist()
        rest = np.setdiff1d(np.arange(10, 30), asked)
        assert not tokens[rest].any()


def test_mqar_uses_all_ids_and_places_and_prefers_the_early_ones():
    x, y = draw(MQAR(vocab_size=20, seq_len=24, pairs=2), count=4000)
    assert set(x[:, 0]) == set(range(1, 10))
    assert set(x[:, 1]) == set(range(10, 20))
    counts = (y[:, 4:] != IGNORED).sum(axis=0)
    assert counts.min() > 0
    gaps = np.arange(1, 21)
    p = gaps**-0.99 / (gaps**-0.99).sum()
    # two draws without replacement: chosen first, or second after any other
    wanted = p + sum(p[other] * np.where(gaps - 1 == other, 0, p / (1 - p[other])) for other in range(20))
    np.testing.assert_allclose(counts / 4000, wanted, atol=0.03)


def test_induction_repeats_a_segment_of_distinct_ids_and_asks_for_each_successor_in_the_repeats():
    x, y = draw(Induction(vocab_size=40, seq_len=32))
    periods = set()
    for tokens, targets in zip(x.tolist(), y, strict=True):
        period = len(set(tokens))
        assert all(tokens[t] == tokens[t - period] for t in range(period, 32))
        asked = np.flatnonzero(targets != IGNORED)
        np.testing.assert_array_equal(asked, np.arange(period, 31))  # the last token has no successor
        np.testing.assert_array_equal(targets[asked], np.array(tokens)[asked + 1])
        periods.add(period)
    assert periods == set(range(8, 17))
    assert set(x.ravel().tolist()) == set(range(40))


def test_what_guessing_reaches():
    task = MQAR(64, 32, 4)
    assert (task.chance, task.order_zero) == (1 / 32, 1 / 4)
    task = Induction(40, 32)
    rates = []
    for tokens, targets in zip(*(a.tolist() for a in draw(task, count=3000)), strict=True):
        for t in range(32):  # a model of order zero guesses among the ids it knows that it has seen least often
            if targets[t] != IGNORED:
                counts = [tokens[: t + 1].count(i) for i in set(tokens[: t + 1])]
                rates.append(1 / counts.count(min(counts)))
    assert task.chance == 1 / 40
    assert task.order_zero == pytest.approx(np.mean(rates), rel=0.02)


@pytest.mark.parametrize("name", ["mqar", "induction"])
def test_a_batch_is_a_pure_function_of_seed_split_and_step(name):
    task = build_task(name, RecallConfig(tasks=(name,)))

    def batch(seed=1, split="train", step=7):
        return SyntheticSampler(task, 4, seed, split).batch(step)

    sampler = SyntheticSampler(task, 4, 1)
    for step in (9, 7):  # whatever was drawn before
        x, y = sampler.batch(step)
    assert (x.shape, x.dtype, y.dtype) == ((4, 64), batch()[0].dtype, batch()[1].dtype)
    assert x.equal(batch()[0])
    assert y.equal(batch()[1])
    assert not any(x.equal(other[0]) for other in (batch(seed=2), batch(split="test"), batch(step=8)))
    assert sampler.stream.vocab_size == 128
    assert int(x.max()) < 128


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MQAR(64, 11, 4), "recall.seq_len of at least 12"),
        (lambda: MQAR(8, 64, 4), "recall.vocab_size of at least 10"),
        (lambda: Induction(64, 7), "at least 8"),
        (lambda: Induction(15, 32), "recall.vocab_size must be at least 16"),
        (lambda: build_task("copy", RecallConfig()), "no task 'copy'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
    assert MQAR(10, 12, 4).draw(np.random.default_rng(0), 2)[0].shape == (2, 12)  # and the smallest that can
    assert Induction(16, 32).draw(np.random.default_rng(0), 2)[0].shape == (2, 32)
