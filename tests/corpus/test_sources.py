"""Every kind of source gives the same documents."""

import bz2
import gzip
import json
import lzma
import os

import pyarrow as pa
import pytest
from minicorpus import make_texts, write_jsonl

from lolm.config import ConfigError, CorpusConfig
from lolm.corpus.build import build_corpus
from lolm.corpus.files import find_files
from lolm.corpus.sources import read_documents
from lolm.data.errors import DataError

TEXTS = make_texts(12)


def read(path, **changes):
    return list(read_documents(CorpusConfig(**{"source": "local", "path": str(path), **changes})))


def write_parquet(path, texts, **columns):
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
    assert [(d.id, d.text) for d in read(tmp_path)] == [("b", "second\r\nline \u00e9"), ("sub/a", "first")]
    assert [d.id for d in read(tmp_path / "b.txt")] == ["b"]
    assert [d.id for d in read(tmp_path / "**" / "*.txt")] == ["b", "sub/a"]
    assert [d.id for d in read(tmp_path / "sub" / "*.txt")] == ["a"]


def zstd(raw: bytes) -> bytes:
    return pa.Codec("zstd").compress(raw, asbytes=True)


PACKED = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstd, ".GZ": gzip.compress}


def test_every_kind_of_file_is_read_packed_or_not_whatever_its_letters(tmp_path):
    for number, (suffix, packed) in enumerate(PACKED.items()):
        for kind in (".txt", ".md", ".TXT"):
            (tmp_path / f"{number}{kind[1:]}{kind}{suffix}").write_bytes(packed(f"text {number} {kind}\n".encode()))
        for kind in (".jsonl", ".JSONL"):
            line = json.dumps({"id": f"{number}{kind}", "text": f"line {number} {kind}"})
            (tmp_path / f"{number}{kind[1:]}{kind}{suffix}").write_bytes(packed(line.encode() + b"\n"))
    write_parquet(tmp_path / "p.Parquet", {"p": "row"})
    texts = {d.id: d.text for d in read(tmp_path)}
    assert len(texts) == 5 * len(PACKED) + 1
    assert texts["4md"] == "text 4 .md\n"
    assert texts["4.JSONL"] == "line 4 .JSONL"
    assert texts["p"] == "row"


def test_what_is_hidden_strange_or_met_before_is_left_out_and_said(tmp_path):
    """What archivers, version control, editors and notebooks leave beside texts; links are followed, once."""
    folder, other = tmp_path / "texts", tmp_path / "elsewhere"
    for name in ("a.txt", "._a.txt", ".git/y.txt", ".ipynb_checkpoints/x.txt", "sub/b.txt", "dump.json", "p.parquet.gz", "c.pdf"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xff\x00 not text" if name == "._a.txt" else name.encode())
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "d.txt").write_text("linked")
    (folder / "link").symlink_to(other)
    (folder / "link_again").symlink_to(other)
    (folder / "sub" / "up").symlink_to(folder)  # a circle
    (folder / "z.txt").symlink_to(folder / "a.txt")
    (folder / "nowhere.txt").symlink_to(folder / "gone")
    assert [(d.id, d.text) for d in read(folder)] == [("a", "a.txt"), ("link/deep/d", "linked"), ("sub/b", "sub/b.txt")]
    left_out = (".git/", ".ipynb_checkpoints/", "._a.txt", "c.pdf", "dump.json", "link_again/", "nowhere.txt", "p.parquet.gz")
    assert find_files(str(folder)).left_out == tuple(sorted((*left_out, "sub/up/", "z.txt")))
    assert [d.id for d in read(folder / ".git" / "y.txt")] == ["y"], "what is named is read"
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"one more, number {number}")
    said: list[str] = []
    config = CorpusConfig(source="local", path=str(folder), validation_fraction=0.2, test_fraction=0.2)
    report = build_corpus(config, tmp_path / "corpus", tmp_path / "scratch", tell=said.append)
    assert said[0] == "not read: 10 files or folders, such as ._a.txt; corpus.json lists them"
    assert report["left_out"] == 10
    assert "c.pdf" in report["files_left_out"]


def test_a_name_is_literal_and_files_of_one_name_keep_apart(tmp_path):
    write_parquet(tmp_path / "corpus [final].parquet", TEXTS)
    assert len(read(tmp_path / "corpus [final].parquet")) == len(TEXTS)
    (tmp_path / "texts*").mkdir()
    raw = json.dumps({"text": "one"}).encode()
    for name, content in {"a.jsonl": raw, "a.jsonl.gz": gzip.compress(raw), "a.md": b"two", "a.txt": b"three"}.items():
        (tmp_path / "texts*" / name).write_bytes(content)
    documents = read(tmp_path / "texts*")
    assert [d.id for d in documents] == ["a/000000000", "a.jsonl.gz/000000000", "a.md", "a.txt"]
    assert [d.text for d in documents] == ["one", "one", "two", "three"]


def test_names_that_are_no_unicode_and_of_several_lines_are_shown_by_their_codes(tmp_path):
    """Of bytes that are no UTF-8, which archives of other systems have, and with a newline."""
    folder = tmp_path / os.fsdecode(b"t\xfc")
    folder.mkdir()
    for name in (b"\xff.txt", b"a\nb.txt", b"\xfe.bin"):
        (folder / os.fsdecode(name)).write_text(f"text of {name}")
    assert [(d.id, d.source) for d in read(folder)] == [("a\nb", "t\\xfc"), ("\\xff", "t\\xfc")]
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"one more, number {number}")
    config = CorpusConfig(source="local", path=str(folder), validation_fraction=0.2, test_fraction=0.2)
    assert build_corpus(config, tmp_path / "corpus")["files_left_out"] == ["\\xfe.bin"]
    (folder / "a\nb.jsonl").write_text("{")
    with pytest.raises(DataError) as caught:
        read(folder)
    assert r"a\nb.jsonl: line 1 is not valid JSON" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([2**30] * 12, pa.date32()),
        pa.array([2**62] * 12, pa.duration("s")),
        pa.array(range(12), pa.timestamp("s", "X/Y")),
    ],
)
def test_labels_that_have_no_value_in_python_are_an_error_that_names_the_file(tmp_path, labels):
    write_parquet(tmp_path / "a.parquet", TEXTS, source=labels)
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file"):
        read(tmp_path)


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
    with pytest.raises(DataError, match=r"tiny_set.*split 'dev'\) cannot be read.*dev.*the same command reads on$"):
        list(read_documents(CorpusConfig(source="hub", name=str(tmp_path / "tiny_set"), split="dev")))


def test_hub_needs_a_name():
    with pytest.raises(ConfigError, match="name: is required"):
        CorpusConfig(source="hub")


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.jsonl", b'{"id": "1", "text": "x"}\n{"id": ', r"a\.jsonl: line 2 is not valid JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl: line 1 is not a JSON object"),
        ("a.jsonl", b'{"text": 3}\n', "field 'text' of line 1 is int, not text"),
        ("a.jsonl", b'\n{"body": "a"}\n', "line 2 has no field 'text'; set corpus.text_field to one of body$"),
        ("a.jsonl", b"{}\n", "line 1 has no field 'text'; mend that, or take the file away$"),
        ("a.jsonl", b'{"text": "a"}\n\n{"body": "b"}\n', "line 3 has no field 'text'; mend that, or take the file away$"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl: line 1: not UTF-8 at byte 10"),
        ("a.jsonl.xz", lzma.compress(b'{"text": "x"}\n' * 1000)[:-20], r"a\.jsonl\.xz: the compressed file is broken"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: the compressed file is broken"),
        ("a.txt", b"ab\xff", r"a\.txt: not UTF-8 at byte 2"),
        ("a.parquet", b"no parquet", r"a\.parquet: not a readable Parquet file"),
        ("a.txt.zst", b"no zstd", r"a\.txt\.zst: the compressed file is broken"),
        ("a.doc", b"x", r"no \.txt, .* file there, .*; it has a\.doc"),
    ],
)
def test_broken_files_are_named(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_missing_path(tmp_path):
    with pytest.raises(DataError, match="nowhere.*no .txt"):
        find_files(str(tmp_path / "nowhere"))
