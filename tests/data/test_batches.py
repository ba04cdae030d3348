"""Batches are pure functions of (seed, step); evaluation sets do not depend on the batch size."""

import math

import numpy as np
import pytest
import torch

from lolm.data.batches import BatchSampler, EvaluationSet, stream_seed
from lolm.data.errors import DataError
from lolm.data.stream import TokenStream

T = 17


@pytest.fixture(scope="module")
def train(data) -> TokenStream:
    return TokenStream.open(data / "shards", "train")


@pytest.fixture(scope="module")
def test_stream(data) -> TokenStream:
    return TokenStream.open(data / "shards", "test")


def test_batch_is_a_pure_function_of_seed_and_step(train):
    first, second = BatchSampler(train, 4, T, seed=1), BatchSampler(train, 4, T, seed=1)
    order = [5, 0, 200, 3, 0, 5]
    again = {step: second.batch(step) for step in reversed(order)}
    for step in order:
        x, y = first.batch(step)
        assert x.shape == y.shape == (4, T)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(x, again[step][0])
        assert torch.equal(y, again[step][1])
    assert not torch.equal(first.batch(0)[0], BatchSampler(train, 4, T, seed=2).batch(0)[0])


def test_targets_are_the_inputs_one_later(train):
    sampler = BatchSampler(train, 3, T, seed=0)
    x, y = sampler.batch(7)
    assert torch.equal(x[:, 1:], y[:, :-1])
    for start, inputs, targets in zip(sampler.starts(7), x, y, strict=True):
        assert np.array_equal(inputs, train.window(start, T))
        assert np.array_equal(targets, train.window(start + 1, T))


def test_an_epoch_scores_each_token_at_most_once_and_nearly_all(train):
    sampler = BatchSampler(train, 1, T, seed=3)
    for epoch in range(3):
        first = epoch * sampler.windows_per_epoch
        starts = np.concatenate([sampler.starts(first + i) for i in range(sampler.windows_per_epoch)])
        positions = (starts[:, None] + 1 + np.arange(T)).ravel()
        assert len(np.unique(positions)) == len(positions) > len(train) - 2 * T
        assert positions.max() < len(train)


def test_epochs_differ_in_phase_and_order(train):
    sampler = BatchSampler(train, 1, T, seed=3)
    epochs = [sampler._make_epoch(e) for e in range(4)]
    assert len({int(e[0] % T) for e in epochs}) > 1
    assert not np.array_equal(np.argsort(epochs[0]), np.argsort(epochs[1]))


def test_batch_size_does_not_change_the_order(train):
    wide, narrow = BatchSampler(train, 6, T, seed=1), BatchSampler(train, 2, T, seed=1)
    assert np.array_equal(wide.starts(4), np.concatenate([narrow.starts(s) for s in (12, 13, 14)]))


@pytest.mark.parametrize("steps", [0, 1, 10, 1000])
def test_seen_spans_are_the_targets_of_the_first_batches(train, steps):
    sampler = BatchSampler(train, 4, T, seed=1)
    seen = np.zeros(len(train), dtype=bool)
    for step in range(steps):
        for start in sampler.starts(step):
            seen[start + 1 : start + 1 + T] = True
    spans = sampler.seen_spans(steps)
    covered = np.zeros(len(train), dtype=int)
    for start, stop in spans:
        covered[start:stop] += 1
    assert np.array_equal(covered, seen.astype(int))
    assert spans.shape[1] == 2


def test_seeds_of_streams():
    assert stream_seed(1, "data") == stream_seed(1, "data") == 0xAA9F486E948715F5
    seeds = {stream_seed(seed, name) for seed in range(50) for name in ("data", "init", "dropout", "evaluation", "data/1")}
    assert len(seeds) == 250
    assert all(0 <= s < 2**64 for s in seeds)


def test_stream_too_short_for_a_window(train):
    with pytest.raises(DataError, match=r"train split has \d+ tokens, too few for one window of training.seq_len"):
        BatchSampler(train, 4, len(train), seed=0)
    longest = len(train) // 2
    assert BatchSampler(train, 1, longest, seed=0).batch(3)[0].shape == (1, longest)


def test_evaluation_set_does_not_depend_on_the_batch_size(test_stream, tokenizer):
    evaluation = EvaluationSet(test_stream, 20 * T, T, tokenizer.token_bytes)
    one, many = ([torch.cat(parts) for parts in zip(*evaluation.batches(size), strict=True)] for size in (1, 7))
    assert torch.equal(one[0], many[0])
    assert torch.equal(one[1], many[1])
    assert evaluation.n_tokens == one[1].numel() == 20 * T
    assert evaluation.n_bytes == int(tokenizer.token_bytes[one[1].numpy()].sum())
    assert np.array_equal(np.stack(list(evaluation.windows()))[:, 1:], one[1].numpy())


def test_evaluation_windows_do_not_overlap_and_span_the_split(test_stream):
    for windows in (1, 2, 7, 10**6):
        evaluation = EvaluationSet(test_stream, windows * T, T)
        gaps = np.diff(evaluation.starts)
        assert len(evaluation) == min(windows, (len(test_stream) - 1) // T)
        assert (gaps >= T).all()
        assert gaps.max(initial=0) - gaps.min(initial=10**9) <= 1
        assert evaluation.starts[-1] + T < len(test_stream)
        if len(evaluation) > 1:
            assert len(test_stream) - evaluation.starts[-1] <= 2 * math.ceil(len(test_stream) / len(evaluation))


def test_whole_split_bytes_add_up(test_stream):
    evaluation = EvaluationSet(test_stream, 10**9, 1)  # windows of one token score every token but the first
    first = int(test_stream.token_bytes[test_stream.window(0, 1)[0]])
    assert evaluation.n_tokens == len(test_stream) - 1
    assert evaluation.n_bytes == test_stream.n_bytes - first


def test_fewer_tokens_than_a_window_still_scores_one(test_stream):
    assert EvaluationSet(test_stream, 3, T).n_tokens == T


def test_split_too_short_for_a_window(test_stream):
    with pytest.raises(DataError, match=r"test split has \d+ tokens, too few for one window .* hold out more text"):
        EvaluationSet(test_stream, 100, len(test_stream))
    assert len(EvaluationSet(test_stream, 100, len(test_stream) - 1)) == 1


def test_token_bytes_of_another_vocabulary(test_stream):
    with pytest.raises(DataError, match="token_bytes has 5 ids, the shards 400"):
        EvaluationSet(test_stream, 100, T, np.ones(5, dtype=np.int32))
