"""The exported tokenizer gives SentencePiece's own ids, whatever the text."""

import pytest

transformers = pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from minicorpus import make_texts  # noqa: E402

from lolm.corpus.tokenizer import Tokenizer, train_tokenizer  # noqa: E402
from lolm.export.tokenizer import to_fast  # noqa: E402

# Pieces of a text of few letters overlap themselves and each other: "abab" can be cut in many ways, and only one is right.
OVERLAPPING = ["ab" * k + "a" * k + "b" * (k % 3) + " " * k + "aab" * k for k in range(1, 9)] * 3
SPECIAL = ["</s>", "<unk>", "<s>", "<0x0A>", "\n", "\n\n", " ", "   ", "▁", "\0", "\r\t"]
SPECIAL += ["é", "e\u0301", "東京", "🙂‍👩", "\ufeff", "\u2028"]


def both(lines, vocab_size, folder):
    ours = Tokenizer(train_tokenizer(lines, vocab_size))
    to_fast(ours).save_pretrained(folder)
    return ours, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    words = [line for text in make_texts().values() for line in text.split("\n")]
    return {"words": both(words, 400, folder / "w"), "overlapping": both(OVERLAPPING, 285, folder / "o")}


def agree(pair, text):
    ours, theirs = pair
    ids = theirs(text)["input_ids"]
    assert ids == ours.encode(text).tolist()
    assert theirs.decode(ids) == ours.decode(ids) == text


@pytest.mark.parametrize("name", ["words", "overlapping"])
@pytest.mark.parametrize("text", ["", *SPECIAL, "".join(SPECIAL), " a</s>b <unk>▁\0 x"])
def test_hostile_text(pairs, name, text):
    agree(pairs[name], text)


def test_held_out_documents(pairs):
    for text in make_texts(20, seed=1).values():
        agree(pairs["words"], text)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40) | st.lists(st.sampled_from([*SPECIAL, "the ", "mount", "ain", "1847"]), max_size=12).map("".join))
def test_any_text(pairs, text):
    agree(pairs["words"], text)


@settings(max_examples=300, deadline=None)
@given(st.text("ab \n", max_size=40))
def test_text_that_can_be_cut_in_many_ways(pairs, text):
    agree(pairs["overlapping"], text)


def test_conventions_of_the_shards(pairs):
    ours, theirs = pairs["words"]
    assert theirs.is_fast
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.pad_token_id == ours.eos_id
    assert theirs.unk_token_id == 0
    assert len(theirs) == ours.vocab_size
    batch = theirs(["a river", "the mountain is hot"], padding=True)
    assert batch["attention_mask"][0][-1] == 0
    assert batch["input_ids"][0][-1] == ours.eos_id
    assert theirs.decode([ours.eos_id, *ours.encode("a river")], skip_special_tokens=True) == "a river"
