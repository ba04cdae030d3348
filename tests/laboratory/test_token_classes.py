"""Classes of tokens in texts whose classes are plain to see, and measurements by class on models that are known by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import ArrayStream, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from known_models import WIDTH, reader
from torch import nn

from lolm.corpus.tokenizer import Tokenizer, train_tokenizer
from lolm.data.batches import EvaluationSet
from lolm.interventions import Context, Intervention, InterventionError, measure, replace_branch
from lolm.laboratory.scoring import score_interventions
from lolm.laboratory.token_classes import class_names, gate_by_class, window_classes
from lolm.laboratory.word_classes import classify, is_function_word
from lolm.records.names import TOKEN_CLASSES

EOS = 0
PARTITION = ("function_word", "content_word", "punctuation", "whitespace", "digit", "end_of_document")


def written(text: str, opens: bool = True) -> tuple[list[str], dict[str, list[str]]]:
    """Classes of a text whose tokens are cut by ``|`` and whose documents end with ``#``: class -> tokens as written."""
    pieces = [piece for part in text.split("#") for piece in (*part.split("|"), "#")][:-1]
    pieces = [piece for piece in pieces if piece]
    texts = [b"", *(piece.encode() for piece in pieces)]
    ids = [EOS if piece == "#" else i + 1 for i, piece in enumerate(pieces)]
    found = classify(ids, texts, EOS, opens)
    assert set(found) == set(TOKEN_CLASSES)
    return pieces, {name: [pieces[i] for i in np.flatnonzero(of)] for name, of in found.items()}


def test_classes_of_a_text():
    pieces, found = written("The| th|e|ory| of| Mr|.| Sm|ith|,| it|'s|\n|1|2| and| |x|!#No| end")
    assert found["all"] == pieces
    assert found["function_word"] == ["The", " of", " it", "'s", " and", "No"]
    assert found["content_word"] == [" th", "e", "ory", " Mr", " Sm", "ith", "x", " end"]
    assert found["punctuation"] == [".", ",", "!"]
    assert found["whitespace"] == ["\n", " "]
    assert found["newline"] == ["\n"]
    assert found["digit"] == ["1", "2"]
    assert found["end_of_document"] == ["#"]
    assert found["continuation"] == ["e", "ory", "ith", "'s"]
    assert found["word_start"] == ["The", " th", " of", " Mr", " Sm", " it", " and", "x", "No", " end"]
    assert found["function_word_start"] == ["The", " of", " it", " and", "No"]
    assert found["content_word_start"] == [" th", " Mr", " Sm", "x", " end"]
    assert found["capitalised"] == ["The", " Mr", " Sm", "ith", "No"]
    assert found["sentence_start"] == ["The", "No"]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("go| on|.| He| did", [" He"]),
        ("go| on|.|”| He| did", [" He"]),
        ("go| on|?| |he", ["he"]),
        ("go| on|\n|\n|he| did", ["he"]),
        ("go| on|\n|he| did", []),  # a wrapped line
        ("see| Dr|.| He", []),
        ("the| U|.| S|.| He", []),
        ("it| was| I|.| He", [" He"]),
        ("about| 1|.|5| of", []),
        ("in| 1|.| He", [" He"]),
        ("on|.| 5| men| go", []),  # the sentence begins with a number: no word does
    ],
)
def test_sentences_start(text, starts):
    assert written(text, opens=False)[1]["sentence_start"] == starts


@pytest.mark.parametrize(
    ("word", "function"),
    [("THE", True), ("don't", True), ("they’ve", True), ("can't", True), ("it's", True), ("nation's", False), ("theory", False)],
)
def test_function_words(word, function):
    assert is_function_word(word) is function


def test_characters_of_several_bytes_and_cut_ones():
    texts = [b"", "é".encode()[:1], "é".encode()[1:], b"t", b" ", "—".encode()]
    found = classify([1, 2, 3, 4, 5, 1], texts, EOS)
    assert np.flatnonzero(found["content_word"]).tolist() == [0, 1, 2]
    assert np.flatnonzero(found["continuation"]).tolist() == [1, 2]
    assert np.flatnonzero(found["punctuation"]).tolist() == [4, 5]  # the dash; and half a character, which is nothing


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    lines = ["The theory of the thing is this: don't cut 12 words, Mr. Smith!"] * 20
    return Tokenizer(train_tokenizer(lines, 300))


def test_pieces_of_a_real_tokenizer(tokenizer):
    text = "The theory's 12\nthings."
    ids = tokenizer.encode(text)
    found = classify(ids, tokenizer.texts, tokenizer.eos_id)
    assert tokenizer.decode(ids[found["function_word"]]) == "The"
    assert tokenizer.decode(ids[found["content_word"]]).split() == ["theory'sthings"]
    assert tokenizer.decode(ids[found["digit"]]) == "12"


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_every_token_has_one_kind(tokenizer, text):
    ids = np.append(tokenizer.encode(text), tokenizer.eos_id)
    found = classify(ids, tokenizer.texts, tokenizer.eos_id)
    assert sum(found[name].astype(int) for name in PARTITION).tolist() == [1] * len(ids)
    assert np.array_equal(found["word_start"] | found["continuation"], found["function_word"] | found["content_word"])
    assert not (found["newline"] & ~found["whitespace"]).any()


# Ids 0 … 16 follow one another in the cycle that the hand-built models know: every odd one is a function word.
TEXTS = [b" and" if i % 2 else b" word" for i in range(WIDTH)]
TEXT = SimpleNamespace(texts=TEXTS, eos_id=WIDTH - 1)
BATCH = 4


def stream(length: int = 1000) -> ArrayStream:
    made = ArrayStream(length, WIDTH)
    made.tokens[made.tokens == TEXT.eos_id] = 0
    made.document_starts = np.array([0, 350])
    made.tokens[349] = TEXT.eos_id
    return made


def held_out(tokens: int = 640, length: int = 160) -> EvaluationSet:
    return EvaluationSet(stream(), tokens, length)


class ParityGate(nn.Module):
    sites = {}

    """One value in every dimension where the token read is odd, and another where it is even.

    In the models of the laboratory h is the one-hot token.
    """

    def __init__(self, odd: float, even: float) -> None:
        super().__init__()
        self.odd, self.even = odd, even

    def forward(self, z, h, m, r):
        return torch.where(h.argmax(dim=-1, keepdim=True) % 2 == 1, self.odd, self.even).expand_as(h)


def rows_of(model, held_out, context=None) -> dict[str, dict]:
    context = context or Context(measure(model, (x for x, _ in held_out.batches(BATCH))))
    rows = gate_by_class(model, held_out, TEXT, BATCH, context)
    assert [row.token_class for row in rows] == [name for name in class_names() if name in {row.token_class for row in rows}]
    return {row.token_class: row for row in rows}


def test_a_gate_that_depends_on_the_token():
    model, text = reader(surface=True, latent=True), held_out()
    model.gate = ParityGate(0.9, 0.3)
    rows = rows_of(model, text)
    odd, even = rows["function_word"], rows["content_word"]
    ends = rows["end_of_document"].tokens
    assert odd.tokens + even.tokens + ends == rows["all"].tokens == 640
    inputs = np.concatenate([window[:-1] for window in text.windows()])
    assert odd.tokens == ((inputs % 2 == 1) & (inputs != TEXT.eos_id)).sum()
    assert (odd.gate_mean, even.gate_mean) == pytest.approx((0.9, 0.3), abs=1e-6)
    assert (odd.gate_std, even.gate_std) == pytest.approx((0.0, 0.0), abs=1e-6)
    share = (inputs % 2 == 1).mean()
    assert rows["all"].gate_mean == pytest.approx(0.3 + 0.6 * share, abs=1e-6)
    assert rows["all"].gate_std == pytest.approx(0.6 * (share * (1 - share)) ** 0.5, abs=1e-6)
    # By the predicted token it is the other way round: mostly an even one follows an odd one.
    assert rows["target_content_word"].gate_mean > 0.6 > rows["target_function_word"].gate_mean


def test_a_branch_is_missed_where_the_gate_lets_it_through():
    model = reader(surface=True, latent=True)
    model.gate = ParityGate(1.0, 0.0)
    rows = rows_of(model, held_out())
    for name, through, shut in (("function_word", "surface", "latent"), ("content_word", "latent", "surface")):
        assert getattr(rows[name], f"damage_{shut}_mean") == 0.0
        assert getattr(rows[name], f"damage_{through}_mean") > 0.5


def test_all_tokens_are_what_the_ablation_measures():
    model, text = reader(surface=True, latent=False), held_out()
    context = Context(measure(model, (x for x, _ in text.batches(BATCH))))
    whole = rows_of(model, text, context)["all"]
    scored = score_interventions(
        model, [Intervention("none"), replace_branch("latent", "mean"), replace_branch("surface", "mean")], text, BATCH, context
    )
    full, latent, surface = (row.nats for row in scored)
    assert whole.nats == pytest.approx(full, abs=1e-6)
    assert whole.damage_surface_mean == pytest.approx(surface - full, abs=1e-6)
    assert whole.damage_latent_mean == pytest.approx(latent - full, abs=1e-6)
    assert surface - full > 0.5 > abs(latent - full)


def test_windows_know_what_lies_around_them():
    """Windows start at 0, 249, 499 and 749; the second document at 350."""
    first, second, third, _ = (window_classes(held_out(), i, TEXT) for i in range(4))
    assert np.flatnonzero(first["sentence_start"]).tolist() == [0]
    assert np.flatnonzero(second["end_of_document"]).tolist() == [100]
    assert np.flatnonzero(second["target_end_of_document"]).tolist() == [99]
    assert np.flatnonzero(second["sentence_start"]).tolist() == [101]
    assert np.flatnonzero(second["document_1_32"]).tolist() == list(range(101, 133))
    assert np.flatnonzero(second["document_33_128"]).tolist() == list(range(133, 160))
    assert np.flatnonzero(second["document_later"]).tolist() == list(range(101))
    assert np.flatnonzero(third["document_later"]).tolist() == list(range(160))
    assert np.flatnonzero(third["window_33_128"]).tolist() == list(range(32, 128))


def test_a_word_that_a_window_cuts_keeps_its_class():
    cut = SimpleNamespace(texts=[b"the", b"ory", *TEXTS[2:]], eos_id=WIDTH - 1)
    made = stream()
    made.tokens[:] = np.arange(len(made)) % 2
    text = EvaluationSet(made, 64, 32)
    windows = [window_classes(text, i, cut) for i in range(len(text))]
    assert not any(of["function_word"].any() for of in windows)
    assert windows[0]["word_start"].sum() == 1
    assert windows[1]["continuation"].all()  # goes on from before the window


@pytest.mark.parametrize(
    ("arm", "gate", "latent"), [("lolm_sum", False, True), ("lolm_no_latent", False, False), ("lolm", True, True)]
)
def test_models_that_lack_a_part(arm, gate, latent):
    row = rows_of(make_model(arm, vocab_size=WIDTH), held_out(160, 32))["function_word"]
    assert (row.gate_mean is not None, row.gate_std is not None) == (gate, gate)
    assert (row.damage_latent_mean is not None) == latent
    assert row.damage_surface_mean != 0


def test_what_it_cannot_measure():
    with pytest.raises(InterventionError, match="one stack"):
        gate_by_class(make_model("transformer", vocab_size=WIDTH), held_out(), TEXT, BATCH)
    with pytest.raises(InterventionError, match="statistics"):
        gate_by_class(make_model("lolm", vocab_size=WIDTH), held_out(), TEXT, BATCH)
