"""From a folder with a model and a tokenizer to a record, without a network."""

import json
import math
import shutil
import sys

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.torch")

from builders import ROOT  # noqa: E402
from tiny import CASES  # noqa: E402

from lolm.config import ConfigError, ExternalConfig, params_from  # noqa: E402
from lolm.config.dialect import parse  # noqa: E402
from lolm.data.errors import DataError  # noqa: E402
from lolm.external import ExternalError, load_model, load_tokenizer, windows_of  # noqa: E402
from lolm.records.layout import external_record  # noqa: E402
from lolm.records.results import load_external  # noqa: E402
from pipeline.external import external  # noqa: E402

SENTENCE = "Die Straße führt über 3 Brücken — naïve cafés, 東京 and 🙂 …\n  Indented, twice.\n"


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE, which names tokens that begin and end a text but begins none by itself."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([SENTENCE] * 20, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def falcon(tmp_path_factory, tokenizer):
    """Folder of a Falcon-H1 of random weights."""
    kind, options, _ = CASES["falcon_h1"]
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("falcon")
    transformers.AutoModelForCausalLM.from_config(kind(**options | {"vocab_size": 320})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch, falcon):
    """A project folder with params.yaml, a text and a model."""
    shutil.copytree(falcon, tmp_path / "model")
    (tmp_path / "text.txt").write_text(SENTENCE * 60, encoding="utf-8")
    section = """\
external:
  mine: {model: model, text: {source: local, path: text.txt}, tokens: 256, seq_len: 64, batch_size: 2, draws: 1}
  own_split: {extends: mine, text: {source: test, path: null}}
  absent: {extends: mine, model: nobody/no-such-model}
  no_folder: {extends: mine, model: artifacts/tiny/exports/mamba-1}
  no_text: {extends: mine, text: {source: local, path: nowhere}}
"""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    head, _, rest = text.partition("external:\n")
    (tmp_path / "params.yaml").write_text(head + section + rest.partition("\n\n")[2], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def run(monkeypatch, name: str) -> None:
    monkeypatch.setattr(sys, "argv", ["external", "--name", name])
    external()


def test_a_record_says_what_was_measured(project, monkeypatch, capsys):
    run(monkeypatch, "mine")
    said = capsys.readouterr().out
    found = load_external(project)["mine"]
    assert external_record("mine", project).exists()
    assert (found.architecture, found.config.dtype, found.vocab_size) == ("FalconH1ForCausalLM", "float32", 320)
    assert found.uniform == math.log(320)
    assert found.revision.startswith("folder:")
    assert found.versions["transformers"] == transformers.__version__
    measured = found.measured
    assert measured.tokens == 256
    assert measured.of_type["recurrent"] == ("stack.0.recurrent", "stack.1.recurrent")
    assert measured.of_type["attention"] == ("stack.0.attention", "stack.1.attention")
    assert {s.kind for s in measured.sites} == {"mamba2", "attention", "mlp"}
    assert found.unigram < found.uniform  # the text repeats itself
    intact = measured.removal()
    assert intact.bits_per_byte == pytest.approx(intact.nats * measured.tokens / measured.bytes / math.log(2))
    assert f"intact: {intact.nats:.4f} nats a token" in said
    assert "S_type, mean:" in said
    assert "worse than a uniform guess" in said or all(row.nats <= found.uniform for row in measured.removals)
    again = external_record("mine", project).read_bytes()
    run(monkeypatch, "mine")
    assert external_record("mine", project).read_bytes() == again


def test_the_intact_loss_is_the_librarys_own(project, monkeypatch, tokenizer):
    run(monkeypatch, "mine")
    found = load_external(project)["mine"].measured
    model = load_model("mine", ExternalConfig("model")).model
    ids = torch.tensor(tokenizer(SENTENCE * 60)["input_ids"])
    rows = ids[: 4 * 65].reshape(4, 65)
    with torch.no_grad():
        loss = model(input_ids=rows, labels=rows, use_cache=False).loss
    assert found.removal().nats == pytest.approx(float(loss), abs=1e-5)


def test_without_network_or_text_the_message_says_what_to_do(project, monkeypatch):
    with pytest.raises(ConfigError, match="no 'mien' under 'external'; did you mean 'mine'"):
        run(monkeypatch, "mien")
    with pytest.raises(DataError, match="no such file; run `make repro SCALE="):
        run(monkeypatch, "own_split")
    with pytest.raises(ExternalError) as caught:
        run(monkeypatch, "absent")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("external.absent.model 'nobody/no-such-model'", "HF_HUB_OFFLINE", "hf download nobody/no-such-model", "folder"):
        assert part in message
    with pytest.raises(ExternalError, match=r"external\.no_folder\.model 'artifacts/tiny/exports/mamba-1': no such folder"):
        run(monkeypatch, "no_folder")
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.external.load_model", lambda *_: pytest.fail("the model was loaded first"))
        with pytest.raises(DataError, match=r"external\.no_text\.text, .*corpus\.path 'nowhere'"):
            run(monkeypatch, "no_text")
    (project / "model" / "model.safetensors").unlink()
    with pytest.raises(ExternalError, match=r"external\.mine\.model 'model': the folder has no model that can be read"):
        run(monkeypatch, "mine")
    (project / "model" / "config.json").write_text('{"model_type": "no_such_architecture"}')
    with pytest.raises(ExternalError, match="cannot build it"):
        run(monkeypatch, "mine")


def shortened(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(change):
    return lambda path: path.write_text(json.dumps(change(json.loads(path.read_text()))))


def without_a_weight(path):
    weights = safetensors.load_file(path)
    del weights["model.embed_tokens.weight"]
    safetensors.save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("model.safetensors", shortened, "cannot build it: "),
        ("model.safetensors", lambda path: path.write_bytes(b""), "cannot build it: "),
        ("model.safetensors", lambda path: path.write_bytes(b"garbage" * 99), "cannot build it: "),
        ("model.safetensors", without_a_weight, "1 weights are missing, model.embed_tokens.weight first"),
        ("config.json", shortened, "the folder has no model that can be read: "),
        ("config.json", lambda path: path.write_text("[1]"), "cannot build it: "),
        ("config.json", rewritten(lambda config: config | {"hidden_size": "wide"}), "cannot build it: "),
        ("tokenizer.json", shortened, "cannot build it: "),
        ("tokenizer.json", lambda path: path.unlink(), ""),
    ],
)
def test_a_damaged_model_is_named_in_one_line(project, file, damage, said):
    damage(project / "model" / file)
    load = load_tokenizer if file == "tokenizer.json" else load_model
    with pytest.raises(ExternalError) as caught:
        load("mine", ExternalConfig("model"))
    assert str(caught.value).startswith("external.mine")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_library_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExternalError, match=r"pip install -c constraints.txt -e '\.\[external\]'"):
        load_model("mine", ExternalConfig("model"))
    with pytest.raises(ExternalError, match="need the transformers library"):
        load_tokenizer("mine", ExternalConfig("model"))


@pytest.mark.parametrize("begins", [False, True])
def test_bytes_of_windows_are_those_of_their_text(tokenizer, begins):
    """Characters that several tokens share count once; the token that begins a window is none of its targets."""
    made = _with_start(tokenizer) if begins else tokenizer
    texts = [SENTENCE, SENTENCE * 2]
    ids = [token for text in texts for token in (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)]
    length = 20
    step = length if begins else length + 1
    windows = len(ids) // step
    (found,) = windows_of(texts, made, length, [windows], 320)
    assert found.windows_NL.shape == (windows, length + 1)
    kept = found.windows_NL[:, 1:] if begins else found.windows_NL
    assert kept.reshape(-1).tolist() == ids[: windows * step]
    assert not begins or set(found.windows_NL[:, 0].tolist()) == {tokenizer.bos_token_id}
    (whole,) = windows_of([SENTENCE], _with_start(tokenizer), len(tokenizer(SENTENCE)["input_ids"]), [1], 320)
    assert whole.n_bytes == len(SENTENCE.encode())
    first, second = windows_of(texts, made, length, [2, windows - 2], 320)
    assert first.n_bytes + second.n_bytes == found.n_bytes
    assert torch.equal(torch.cat([x for x, _ in found.batches(3)]), torch.from_numpy(found.windows_NL[:, :-1]))
    with pytest.raises(DataError, match=r"the text has \d+ tokens, and [\d,]+ are needed"):
        windows_of(texts, made, length, [windows + 1], 320)
    with pytest.raises(DataError, match="the model has 10 embeddings"):
        windows_of(texts, made, length, [1], 10)


def _with_start(tokenizer):
    """The same tokenizer, but a text begins with <s>, as Llama's and Gemma's do."""
    other = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    other.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=other, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(
    ("section", "mistakes"),
    [
        ({"dtype": "float64"}, ["external.mine.dtype: "]),
        ({"tokens": 100, "seq_len": 64}, ["external.mine.tokens: 100 are less than two windows of seq_len 64"]),
        (
            {"text": {"source": "local"}, "seq_len": 1, "batch_size": 0, "modle": "x"},
            [
                "unknown key 'external.mine.modle'; did you mean 'model'?",
                "external.mine.text.path: is required where source is 'local'",
                "external.mine.seq_len: must be at least 2",
                "external.mine.batch_size: must be at least 1",
            ],
        ),
        ({"text": {"source": "hub"}}, ["external.mine.text.name: is required where source is 'hub'"]),
        ({"text": {"path": "texts"}}, ["external.mine.text.path: is of source 'local'; set source"]),
        ({"text": {"name": "a/b"}}, ["external.mine.text.name: is of source 'hub'; set source"]),
        ({"extends": "nothing"}, ["external.mine.extends: no 'nothing' under 'external'"]),
    ],
)
def test_mistakes_are_named_all_at_once(section, mistakes):
    raw, _ = parse((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["external"] = {"mine": {"model": "a/b"} | section}
    with pytest.raises(ConfigError) as caught:
        params_from(raw)
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == len(mistakes), said
    for mistake in mistakes:
        assert any(line.startswith(mistake) for line in said), (mistake, said)


def test_code_that_comes_with_a_model_is_not_run(tmp_path, monkeypatch):
    """Not for a yes at the library's question either."""
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(ROOT / "models" / "lolm-tiny", folder)
    for path in folder.glob("*.py"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"\nopen({str(mark)!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ExternalError, match="cannot build it"):
        load_model("mine", ExternalConfig(str(folder)))
    load_tokenizer("mine", ExternalConfig(str(folder)))
    assert not mark.exists()
