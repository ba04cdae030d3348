"""The models that come with the project: a minute after cloning they write, score and answer."""

import json
import lzma
import re
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from builders import ROOT

import lolm
from lolm.api import LoadError
from lolm.export.folder import card_of, open_export
from lolm.records import Layout, write

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


def test_records_are_those_of_the_same_run(tmp_path, monkeypatch):
    """Of the project around the folder, of the current one, or none."""
    monkeypatch.chdir(tmp_path)
    for path in MODELS:
        records = lolm.load(path).records
        assert records.header.data == open_export(path)[2].data
        assert records.evaluation is not None
    shutil.copytree(path, tmp_path / "copy")
    assert lolm.load("copy").records is None
    monkeypatch.chdir(ROOT)
    assert lolm.load(tmp_path / "copy").records.header == records.header
    header = Layout("tiny", tmp_path).header(records.arm, records.seed)
    write(header, replace(records.header, fingerprint="0" * 16))
    monkeypatch.chdir(tmp_path)
    assert lolm.load("copy").records is None, "another run's"


def test_an_export_has_weights_of_one_step():
    with pytest.raises(LoadError, match=r"lolm-tiny: an export has weights of one step, this one of step 2000; load"):
        lolm.load(MODELS[0], step=7)
    assert lolm.load(MODELS[0], step=2000, annealed=True).config.training.steps == 2000


def test_an_intervention_that_needs_held_out_text_says_where_it_is():
    model = lolm.load(MODELS[0])
    with pytest.raises(
        LoadError, match=r"'latent_mean' needs held-out text, which is not beside .*lolm-tiny; load [^\n]*dvc pull"
    ):
        model.intervene("a", "latent_mean")
    with pytest.raises(LoadError, match="no intervention 'gate=0.3' of this model; did you mean"):
        model.intervene("a", "gate=0.3")
    with pytest.raises(LoadError, match="no intervention 'latent_men' of this model"):
        model.intervene("a", "latent_men")
    with pytest.raises(LoadError, match="no intervention 'latent_mean' of this model"):
        lolm.load(MODELS[1]).intervene("a", "latent_mean")


@pytest.mark.slow
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_they_are_trained_models(path):
    run = lolm.load(path)
    assert run.score(TEXT[:3000]).bits_per_byte < BIGRAM
    assert run.generate("The King said", max_tokens=12, seed=1) == run.generate("The King said", max_tokens=12, seed=1) != ""
    assert (path / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: mit")


@torch.no_grad()
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_logits_differ_by_no_more_than_the_docs_say(path):
    from transformers import AutoModelForCausalLM

    page = re.sub(r"\s+", " ", (ROOT / "docs/export.md").read_text(encoding="utf-8"))
    tokens, reach, most = re.search(r"over (\d+) tokens of .*? reach (\d+); .*? differ by at most (\S+) from this", page).groups()
    run, library = lolm.load(path), AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
    ids = run.tokenizer.encode(TEXT[:4000])[: int(tokens)]
    x_BT = torch.from_numpy(ids).view(-1, run.config.training.seq_len)
    theirs, kernels = library(x_BT).logits, run.model(x_BT)
    for module in run.model.modules():
        if hasattr(module, "kernels"):
            module.kernels = "reference"
    reference = run.model(x_BT)
    for one, other in ((theirs, kernels), (theirs, reference), (kernels, reference)):
        assert float((one - other).abs().max()) <= float(most)
    assert float(theirs.abs().max()) < float(reach) + 0.5
    if type(library).__name__ == "LolmForCausalLM":
        assert torch.equal(theirs, reference)
