"""Losses by piece of text: every target in its own document, sums that add up."""

import numpy as np
import pytest
from builders import ArrayStream

from lolm.data.batches import EvaluationSet
from lolm.evaluation import documents
from lolm.evaluation.documents import pieces_of, sums_by_piece

STARTS = [0, 7, 30, 31, 100]  # documents of 7, 23, 1, 69 and the rest


@pytest.fixture
def stream(monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 10)
    stream = ArrayStream(203)
    stream.document_starts = np.array(STARTS)
    stream.document_ids = lambda: list("abcde")
    return stream


def by_hand(stream, held_out):
    """(document, piece) of each target, one at a time."""
    found = []
    for start in held_out.starts:
        for position in range(start + 1, start + 1 + held_out.seq_len):
            document = max(i for i, first in enumerate(STARTS) if first <= position)
            found.append((document, (position - STARTS[document]) // 10))
    return found


@pytest.mark.parametrize("tokens", ["all", 64])
def test_each_target_is_in_its_document(stream, tokens):
    held_out = EvaluationSet(stream, tokens, 8)
    document, piece = pieces_of(held_out)
    assert list(zip(document.ravel(), piece.ravel(), strict=True)) == by_hand(stream, held_out)


def test_all_is_every_window_that_fits(stream):
    held_out = EvaluationSet(stream, "all", 8)
    assert held_out.n_tokens == 200  # 202 targets
    targets = held_out.starts[:, None] + 1 + np.arange(8)
    assert len(np.unique(targets)) == 200  # none twice


def test_sums_add_up(stream):
    whole, subset = EvaluationSet(stream, "all", 8), EvaluationSet(stream, 64, 8)
    rng = np.random.default_rng(0)
    nats, ends = rng.random((25, 8)), {100: rng.random((8, 8)), 200: rng.random((8, 8))}
    found = sums_by_piece(whole, nats, subset, ends)
    places = list(zip(found["document"], found["piece"], strict=True))
    assert places == sorted(set(places))  # each once, in the order of the text
    at = places.index((1, 1))
    mine = [n for n, place in zip(nats.ravel(), by_hand(stream, whole), strict=True) if place == (1, 1)]
    assert (found["tokens"][at], found["nats"][at]) == (len(mine), pytest.approx(sum(mine), abs=5e-4))
    assert sum(found["nats"]) == pytest.approx(nats.sum(), abs=0.03)
    assert (sum(found["tokens"]), sum(found["bytes"])) == (whole.n_tokens, whole.n_bytes)
    assert sum(found["subset_tokens"]) == subset.n_tokens
    assert {step: sum(values) for step, values in found["ends"].items()} == {
        str(step): pytest.approx(values.sum(), abs=0.03) for step, values in ends.items()
    }
