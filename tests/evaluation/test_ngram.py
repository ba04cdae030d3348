"""The n-gram references against hand-computed cases."""

import math
from pathlib import Path

import numpy as np
import pytest

from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.errors import DataError
from lolm.data.stream import TokenStream, checksum_of
from lolm.evaluation import ngram
from lolm.evaluation.ngram import Bigram, discount, reference_losses
from lolm.records import sha256_of, write_json


def stream_of(folder: Path, tokens: list[int], vocab_size: int) -> TokenStream:
    """A training split of exactly these tokens."""
    (folder / "train").mkdir(parents=True)
    np.array(tokens, dtype="<u2").tofile(folder / "train" / "00000.bin")
    np.save(folder / "train" / "documents.npy", np.zeros(1, dtype=np.int64))
    token_bytes = np.ones(vocab_size, dtype=np.int32)
    np.save(folder / "token_bytes.npy", token_bytes)

    shard = {"file": "train/00000.bin", "tokens": len(tokens), "sha256": sha256_of(folder / "train" / "00000.bin")}
    entry = {"shards": [shard], "n_tokens": len(tokens), "n_bytes": len(tokens), "n_documents": 1}
    index = {"vocab_size": vocab_size, "dtype": "uint16", "eos_id": 1, "token_bytes_sha256": checksum_of(token_bytes)}
    write_json(folder / "index.json", index | {"splits": {"train": entry}})
    return TokenStream.open(folder, "train")


def everything(stream: TokenStream) -> np.ndarray:
    return np.array([[1, len(stream)]])


def test_by_hand(tmp_path):
    # targets: 1 0 1 2 0 1 1 3; pairs 01 x3, 10, 12, 20, 11, 13: n1 = 5, n2 = 0 of the pairs
    stream = stream_of(tmp_path, [0, 1, 0, 1, 2, 0, 1, 1, 3], 5)
    model = Bigram(stream, everything(stream))
    # unigram counts 0:2 1:4 2:1 3:1, so n1 = 2, n2 = 1, d' = 2 / (2 + 2) = 1/2; mass 4 * 1/2 / 8 = 1/4 is spread over 5 ids
    assert model.unigram == pytest.approx([1.5 / 8 + 0.05, 3.5 / 8 + 0.05, 0.5 / 8 + 0.05, 0.5 / 8 + 0.05, 0.05])
    d = 0.95  # 5 / (5 + 0) = 1, held at the upper bound
    p = model.probability(np.array([0, 0, 1, 1, 3]), np.array([1, 2, 2, 4, 1]))
    expected = [
        (3 - d) / 3 + d * 1 / 3 * model.unigram[1],  # 0 is followed by 1 alone, three times
        d * 1 / 3 * model.unigram[2],  # never seen after 0
        (1 - d) / 4 + d * 4 / 4 * model.unigram[2],  # 1 is followed by 0, 2, 1, 3
        d * 4 / 4 * model.unigram[4],
        model.unigram[1],  # 3 was never followed by anything
    ]
    assert p == pytest.approx(expected)


@pytest.mark.parametrize("vocab_size", [5, 300, 50_257])
def test_probabilities_sum_to_one(tmp_path, vocab_size):
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.zipf(1.3, 5000), vocab_size) - 1
    stream = stream_of(tmp_path, tokens.tolist(), vocab_size)
    model = Bigram(stream, everything(stream))
    assert model.unigram.sum() == pytest.approx(1)
    every = np.arange(vocab_size)
    for previous in (0, 1, 2, vocab_size // 2, vocab_size - 1):
        p = model.probability(np.full(vocab_size, previous), every)
        assert p.min() > 0
        assert p.sum() == pytest.approx(1)


def test_spans_limit_what_is_counted(tmp_path):
    stream = stream_of(tmp_path, [0, 1, 2, 3, 0, 1, 2, 3, 0, 4], 5)
    model = Bigram(stream, np.array([[1, 3], [5, 6]]))  # targets 1, 2 and 1
    assert model.n_tokens == 3
    assert model.unigram[1] > model.unigram[2] > model.unigram[3] == model.unigram[4]
    same = Bigram(stream_of(tmp_path / "same", [0, 1, 2], 5), np.array([[1, 3]]))
    assert same.n_tokens == 2


def test_pieces_give_the_same_counts(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    stream = stream_of(tmp_path, rng.integers(0, 40, 3000).tolist(), 40)
    spans = np.array([[1, 500], [600, 700], [900, 3000]])
    whole = Bigram(stream, spans)
    monkeypatch.setattr(ngram, "CHUNK", 64)
    pieces = Bigram(stream, spans)
    assert np.array_equal(whole.unigram, pieces.unigram)
    assert np.array_equal(whole._keys, pieces._keys)
    assert np.array_equal(whole._values, pieces._values)


def test_discount():
    assert discount(np.array([1, 1, 1, 2, 5])) == 3 / 5
    assert discount(np.array([1, 1, 3])) == 0.95
    assert discount(np.array([7, 9])) == 0.1


def test_losses_are_means_over_the_scored_tokens(tmp_path):
    stream = stream_of(tmp_path, [0, 1, 0, 1, 2, 0, 1, 1, 3] * 4, 5)
    model = Bigram(stream, everything(stream))
    evaluation = EvaluationSet(stream, 12, 4)
    pairs = [(int(a), int(b)) for w in evaluation.windows() for a, b in zip(w[:-1], w[1:], strict=True)]
    assert len(pairs) == 12
    losses = model.losses(evaluation)
    assert losses["unigram"] == pytest.approx(-sum(math.log(model.unigram[b]) for _, b in pairs) / 12)
    by_pair = [float(model.probability(np.array([a]), np.array([b]))[0]) for a, b in pairs]
    assert losses["bigram"] == pytest.approx(-sum(map(math.log, by_pair)) / 12)


def test_references_learn_from_what_the_run_saw(tmp_path):
    """On a noisy cycle: more text helps the bigram, which beats the unigram, which is no better than uniform."""
    rng = np.random.default_rng(2)
    tokens = [0]
    for jump in rng.random(20_000) < 0.2:
        tokens.append(int(rng.integers(50)) if jump else (tokens[-1] + 1) % 50)
    stream = stream_of(tmp_path, tokens, 50)
    sampler = BatchSampler(stream, 4, 10, seed=0)
    evaluation = EvaluationSet(stream, 5000, 10)
    few = reference_losses(sampler, 10, {"validation": evaluation})["validation"]
    many = reference_losses(sampler, 300, {"validation": evaluation})["validation"]
    assert few.uniform == math.log(50)
    assert many.unigram == pytest.approx(math.log(50), abs=0.02)
    assert many.bigram_all_text == few.bigram_all_text < many.bigram < few.bigram < few.unigram
    optimum = -0.804 * math.log(0.804) - 49 * 0.004 * math.log(0.004)  # entropy of the cycle
    assert many.bigram_all_text == pytest.approx(optimum, abs=0.15)


def test_epochs_do_not_count_twice(tmp_path):
    rng = np.random.default_rng(3)
    stream = stream_of(tmp_path, rng.integers(0, 30, 400).tolist(), 30)
    sampler = BatchSampler(stream, 4, 8, seed=0)
    evaluation = EvaluationSet(stream, 80, 8)
    several = reference_losses(sampler, 300, {"v": evaluation})["v"]  # many epochs: all positions but the first were targets
    assert several.bigram == pytest.approx(several.bigram_all_text)


def test_nothing_to_count(tmp_path):
    stream = stream_of(tmp_path, [0, 1, 2], 5)
    with pytest.raises(DataError, match="no training tokens"):
        Bigram(stream, np.zeros((0, 2), dtype=np.int64))
