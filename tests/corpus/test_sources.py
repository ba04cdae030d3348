"""Every kind of source gives the same documents."""

import gzip
import lzma

import pytest
from minicorpus import make_texts, write_jsonl

from lolm.config import ConfigError, CorpusConfig
from lolm.corpus.sources import find_files, read_documents
from lolm.data.errors import DataError

TEXTS = make_texts(12)


def read(path, **changes):
    return list(read_documents(CorpusConfig(**{"source": "local", "path": str(path), **changes})))


def write_parquet(path, texts, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": list(texts), "text": list(texts.values()), **columns}), path)
    return path


def test_jsonl_plain_and_compressed(tmp_path):
    raw = write_jsonl(tmp_path / "a.jsonl", TEXTS).read_bytes()
    (tmp_path / "b.jsonl.xz").write_bytes(lzma.compress(raw))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(raw))
    for name in ("a.jsonl", "b.jsonl.xz", "c.jsonl.gz"):
        assert {d.id: d.text for d in read(tmp_path / name)} == TEXTS
    assert read(tmp_path / "a.jsonl")[0].licence == "CC0"


def test_text_folder_is_one_document_a_file_named_by_its_path(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes("second\r\nline \u00e9".encode())
    (tmp_path / "sub" / "a.txt").write_bytes(b"\xef\xbb\xbffirst")
    (tmp_path / "notes.md").write_text("not read")
    assert [(d.id, d.text) for d in read(tmp_path)] == [("b", "second\r\nline \u00e9"), ("sub/a", "first")]
    assert [d.id for d in read(tmp_path / "b.txt")] == ["b"]
    assert [d.id for d in read(tmp_path / "**" / "*.txt")] == ["b", "sub/a"]
    assert [d.id for d in read(tmp_path / "sub" / "*.txt")] == ["a"]


def test_local_parquet_streams_through_datasets(tmp_path):
    write_parquet(tmp_path / "a.parquet", TEXTS, license=["MIT"] * len(TEXTS))
    documents = read(tmp_path)
    assert {d.id: d.text for d in documents} == TEXTS
    assert {d.licence for d in documents} == {"MIT"}


def test_documents_without_ids_are_named_by_file_and_position(tmp_path):
    write_parquet(tmp_path / "a.parquet", TEXTS)
    assert [d.id for d in read(tmp_path, id_field=None)][:2] == ["a/000000000", "a/000000001"]
    assert [d.id for d in read(tmp_path, id_field="other")][:1] == ["a/000000000"]


def test_data_set_by_name_is_streamed(tmp_path):
    """The hub's path with a local Parquet data set in the place of a name on the hub."""
    (tmp_path / "tiny_set").mkdir()
    write_parquet(tmp_path / "tiny_set" / "train-00000.parquet", TEXTS)
    config = CorpusConfig(source="hub", name=str(tmp_path / "tiny_set"))
    iterator = read_documents(config)
    assert next(iterator).text == next(iter(TEXTS.values()))
    assert {d.id: d.text for d in read_documents(config)} == TEXTS
    with pytest.raises(DataError, match="no field 'body'"):
        list(read_documents(CorpusConfig(source="hub", name=str(tmp_path / "tiny_set"), text_field="body")))
    with pytest.raises(DataError, match=r"tiny_set.*split 'dev'\) cannot be read.*dev"):
        list(read_documents(CorpusConfig(source="hub", name=str(tmp_path / "tiny_set"), split="dev")))


def test_hub_needs_a_name():
    with pytest.raises(ConfigError, match="name: is required"):
        CorpusConfig(source="hub")


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.jsonl", b'{"id": "1", "text": "x"}\n{"id": ', r"a\.jsonl: line 2 is not valid JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl: line 1 is not a JSON object"),
        ("a.jsonl", b'{"text": 3}\n', "field 'text' of row 0 is int, not text"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl: line 1: not UTF-8 at byte 10"),
        ("a.jsonl.xz", lzma.compress(b'{"text": "x"}\n' * 1000)[:-20], r"a\.jsonl\.xz: the compressed file is broken"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: the compressed file is broken"),
        ("a.txt", b"ab\xff", r"a\.txt: not UTF-8 at byte 2"),
        ("a.parquet", b"no parquet", r"a\.parquet: not a readable Parquet file"),
        ("a.md", b"x", r"no \.txt, .* file there; it has a\.md"),
    ],
)
def test_broken_files_are_named(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_missing_path(tmp_path):
    with pytest.raises(DataError, match="nowhere.*no .txt"):
        find_files(str(tmp_path / "nowhere"))
