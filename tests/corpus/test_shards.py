"""Shards are the encoded documents, and damage is noticed."""

import json
import shutil

import numpy as np
import pytest

from lolm.config import ShardsConfig
from lolm.corpus.documents import SPLITS, iterate_split
from lolm.corpus.shards import shards_report, write_shards
from lolm.data.errors import DataError
from lolm.data.stream import TokenStream


def expected(data, tokenizer, split):
    """The split's tokens, put together document by document."""
    parts = [np.append(tokenizer.encode(d.text), tokenizer.eos_id) for d in iterate_split(data / "corpus", split)]
    return np.concatenate(parts), np.cumsum([0] + [len(p) for p in parts])[:-1]


@pytest.mark.parametrize("split", SPLITS)
def test_stream_is_the_documents_in_order(data, tokenizer, split):
    stream = TokenStream.open(data / "shards", split)
    tokens, starts = expected(data, tokenizer, split)
    documents = list(iterate_split(data / "corpus", split))
    assert len(stream) == len(tokens)
    assert np.array_equal(stream.window(0, len(stream)), tokens)
    assert np.array_equal(stream.document_starts, starts)
    assert stream.document_ids() == [d.id for d in documents]
    assert stream.n_bytes == sum(len(d.text.encode()) for d in documents) == stream.token_bytes[tokens].sum()
    stream.verify()


def test_window_across_shards_is_the_concatenation(data, tokenizer):
    stream = TokenStream.open(data / "shards", "train")
    tokens, _ = expected(data, tokenizer, "train")
    assert len(tokens) > 3000  # the shards hold 1000 tokens each
    end = len(tokens)
    for start, length in ((0, 1), (999, 2), (1000, 1), (500, 2500), (990, 20), (end - 5, 5), (end, 0), (1000, 1000)):
        window = stream.window(start, length)
        assert window.dtype == np.int64
        assert np.array_equal(window, tokens[start : start + length])


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 10**9), (10**9, 0)])
def test_window_outside_the_stream(data, start, length):
    with pytest.raises(IndexError, match="train: tokens"):
        TokenStream.open(data / "shards", "train").window(start, length)


def test_shard_size_does_not_change_the_stream(data, tokenizer, tmp_path):
    for size in (7_000_000, 777):
        folder = tmp_path / str(size)
        folder.mkdir()
        index = write_shards(ShardsConfig(size), data / "corpus", tokenizer, folder)
        stream, other = TokenStream.open(folder, "train"), TokenStream.open(data / "shards", "train")
        assert np.array_equal(stream.window(0, len(stream)), other.window(0, len(other)))
        assert all(shard["tokens"] == size for shard in index["splits"]["train"]["shards"][:-1])


def test_same_bytes_in_two_folders(data, tokenizer, tmp_path):
    write_shards(ShardsConfig(1000), data / "corpus", tokenizer, tmp_path)
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) > 8
    for file in files:
        assert (tmp_path / file).read_bytes() == (data / "shards" / file).read_bytes()


def test_checksum_follows_the_tokens(data):
    sums = {split: TokenStream.open(data / "shards", split).checksum for split in SPLITS}
    assert len(set(sums.values())) == 3
    assert sums["train"] == TokenStream.open(data / "shards", "train").checksum


def test_large_vocabularies_take_four_bytes(data, tokenizer, tmp_path):
    class Large:
        vocab_size, eos_id, token_bytes = 70_000, 69_999, np.ones(70_000, dtype=np.int32)

        def encode(self, text):
            return np.full(3, 66_000)

    index = write_shards(ShardsConfig(), data / "corpus", Large(), tmp_path)
    assert index["dtype"] == "uint32"
    assert TokenStream.open(tmp_path, "test").window(0, 4).tolist() == [66_000, 66_000, 66_000, 69_999]


def test_report_is_the_index_in_scalars(data):
    index = json.loads((data / "shards" / "index.json").read_text())
    report = shards_report(index)
    for split in SPLITS:
        stream = TokenStream.open(data / "shards", split)
        assert report[split]["tokens"] == len(stream)
        assert report[split]["bytes_per_token"] == pytest.approx(stream.n_bytes / len(stream), abs=1e-6)


@pytest.fixture
def copy(data, tmp_path):
    return shutil.copytree(data / "shards", tmp_path / "shards")


def test_truncated_shard(copy):
    path = copy / "train" / "00001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"train/00001\.bin: 1998 bytes, but the index says 2000; .*dvc repro"):
        TokenStream.open(copy, "train")
    TokenStream.open(copy, "test")  # the other splits are whole


def test_flipped_byte_is_found_by_verify(copy):
    path = copy / "train" / "00001.bin"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    stream = TokenStream.open(copy, "train")
    with pytest.raises(DataError, match=r"train/00001\.bin: its bytes are not those that were written"):
        stream.verify()


@pytest.mark.parametrize(
    ("name", "old", "new"), [("index.json", '"n_bytes": ', '"n_bytes": 1'), ("index.json", '"eos_id": 1', '"eos_id": 3')]
)
def test_an_index_that_says_other_things_than_the_tokens_is_found_by_verify(copy, name, old, new):
    text = (copy / name).read_text(encoding="utf-8")
    assert old in text
    (copy / name).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=r"index\.json: the train split has \d+ bytes|documents\.npy: not where"):
        TokenStream.open(copy, "train").verify()


def test_documents_that_begin_elsewhere_are_found_by_verify(copy):
    starts = np.load(copy / "train" / "documents.npy")
    starts[-1] += 1
    np.save(copy / "train" / "documents.npy", starts)
    with pytest.raises(DataError, match=r"train/documents\.npy: not where documents begin; "):
        TokenStream.open(copy, "train").verify()


@pytest.mark.parametrize("name", ["train/00000.bin", "train/documents.npy", "index.json", "token_bytes.npy"])
def test_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        TokenStream.open(copy, "train")


def test_truncated_documents_file(copy):
    path = copy / "train" / "documents.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"documents\.npy"):
        TokenStream.open(copy, "train")


def test_token_bytes_of_another_tokenizer(copy, tokenizer):
    np.save(copy / "token_bytes.npy", tokenizer.token_bytes + 1)
    with pytest.raises(DataError, match=r"token_bytes\.npy: not what was written"):
        TokenStream.open(copy, "train")


@pytest.mark.parametrize("dtype", ["float32", "uint,}16", "u04", "\ud800", 16, None])
def test_another_dtype(copy, dtype):
    index = json.loads((copy / "index.json").read_text(encoding="utf-8"))
    (copy / "index.json").write_text(json.dumps(index | {"dtype": dtype}), encoding="utf-8")
    with pytest.raises(DataError, match=r"index\.json: dtype is .*, not uint16 or uint32; .*dvc repro"):
        TokenStream.open(copy, "train")


def test_unknown_split(data):
    with pytest.raises(DataError, match=r"no split 'dev'; it has .*; .*dvc repro"):
        TokenStream.open(data / "shards", "dev")
