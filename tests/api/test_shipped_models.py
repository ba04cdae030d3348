"""The models that come with the project: a minute after cloning they write, score and answer."""

import json
import lzma
import sys

import pytest
from builders import ROOT

import lolm
from lolm.export.folder import card_of, open_export

MODELS = sorted(path for path in (ROOT / "models").iterdir() if path.is_dir())
ROWS = lzma.decompress((ROOT / "lolm/corpus/embedded/embedded.jsonl.xz").read_bytes()).decode("utf-8").splitlines()
TEXT = next(row["text"] for row in map(json.loads, ROWS) if row["id"] == "books/carroll-alice")  # held out by name
BIGRAM = 2.72  # bits a byte, of the test split


def test_there_are_three_and_none_is_large():
    assert [path.name for path in MODELS] == ["lolm-tiny", "mamba-tiny", "transformer-modern-tiny"]
    for path in MODELS:
        assert sum(file.stat().st_size for file in path.iterdir()) < 5e6


def test_they_load_without_the_library_that_they_are_written_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # an import of it fails
    for path in MODELS:
        assert lolm.load(path).config.arm == path.name.removesuffix("-tiny").replace("-", "_")


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_their_cards_say_what_records_and_ledger_say(path):
    """`make report` writes them again."""
    assert (path / "README.md").read_text(encoding="utf-8") == card_of(path, ROOT)


def test_their_weights_and_tokenizers_have_digests():
    for path in MODELS:
        header = open_export(path)[2]
        assert header.settings
        assert set(header.sha256) == {
            file.name for file in path.iterdir() if file.name.startswith(("model.s", "tokenizer", "sentencepiece"))
        }


@pytest.mark.slow
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_they_are_trained_models(path):
    run = lolm.load(path)
    assert run.score(TEXT[:3000]).bits_per_byte < BIGRAM
    assert run.generate("The King said", max_tokens=12, seed=1) == run.generate("The King said", max_tokens=12, seed=1) != ""
    assert (path / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: mit")
