"""The tokenizer loses nothing, counts bytes exactly, and has the same bytes wherever it is trained."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lolm.config import TokenizerConfig
from lolm.corpus.documents import iterate_split
from lolm.corpus.tokenizer import Tokenizer, build_tokenizer, sample_lines, train_tokenizer
from lolm.data.errors import DataError
from lolm.records import RecordError


@pytest.fixture(scope="module")
def in_memory(texts) -> Tokenizer:
    return Tokenizer(train_tokenizer("\n".join(texts.values()).split("\n"), 400))


# text that a tokenizer could take for something else than text, mixed with any Unicode
ODD = ["  ", "\n", "\r\n", "\t", "\0", "\u2581", "</s>", "<unk>", "<0x41>", " the ", "東京", "🙂", "e\u0301", "\ufeff"]
odd = st.sampled_from(ODD)
any_text = st.lists(st.one_of(st.text(max_size=8), odd), max_size=12).map("".join)


@given(text=any_text)
@example(text="\u2581\u2581 a\u2581")
@example(text=" leading and trailing ")
@settings(max_examples=300, deadline=None)
def test_round_trip_and_bytes(in_memory, text):
    ids = in_memory.encode(text)
    assert in_memory.decode(ids) == text
    assert in_memory.token_bytes[ids].sum() == len(text.encode())
    assert in_memory.eos_id not in ids
    assert 0 not in ids  # never <unk>: unknown characters become bytes


def test_documents_round_trip(tokenizer, data):
    for document in iterate_split(data / "corpus", "test"):
        assert tokenizer.decode(tokenizer.encode(document.text)) == document.text


def test_our_decoding_is_sentencepieces(in_memory, texts):
    for text in texts.values():
        ids = in_memory.encode(text)
        assert in_memory._processor.decode(ids.tolist()) == in_memory.decode(ids)


def test_ids(tokenizer):
    assert tokenizer.vocab_size == len(tokenizer.pieces) == len(tokenizer.token_bytes) == 400
    assert tokenizer.pieces[:3] == ["<unk>", "</s>", "\n"]
    assert tokenizer.pieces[3:259] == [f"<0x{b:02X}>" for b in range(256)]
    assert tokenizer.eos_id == 1
    assert tokenizer.token_bytes[:3].tolist() == [0, 0, 1]
    assert (tokenizer.token_bytes[3:259] == 1).all()
    assert tokenizer.encode("a\n\nb").tolist().count(2) == 2
    assert len(tokenizer.encode("")) == 0
    assert tokenizer.decode([tokenizer.eos_id]) == ""


def test_a_cut_character_decodes_to_the_replacement(tokenizer):
    ids = tokenizer.encode("🙂")
    assert len(ids) == 4
    assert tokenizer.decode(ids[:2]) == "\ufffd"


def test_compresses(tokenizer, data):
    texts = [d.text for d in iterate_split(data / "corpus", "validation")]
    facts = json.loads((data / "tokenizer" / "tokenizer.json").read_text())
    n_bytes, n_tokens = sum(len(t.encode()) for t in texts), sum(len(tokenizer.encode(t)) for t in texts)
    assert facts["validation_bytes_per_token"] == pytest.approx(n_bytes / n_tokens, abs=1e-6)
    assert n_bytes / n_tokens > 2


def test_same_bytes_in_two_folders(data, tmp_path):
    for name in ("a", "much_longer_name"):
        (tmp_path / name).mkdir()
        build_tokenizer(TokenizerConfig(vocab_size=400), data / "corpus", tmp_path / name)
        for file in ("tokenizer.model", "token_bytes.npy", "tokenizer.json"):
            assert (tmp_path / name / file).read_bytes() == (data / "tokenizer" / file).read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "a" / "tokenizer.model").read_bytes()


def test_only_the_training_split_is_seen(build, tmp_path, texts):
    """Changing a held-out text leaves the tokenizer as it is."""
    from minicorpus import write_jsonl

    changed = texts | {"set/005": "zzzz qqqq " * 500}
    for name, some in (("a", texts), ("b", changed)):
        build(tmp_path / name, path=str(write_jsonl(tmp_path / f"{name}.jsonl", some)))
    assert (tmp_path / "a/tokenizer/tokenizer.model").read_bytes() == (tmp_path / "b/tokenizer/tokenizer.model").read_bytes()


CHINESE = """天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏閏餘成歲律呂調陽雲騰致雨露結為霜金生麗水玉出崑岡劍號巨闕珠稱夜光
果珍李柰菜重芥薑海鹹河淡鱗潛羽翔龍師火帝鳥官人皇始制文字乃服衣裳推位讓國有虞陶唐弔民伐罪周發殷湯坐朝問道垂拱平章愛育黎首臣伏戎羌
遐邇壹體率賓歸王鳴鳳在樹白駒食場化被草木賴及萬方"""  # of the Thousand Character Classic: no character twice


def test_vocabulary_smaller_than_the_characters_of_a_chinese_text():
    lines = CHINESE.split("\n")
    with pytest.raises(DataError) as error:
        train_tokenizer(lines, 300)
    said = str(error.value)
    least = int(said.rsplit(" ", 1)[1])
    assert said == f"tokenizer.vocab_size is 300, too small for the characters of the training text; the least is {least}"
    assert Tokenizer(train_tokenizer(lines, least)).vocab_size == least
    with pytest.raises(DataError, match=f"the least is {least}$"):
        train_tokenizer(lines, least - 1)


def test_what_else_sentencepiece_says_has_no_place_in_its_source():
    with pytest.raises(DataError) as error:
        train_tokenizer(["\0"], 300)
    assert "SentencePiece cannot be trained on the 1 line(s)" in str(error.value)
    assert not any(word in str(error.value) for word in (".cc", "INTERNAL", "--"))


def test_vocabulary_larger_than_the_text_supports(data, tmp_path):
    with pytest.raises(DataError, match=r"is 20000, more than the training text supports; .*largest .* is \d+") as error:
        build_tokenizer(TokenizerConfig(vocab_size=20_000), data / "corpus", tmp_path)
    largest = int(str(error.value).rsplit(" ", 1)[1])
    facts = build_tokenizer(TokenizerConfig(vocab_size=largest), data / "corpus", tmp_path)
    assert facts["vocab_size"] == largest


def test_vocabulary_too_small_for_the_characters():
    with pytest.raises(DataError, match="vocab_size is 262, too small for the characters"):
        train_tokenizer(["abcdefghijklmnopqrstuvwxyz"] * 5, 262)


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="no line of text"):
        train_tokenizer(["", ""], 300)


def test_sample_is_within_the_limit_and_spread_evenly():
    documents = ["\n".join(f"document {d} line {i:03d}" for i in range(100)) for d in range(10)]
    total = sum(len(d) + 1 for d in documents)
    lines = list(sample_lines(documents, total, total // 5))
    assert total // 5 - 50 < sum(len(line) + 1 for line in lines) <= total // 5
    counts = [sum(line.startswith(f"document {d} ") for line in lines) for d in range(10)]
    assert max(counts) - min(counts) <= 2
    assert list(sample_lines(documents, total, total)) == "\n".join(documents).split("\n")


@pytest.mark.parametrize("share", [0.5, 0.02, 0.002])
def test_sample_has_long_lines_as_often_as_short_ones(share):
    """Paragraphs of 100 to 2,000 bytes, an empty line after each, a title above: as the text of the web lies in files."""
    rng = random.Random(1)
    paragraphs = [["title", *("x" * n for _ in range(9) for n in (rng.randint(100, 2000), 0))] for _ in range(5000)]
    total = sum(len(line) + 1 for lines in paragraphs for line in lines)
    lines = list(sample_lines(("\n".join(lines) for lines in paragraphs), total, round(share * total)))
    of = Counter("title" if line == "title" else "paragraph" if line else "empty" for line in lines)
    assert of["paragraph"] == pytest.approx(45_000 * share, rel=0.12)
    assert of["empty"] == pytest.approx(of["paragraph"], rel=0.12)
    assert of["title"] == pytest.approx(of["paragraph"] / 9, rel=0.25, abs=5)
    assert sum(map(len, lines)) == pytest.approx(share * total, rel=0.08)


def test_long_lines_are_trained_on_too():
    model = Tokenizer(train_tokenizer(sample_lines(["abcab" * 30_000], 150_000, 10**9), 266))
    assert len(model.encode("abcab" * 10)) < 50


def test_missing_and_exchanged_files_are_named(tmp_path, data):
    with pytest.raises(RecordError, match=r"tokenizer\.json: no such record"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((data / "tokenizer" / "tokenizer.json").read_bytes())
    with pytest.raises(DataError, match=r"tokenizer\.model: no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"other")
    with pytest.raises(DataError, match=r"tokenizer\.model: not the model"):
        Tokenizer.load(tmp_path)


def test_token_bytes_file(data, tokenizer):
    assert np.array_equal(np.load(data / "tokenizer" / "token_bytes.npy"), tokenizer.token_bytes)


def test_what_the_trainer_saw_is_stated_beside_the_artifacts(data, tmp_path):
    """The record has the sample; ``tokenizer.json`` is what it was before samples were stated."""
    texts = [document.text for document in iterate_split(data / "corpus", "train")]
    total = sum(len(text.encode()) for text in texts)
    lines = [line for text in texts for line in text.split("\n") if line]
    whole = build_tokenizer(TokenizerConfig(vocab_size=400), data / "corpus", tmp_path)
    shown = sum(len(line.encode()) for line in lines)
    assert whole.pop("sample") == {
        "documents": len(texts), "lines": len(lines), "bytes": shown, "share": round(shown / total, 6)
    }  # fmt: skip
    assert whole == json.loads((tmp_path / "tokenizer.json").read_text())
    half = build_tokenizer(TokenizerConfig(vocab_size=400, train_bytes=total // 2), data / "corpus", tmp_path)["sample"]
    assert 0.4 * total < half["bytes"] <= total // 2
    assert half["lines"] < len(lines)
    with pytest.raises(DataError, match=r"the largest that works is \d+; the trainer saw 500 of .* \(tokenizer\.train_bytes\)"):
        build_tokenizer(TokenizerConfig(vocab_size=4000, train_bytes=500), data / "corpus", tmp_path)
