"""Boundaries of texts that are plain to see, and scores after them on a model whose loss is known."""

from types import SimpleNamespace

import numpy as np
import pytest
from known_models import reader

from lolm.data.batches import EvaluationSet
from lolm.interventions import Context, measure
from lolm.laboratory.boundaries import DISTANCES, KINDS, boundaries_of, score_boundaries
from lolm.records.schema import Boundary

EOS = 0


def begun(text: str) -> dict[str, list[str]]:
    """Tokens at which something begins, by kind; tokens are cut by ``|``, documents end with ``#``."""
    pieces = [piece for part in text.split("#") for piece in (*part.split("|"), "#")][:-1]
    pieces = [piece for piece in pieces if piece]
    ids = np.array([EOS if piece == "#" else i + 1 for i, piece in enumerate(pieces)])
    kind = boundaries_of(ids, [b"", *(piece.encode() for piece in pieces)], EOS)
    return {name: [pieces[i] for i in np.flatnonzero(kind == index)] for index, name in enumerate(KINDS)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He| came|.| She| went|.", {"sentence": [" She"], "document": ["He"]}),
        ("He| came|.|\n|\n|She| went|.", {"paragraph": ["She"], "document": ["He"]}),
        ("He| came|.|\n|“|She| went", {"paragraph": ["She"], "document": ["He"]}),
        ("He| came|.|\n|#Then| Mr|.| X|.| Go", {"document": ["He", "Then"]}),  # a title, an initial
        ("He|\n|came", {"document": ["He"]}),  # a wrapped line begins nothing
        ("He| came|.| 1|2| men|.", {"sentence": [" 1"], "document": ["He"]}),  # a number begins a sentence as a word does,
        ("He| came|.|\n|\n|12| men|.", {"paragraph": ["12"], "document": ["He"]}),  # a paragraph, and a document
        ("He| came|.|#1|.|\n|\n|The| men", {"paragraph": ["The"], "document": ["He", "1"]}),
        ("about| 1|.|5| of", {"document": ["about"]}),
    ],
)
def test_what_begins_where(text, expected):
    assert begun(text) == {name: expected.get(name, []) for name in KINDS}


class Cycle:
    """The cycle of :func:`known_models.reader` as a text: three sentences of words, a paragraph, a document."""

    texts = [b"", b" a", b" b", b".", b" c", b" d", b".", b"\n", b" e", b" f", b".", *([b" w"] * 21)]
    eos_id = EOS


def stream(cycles: int) -> SimpleNamespace:
    tokens = np.tile(np.arange(11), cycles)
    return SimpleNamespace(
        split="test",
        vocab_size=32,
        token_bytes=np.ones(32, dtype=np.int32),
        document_starts=np.arange(cycles) * 11 + 1,
        window=lambda start, length: tokens[start : start + length],
        __len__=lambda: len(tokens),
    )


class Stream(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.window(0, 10**9))


def test_every_counted_prediction_stands_in_one_row():
    """11 tokens a turn: a document of 3 tokens from its first word, a sentence of 4, a paragraph of 4 with the end mark."""
    text = Stream(**{k: v for k, v in vars(stream(40)).items() if k != "__len__"})
    held_out = EvaluationSet(text, 400, 32)
    model = reader(surface=True, latent=False)
    context = Context(measure(model, (x for x, _ in held_out.batches(4))), seed=1)
    rows = {(row.kind, row.first): row for row in score_boundaries(model, held_out, Cycle(), 4, context)}
    counted = sum(row.tokens for row in rows.values())
    assert counted == len(held_out) * 24  # the first quarter of each window of 32 is left out
    assert set(rows) == {("document", 1), ("document", 2), ("document", 3), ("sentence", 1), ("sentence", 2), ("sentence", 3),
                         ("paragraph", 1), ("paragraph", 2), ("paragraph", 3)}  # fmt: skip
    assert rows["document", 1].last == 1
    assert rows["sentence", 3].last == 4
    first = rows["paragraph", 1]
    assert first.events == first.tokens
    assert first.gate == pytest.approx(0.5)
    assert first.share == pytest.approx(0.0, abs=1e-6)  # the latent branch is zero ...
    assert first.damage_latent == pytest.approx(0.0, abs=1e-6)  # ... and missed by nobody
    assert first.damage_surface > 0.1
    known = sum(row.nats * row.tokens for row in rows.values()) / counted
    assert 0 < known < 3.0


def test_distances_take_up_every_token():
    assert DISTANCES[0][0] == 1
    assert all(last + 1 == first for (_, last), (first, _) in zip(DISTANCES, DISTANCES[1:], strict=False))
    assert DISTANCES[-1][1] is None
    assert Boundary("sentence", 1, 1, 1, 1, 2.0).gate is None
