"""A corpus or its shards that were killed at any moment, again and again, have the bytes of undisturbed ones."""

import json
import lzma
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import killed
import pytest
from minicorpus import make_texts, write_jsonl

from lolm.config import CorpusConfig, ShardsConfig
from lolm.corpus.build import build_corpus
from lolm.corpus.documents import SPLITS, iterate_split
from lolm.corpus.progress import resumed
from lolm.corpus.shards import write_shards
from lolm.corpus.sources import Source
from lolm.data.errors import DataError

SOURCES = ("jsonl", "parquet", "text", "hub")
HELD_OUT = {"validation_fraction": 0.1, "test_fraction": 0.1}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_sources(folder: Path) -> dict[str, dict]:
    """The same documents, among them copies and empty ones, as each kind of source; settings by name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = make_texts(120)
    texts |= {"set/120": texts["set/003"], "set/121": " ", "set/122": texts["set/110"]} | {"set/123": "the last one"}
    raw = write_jsonl(folder / "raw.jsonl", texts).read_bytes()
    keys = list(texts)
    for name in SOURCES:
        (folder / "in" / name).mkdir(parents=True)
    for number in range(3):
        part = keys[number * 41 : number * 41 + 41] if number < 2 else keys[82:]
        (folder / f"in/jsonl/{number}.jsonl.xz").write_bytes(
            lzma.compress(b"\n".join(raw.split(b"\n")[number * 41 :][: len(part)]))
        )
        table = pa.table({"id": part, "text": [texts[key] for key in part], "source": [f"s{key[-1]}" for key in part]})
        unused = pa.array([[("a", 1)]] * len(part), type=pa.map_(pa.string(), pa.int64()))
        pq.write_table(table, folder / f"in/hub/train-{number}.parquet", row_group_size=7)
        pq.write_table(table.append_column("unused", unused), folder / f"in/parquet/{number}.parquet", row_group_size=7)
    for key, text in texts.items():
        (folder / "in/text" / f"{key[4:]}.txt").write_text(text, encoding="utf-8")
    settings = {name: {"source": "local", "path": str(folder / "in" / name), **HELD_OUT} for name in SOURCES}
    settings["hub"] |= {"source": "hub", "name": str(folder / "in/hub"), "max_bytes": 40_000}
    return settings


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, data):
    """Folder with corpora and shards that were killed and went on; how often; the settings of the corpora."""
    folder = tmp_path_factory.mktemp("killed")
    settings = write_sources(folder)
    (folder / "sources.json").write_text(json.dumps(settings))
    (folder / "tokenizer").symlink_to(data / "tokenizer")
    done = subprocess.run(
        [sys.executable, killed.__file__, str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1]), settings


@pytest.mark.system
@pytest.mark.parametrize("name", SOURCES)
def test_killed_corpus_is_the_undisturbed_one(interrupted, tmp_path, monkeypatch, name):
    folder, kills, settings = interrupted
    killed.shrink(monkeypatch.setattr)
    report = build_corpus(CorpusConfig(**settings[name]), tmp_path / name)
    whole = files_of(tmp_path / name)
    assert files_of(folder / name) == whole
    assert "train-00003.parquet" in whole  # there were parts to lose
    assert report["dropped"] == {"duplicate": 0 if name == "hub" else 2, "empty": 0 if name == "hub" else 1}
    ids = [document.id for split in SPLITS for document in iterate_split(folder / name, split)]
    assert len(ids) == len(set(ids)) == report["documents"]
    if name == "hub":
        assert 40_000 <= report["bytes"] < 40_000 + 3000  # the limit holds over all parts
    assert kills[name] >= 3
    said = [line for line in (folder / f"{name}.log").read_text().splitlines() if line.startswith("goes on after")]
    assert len({line for line in said if line != "goes on after 0 documents"}) >= 2, said
    assert not (folder / f"{name}.scratch").exists()


@pytest.mark.system
def test_killed_shards_are_the_undisturbed_ones(interrupted, tokenizer, tmp_path):
    folder, kills, _ = interrupted
    write_shards(ShardsConfig(1000), folder / SOURCES[0], tokenizer, tmp_path)
    assert files_of(folder / "shards") == files_of(tmp_path)
    assert kills["shards"] >= 3


def test_parts_hold_the_same_documents(tmp_path, corpus_config, monkeypatch):
    whole = build_corpus(corpus_config, tmp_path / "a")
    killed.shrink(monkeypatch.setattr)
    assert build_corpus(corpus_config, tmp_path / "b") == whole
    assert (tmp_path / "b" / "train-00002.parquet").exists()
    for split in SPLITS:
        assert list(iterate_split(tmp_path / "a", split)) == list(iterate_split(tmp_path / "b", split))
    (tmp_path / "b" / "train-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00001.parquet: no such file"):
        list(iterate_split(tmp_path / "b", "train"))


def test_lost_last_part_is_noticed(tmp_path, corpus_config, monkeypatch, tokenizer):
    killed.shrink(monkeypatch.setattr)
    build_corpus(corpus_config, tmp_path / "corpus")
    max((tmp_path / "corpus").glob("train-*.parquet")).unlink()
    with pytest.raises(DataError, match="documents in the train split, the manifest says"):
        write_shards(ShardsConfig(1000), tmp_path / "corpus", tokenizer, tmp_path / "shards")


def test_any_place_is_the_rest_of_the_documents(tmp_path):
    for name, settings in write_sources(tmp_path).items():
        config = CorpusConfig(**settings)
        documents = list(Source(config).documents())
        for stop in (1, 40, 41, 42, 83, len(documents)):
            source = Source(config)
            iterator = source.documents()
            assert [next(iterator) for _ in range(stop)] == documents[:stop]
            place = json.loads(json.dumps(source.place()))
            assert list(Source(config).documents(place)) == documents[stop:], (name, stop)


def test_other_settings_or_files_start_anew(tmp_path, corpus_config, texts, monkeypatch):
    """What an error leaves of a long source is used again by the same call, and by no other."""
    killed.shrink(monkeypatch.setattr)
    path = write_jsonl(tmp_path / "x.jsonl", texts)
    config = replace(corpus_config, path=str(path))
    path.write_bytes(path.read_bytes() + b"{broken\n")
    said: list[str] = []

    def attempt(config):
        with pytest.raises(DataError, match="line 61 is not valid JSON"):
            build_corpus(config, tmp_path / "corpus", tmp_path / "scratch", said.append)
        return [line for line in said if line.startswith("goes on")]

    assert attempt(config) == []
    once = attempt(config)
    assert len(once) == 1
    assert once != ["goes on after 0 documents"]
    assert attempt(replace(config, test_fraction=0.2)) == once
    path.write_bytes(write_jsonl(tmp_path / "y.jsonl", texts).read_bytes())
    build_corpus(replace(config, test_fraction=0.2), tmp_path / "corpus", tmp_path / "scratch", said.append)
    assert len([line for line in said if line.startswith("goes on")]) == 1
    assert not (tmp_path / "scratch").exists()


def test_two_at_once_are_refused(tmp_path, corpus_config, monkeypatch):
    from lolm.corpus.progress import Progress, version_of

    content = resumed(tmp_path / "scratch", version_of(corpus_config, Source(corpus_config).version))
    first = Progress(content.parent / "progress.sqlite", {})
    connect = sqlite3.connect
    monkeypatch.setattr("lolm.corpus.progress.sqlite3.connect", lambda path: connect(path, timeout=0.05))  # not for 5 seconds
    try:
        with pytest.raises(DataError, match="scratch: database is locked"):
            build_corpus(corpus_config, tmp_path / "corpus", tmp_path / "scratch")
    finally:
        first.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_changes_nothing(data, tokenizer, tmp_path, monkeypatch, workers):
    killed.shrink(monkeypatch.setattr)
    write_shards(ShardsConfig(1000), data / "corpus", tokenizer, tmp_path, workers)
    assert files_of(tmp_path) == files_of(data / "shards")
