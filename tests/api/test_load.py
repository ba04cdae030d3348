"""A model loaded from a run's folder: what it writes and scores is what its parts say."""

import copy
import math
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import ROOT, make_model, make_run
from minicorpus import make_texts
from rules import RuleModel, certain
from synthetic import keep_weights, write_results, write_weights

import lolm
from lolm.api import DTYPES, LoadedModel, LoadError
from lolm.config import ConfigError
from lolm.corpus.tokenizer import Tokenizer, tokenizer_of, train_tokenizer
from lolm.data.errors import DataError
from lolm.export import export
from lolm.export.pyfunc import Predictor
from lolm.generation import GenerationError, generate
from lolm.interventions import InterventionError, change_site, force_gate
from lolm.records import Layout, RecordError, RunKey, cooldown_path, read, sha256_of, snapshot_path, write, write_json
from lolm.records.schema import RunHeader
from lolm.training.checkpoint import CheckpointError
from pipeline import cli
from pipeline.context import open_run

TEXT = "A fox ran. Ω was its name,\nand 42 its age. " * 3


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    write_results(root, arms=("lolm", "transformer"), seeds=(1,))
    write_weights(root, "lolm", 1)
    return root


@pytest.fixture(scope="module")
def run(project):
    return lolm.load(project / "artifacts/smoke/runs/lolm-1")


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import lolm, sys; assert not {'torch', 'numpy', 'lolm.api'} & set(sys.modules); lolm.load; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = lolm.laod


def test_a_run_comes_with_its_configuration_and_records(project, run):
    header = read(Layout("smoke", project).header("lolm", 1), RunHeader)
    assert run.config == header.run
    assert run.records.header == header
    assert run.records.evaluation.arm == "lolm"
    assert not run.model.training
    assert lolm.load(run.source, dtype=torch.float64).model.embedding.weight.dtype == torch.float64


def test_a_score_is_the_loss_of_a_whole_pass(run):
    scored = run.score(TEXT, window=1000)
    ids = torch.from_numpy(np.concatenate(([run.tokenizer.eos_id], run.tokenizer.encode(TEXT))))
    with torch.no_grad():
        nats = -run.model(ids[None, :-1])[0].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    assert [row.id for row in scored.table] == ids[1:].tolist()
    np.testing.assert_allclose([row.nats for row in scored.table], nats.numpy(), atol=1e-5)
    assert scored.nats_per_token == pytest.approx(float(nats.mean()), abs=1e-5)
    assert scored.bits_per_byte == pytest.approx(float(nats.sum()) / (len(TEXT.encode()) * math.log(2)), rel=1e-5)
    assert all(0 < row.gate < 1 for row in scored.table)


def test_a_long_text_is_read_in_windows_each_behind_the_token_before_it(run):
    size = run.config.training.seq_len
    ids = run.tokenizer.encode(TEXT * 3)
    assert len(ids) > 2 * size
    found = [row.nats for row in run.score(TEXT * 3).table]
    with torch.no_grad():
        x = torch.from_numpy(np.concatenate(([run.tokenizer.eos_id], ids)))
        second = torch.nn.functional.cross_entropy(
            run.model(x[None, size : 2 * size])[0], x[size + 1 : 2 * size + 1], reduction="none"
        )
    np.testing.assert_allclose(found[size : 2 * size], second.numpy(), atol=1e-5)


@pytest.mark.parametrize("known_by", ["shards", "record", "nothing"])
def test_a_run_is_not_opened_beside_data_that_it_was_not_trained_on(project, tmp_path, known_by):
    """A tokenizer of as many pieces, made later of another text, would be read as its own."""
    root = shutil.copytree(project, tmp_path / "project")
    layout = Layout("smoke", root)
    weights, path = layout.weights("lolm", 1), layout.header("lolm", 1)
    header = read(path, RunHeader)
    if known_by != "shards":
        shutil.rmtree(layout.shards)
    if known_by == "record":
        write_json(layout.shards_record, {"checksums": asdict(header.data)})
    assert lolm.load(weights).config == header.run
    write(path, replace(header, data=replace(header.data, train="1" * 64)))
    if known_by == "nothing":
        assert lolm.load(weights).config == header.run
        return
    stage = SimpleNamespace(layout=layout, preset=None)
    place = "shards" if known_by == "shards" else r"shards\.json"
    for opened in (lolm.load, export, lambda _: open_run(stage, RunKey("lolm", 1), "")):
        with pytest.raises(
            CheckpointError, match=rf"runs/lolm-1: was trained on other data than those of [^\n]*/{place}; [^\n]*"
        ):
            opened(weights)
    assert not (layout.artifacts / "exports").exists()


def test_a_tokenizer_made_again_beside_shards_of_the_one_before_is_refused(project, tmp_path):
    layout = Layout("smoke", shutil.copytree(project, tmp_path / "project"))
    weights, run = layout.weights("lolm", 1), read(layout.header("lolm", 1), RunHeader).run
    before = Tokenizer.load(layout.tokenizer)
    path = layout.tokenizer / "tokenizer.model"
    path.write_bytes(train_tokenizer([text[::-1] for text in make_texts().values()], run.vocab_size))
    write_json(layout.tokenizer / "tokenizer.json", {"model_sha256": sha256_of(path)})
    assert Tokenizer.load(layout.tokenizer).pieces != before.pieces
    for opened in (lolm.load, export, lambda _: tokenizer_of(layout, run.vocab_size)):
        with pytest.raises(
            DataError, match=r"smoke/tokenizer: other pieces than those that [^\n]*smoke/shards was written with; "
        ):
            opened(weights)
    shutil.rmtree(
        layout.shards
    )  # as in a project of which weights and tokenizer alone were pulled: nothing says that it is another
    assert lolm.load(weights).config == run
    with pytest.raises(DataError, match=rf"has {run.vocab_size} ids, the model {run.vocab_size + 1}; made after its training"):
        tokenizer_of(layout, run.vocab_size + 1)


def test_held_out_text_is_compared_with_its_checksums_when_it_is_needed(project, tmp_path):
    layout = Layout("smoke", shutil.copytree(project, tmp_path / "project"))
    (shard,) = (layout.shards / "validation").glob("*.bin")
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    damaged = lolm.load(layout.weights("lolm", 1))
    assert damaged.score(TEXT).tokens
    for needs in (lambda: damaged.interventions, lambda: damaged.intervene(TEXT, force_gate(1.0))):
        with pytest.raises(DataError, match="its bytes are not those that were written"):
            needs()


def test_a_text_longer_than_the_held_out_one_is_scored(run):
    text = TEXT * (len(run.held_out) // len(run.tokenizer.encode(TEXT)) + 2)
    tokens = len(run.tokenizer.encode(text))
    assert tokens > len(run.held_out)
    assert run.score(text, window=tokens).tokens == run.intervene(text, "gate=1", window=tokens).changed.tokens == tokens
    with pytest.raises(
        DataError, match=rf"reads another text, which has {len(run.held_out)} tokens, fewer than the {tokens + 1}"
    ):
        run.intervene(text, "latent_resample", window=tokens)


def test_interventions_by_label_and_of_ones_own(run):
    by_label, own = run.intervene(TEXT, "gate=0"), run.intervene(TEXT, force_gate(0.0))
    assert by_label == own
    assert by_label.learned == run.score(TEXT)
    assert by_label.effect == pytest.approx(by_label.changed.nats_per_token - run.score(TEXT).nats_per_token)
    assert by_label.effect != 0
    assert run.intervene(TEXT, "none").effect == 0
    assert run.intervene(TEXT, "latent_resample").effect != run.intervene(TEXT, "latent_mean").effect
    with pytest.raises(LoadError, match=r"no intervention 'latent_men' of this model; .*'latent_mean'"):
        run.intervene(TEXT, "latent_men")


def test_without_held_out_text_what_needs_none_is_there(run):
    alone = LoadedModel("", run.model, run.tokenizer, run.config)
    assert alone.intervene(TEXT, "gate=0").effect == pytest.approx(run.intervene(TEXT, "gate=0").effect)
    assert "latent_mean" not in alone.interventions
    with pytest.raises(InterventionError, match="needs statistics"):
        alone.intervene(TEXT, run.interventions["latent_mean"])


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_losses_and_logits_that_are_not_finite_are_refused(run, temperature):
    broken = LoadedModel("here", copy.deepcopy(run.model), run.tokenizer, run.config)
    with torch.no_grad():
        broken.model.embedding.weight[run.tokenizer.eos_id] = math.nan
    for asked in (broken.score, lambda text: broken.intervene(text, "none")):
        with pytest.raises(LoadError, match=r"^here: the loss of token 0 is nan: damaged weights[^\n]*$"):
            asked(TEXT)
    with pytest.raises(GenerationError, match=r"^the logits of token 1 are not finite: damaged weights[^\n]*$"):
        broken.generate("A fox", temperature=temperature)
    lost = change_site("o", "lost", lambda x, context: x * math.nan)
    with pytest.raises(LoadError, match="the loss of token 0 under lost is nan"):
        run.intervene(TEXT, lost)


def test_a_snapshot_is_loaded_by_its_step(project, run):
    layout, (step, *_) = Layout("smoke", project), run.config.training.snapshot_steps
    earlier, weights = copy.deepcopy(run.model), layout.weights("lolm", 1)
    with torch.no_grad():
        earlier.embedding.weight.mul_(2)
    keep_weights(snapshot_path(weights, step), earlier, layout, run.config)
    found = lolm.load(run.source, step=step)
    assert torch.equal(found.model.embedding.weight, earlier.embedding.weight)
    assert not found.model.training
    assert torch.equal(lolm.load(run.source, step=run.config.training.steps).model.embedding.weight, run.model.embedding.weight)
    last = run.config.training.steps
    with pytest.raises(CheckpointError, match=rf"no weights of step 7; kept are .* {step}, .*{last}; annealed: .*{last}$"):
        lolm.load(run.source, step=7)
    snapshot_path(weights, step).unlink()
    with pytest.raises(CheckpointError, match=rf"step-{step:06d}.safetensors: no such file"):
        lolm.load(run.source, step=step)


def test_the_end_of_an_annealed_copy_is_loaded_by_its_step(run, ended, capsys, monkeypatch, tmp_path):
    end, annealed = ended
    found = lolm.load(run.source, step=end, annealed=True)
    assert torch.equal(found.model.embedding.weight, annealed.embedding.weight)
    last = run.config.training.steps
    assert torch.equal(lolm.load(run.source, step=last, annealed=True).model.embedding.weight, run.model.embedding.weight)
    with pytest.raises(CheckpointError, match="no annealed weights of step 7; kept are those of"):
        lolm.load(run.source, step=7, annealed=True)
    words = ("--step", end, "--annealed")
    written = command(capsys, monkeypatch, "generate", run.source, "A fox", "--tokens", 12, "--seed", 2, *words).out
    assert written == "A fox" + found.generate("A fox", max_tokens=12, seed=2) + "\n"
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    said = command(capsys, monkeypatch, "score", run.source, tmp_path / "text", *words).out
    assert f"{found.score(TEXT).nats_per_token:.4f} nats a token" in said


@pytest.fixture
def ended(project, run):
    """Step and model of an annealed copy whose weights were kept."""
    (end, *_), model = run.config.training.cooldown_steps, copy.deepcopy(run.model)
    with torch.no_grad():
        model.embedding.weight.mul_(3)
    layout = Layout("smoke", project)
    keep_weights(cooldown_path(layout.weights("lolm", 1), end), model, layout, run.config)
    return end, model


def writer(run, ids):
    """A model that writes these ids whatever it is asked, then the first again."""
    follower = dict(zip([run.tokenizer.eos_id, *ids], [*ids, ids[0]], strict=True))
    model = RuleModel(
        run.tokenizer.vocab_size, lambda x: certain(x.clone().apply_(lambda i: follower.get(i, 0)), run.tokenizer.vocab_size)
    )
    return LoadedModel("", model, run.tokenizer, run.config)


def test_characters_of_several_tokens_come_whole_and_stops_end_before_themselves(run):
    ids = run.tokenizer.encode("ab Ω<c")
    assert len(set(ids.tolist())) == len(ids)
    model = writer(run, ids.tolist())
    pieces = list(model.generate("", max_tokens=len(ids), stream=True))
    assert [piece.id for piece in pieces] == ids.tolist()
    assert "".join(piece.text for piece in pieces) == "ab Ω<c"
    assert model.generate("", max_tokens=50, stop="Ω<") == "ab "
    assert model.generate("", max_tokens=50, stop=["<", "b"]) == "a"
    assert model.generate("", max_tokens=50, stop="") == model.generate("", max_tokens=50)
    cut = [i for i, text in enumerate(map(run.tokenizer.texts.__getitem__, ids.tolist())) if text == "Ω".encode()[:1]]
    assert cut, "Ω is no character of the corpus, so it is two bytes"
    assert model.generate("", max_tokens=cut[0] + 1) == "ab \ufffd"


def test_the_end_of_a_document_ends_a_text(run):
    a, eos = run.tokenizer.encode("a").tolist(), run.tokenizer.eos_id
    model = RuleModel(run.tokenizer.vocab_size, lambda x: certain(torch.where(x == eos, a[0], eos), run.tokenizer.vocab_size))
    assert LoadedModel("", model, run.tokenizer, run.config).generate("", max_tokens=9) == "a"


def test_what_is_written_depends_on_the_seed_alone(run):
    text = run.generate("A fox", max_tokens=20, seed=4)
    assert (
        text
        == run.generate("A fox", max_tokens=20, seed=4)
        == "".join(piece.text for piece in run.generate("A fox", max_tokens=20, seed=4, stream=True))
    )
    assert text != run.generate("A fox", max_tokens=20, seed=5)
    with pytest.raises(GenerationError, match="top_p 2"):
        run.generate("A fox", top_p=2, stream=True)
    with pytest.raises(DataError, match="no token"):
        run.score("")


def test_a_folder_that_is_no_run_is_named(project, tmp_path):
    with pytest.raises(LoadError, match=r"nowhere-1: no such folder; a run's weights lie in artifacts/<scale>"):
        lolm.load(tmp_path / "nowhere-1")
    with pytest.raises(LoadError, match="not the folder of a run"):
        lolm.load(project / "reports")
    (project / "artifacts/smoke/runs/transformer-1").mkdir()
    with pytest.raises(CheckpointError, match=r"transformer-1/model\.safetensors: no such file"):
        lolm.load(project / "artifacts/smoke/runs/transformer-1")
    (project / "artifacts/smoke/runs/other-1").mkdir()
    with pytest.raises(RecordError, match=r"train/other-1/config\.json: no such record"):
        lolm.load(project / "artifacts/smoke/runs/other-1")


def command(capsys, monkeypatch, *words, status=0, stdin=None):
    """What the command printed, on both outputs."""
    monkeypatch.setattr(sys, "argv", ["lolm", *map(str, words)])
    if status:
        with pytest.raises(SystemExit) as ended:
            cli.lolm()
        assert ended.value.code == status
    else:
        cli.lolm()
    return capsys.readouterr()


def test_commands_print_what_the_library_says(run, tmp_path, capsys, monkeypatch):
    words = ("generate", run.source, "A fox", "--tokens", 12, "--seed", 2)
    written = command(capsys, monkeypatch, *words).out
    assert written == "A fox" + run.generate("A fox", max_tokens=12, seed=2) + "\n"
    assert command(capsys, monkeypatch, *words, "--gate").out == written  # no terminal
    coloured = command(capsys, monkeypatch, *words, "--gate", "--color").out
    assert coloured.count("\033[38;5;") == sum(
        piece.gate is not None  # the end of a cut character has none
        for piece in run.generate("A fox", max_tokens=12, seed=2, stream=True)
    )
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    scored = run.score(TEXT)
    out = command(capsys, monkeypatch, "score", run.source, tmp_path / "text", "--table").out.splitlines()
    assert out[-1] == f"{scored.tokens} tokens, {scored.nats_per_token:.4f} nats a token, {scored.bits_per_byte:.4f} bits a byte"
    assert [line.split("\t")[0] for line in out[:-1]] == [f"{row.nats:.4f}" for row in scored.table]
    out = command(capsys, monkeypatch, "score", run.source, tmp_path / "text", "--intervention", "gate=1").out
    assert f"{run.intervene(TEXT, 'gate=1').effect:+.4f}" in out


@pytest.mark.parametrize("there", [True, False])
def test_the_first_use_says_that_kernels_are_compiled(run, capsys, monkeypatch, there):
    monkeypatch.setattr("lolm.ops.cpu.compiled.are_compiled", lambda: there)
    said = command(capsys, monkeypatch, "generate", run.source, "a", "--tokens", "1").err
    assert said.count("compiling kernels") == (not there)
    said = command(capsys, monkeypatch, "generate", run.source, "a", "--tokens", "-3", status=2).err
    assert said == "error: max_tokens -3 must be at least 0\n"


def test_a_mistake_is_one_line_and_a_status(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "bytes").write_bytes(b"a\xff")
    for words, says in (
        (("score", run.source, tmp_path / "bytes"), "no UTF-8 text"),
        (("score", run.source, tmp_path / "none"), "No such file"),
        (("generate", tmp_path, "x"), "not the folder of a run"),
        (("generate", run.source, "x", "--top-p", 3), "top_p 3"),
        (("generate", run.source, "x", "--temperature", 1e-40), "temperature 1e-40"),
        (("generate", run.source, "x", "--repetition", 1e308), "repetition_penalty 1e+308"),
        (("generate", run.source, "x", "--seed", 10**20), "seed 100000000000000000000"),
        (("generate", run.source, "x\udcff"), "no Unicode at character 1"),
        (("generate", "", "x"), "not the folder of a run"),
        (("score", run.source, tmp_path), "Is a directory"),
        (("score", run.source, ""), "Is a directory"),
        (("score", run.source, "/dev/null"), "at least one character"),
        (("score", run.source, ROOT / "README.md", "--intervention", ""), "no intervention ''"),
        (("export", tmp_path / "none"), "no folder of a run's weights"),
    ):
        found = command(capsys, monkeypatch, *words, status=2)
        assert found.err.startswith("error: ")
        assert found.err.count("\n") == 1
        assert says in found.err
        assert found.out == ""
    assert "invalid choice: 'wirte'" in command(capsys, monkeypatch, "wirte", status=2).err
    monkeypatch.chdir(ROOT)
    for words, says in ((("--scale", "nope"), "no scale 'nope'"), (("--study", "nope"), "no study 'nope'")):
        assert says in command(capsys, monkeypatch, "report", *words, status=2).err


def test_what_is_nowhere_is_said_with_all_that_the_hub_advises(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(lolm.LolmError, match=r"^nobody/nothing: no such folder, .* set 'HF_HUB_OFFLINE=0'[^\n]*\)$"):
        lolm.load("nobody/nothing")
    assert lolm.one_line(ValueError("word \n" * 100)) == "word " * 60 + " …"


def test_a_device_that_is_not_there_and_a_window_of_nothing_are_refused(run, monkeypatch):
    with pytest.raises(LoadError, match="device 'foo' cannot be used here"):
        lolm.load(run.source, device="foo")
    with pytest.raises(LoadError, match="device 'cuda:99' cannot be used here"):
        lolm.load(run.source, device="cuda:99")
    for window in (0, -1):
        with pytest.raises(LoadError, match=f"window {window} must be at least 1"):
            run.score(TEXT, window=window)
    with pytest.raises(DataError, match="no Unicode at character 4"):
        run.score("A fo\ud800")


PATH, WINDOW = "expected str or os.PathLike, got ", "window: expected int or None, got "
WRONG_TYPES = (
    (lambda run: run.generate(None), "prompt: expected str, got nothing"),
    (lambda run: run.generate(b"x"), "prompt: expected str, got bytes b'x'"),
    (lambda run: run.generate("x", max_tokens="3"), "max_tokens: expected int, got str '3'"),
    (lambda run: run.generate("x", max_tokens=True), "max_tokens: expected int, got bool True"),
    (lambda run: run.generate("x", temperature="hot"), "temperature: expected int or float, got str 'hot'"),
    (lambda run: run.generate("x", top_k=2.5), "top_k: expected int, got float 2.5"),
    (lambda run: run.generate("x", top_p=None), "top_p: expected int or float, got nothing"),
    (lambda run: run.generate("x", repetition_penalty=[1]), "repetition_penalty: expected int or float, got list [1]"),
    (lambda run: run.generate("x", seed=1.0), "seed: expected int or torch.Generator, got float 1.0"),
    (lambda run: run.generate("x", window=2.0), WINDOW + "float 2.0"),
    (lambda run: run.generate("x", stop=3), "stop: expected str or collections.abc.Sequence, got int 3"),
    (lambda run: run.generate("x", stop=["a", b"b"]), "a text of stop: expected str, got bytes b'b'"),
    (lambda run: run.generate("x", stream="yes"), "stream: expected bool, got str 'yes'"),
    (lambda run: run.score(b"x"), "text: expected str, got bytes b'x'"),
    (lambda run: run.score("x", window="3"), WINDOW + "str '3'"),
    (lambda run: run.intervene(None, "none"), "text: expected str, got nothing"),
    (lambda run: run.intervene("x", "none", window=1.5), WINDOW + "float 1.5"),
    (lambda run: run.intervene("x", 3), "intervention: expected str or lolm.interventions.core.Intervention, got int 3"),
    (lambda run: lolm.load(3), "source: " + PATH + "int 3"),
    (lambda run: lolm.load(None), "source: " + PATH + "nothing"),
    (lambda run: lolm.load(run.source, device=1.5), "device: expected str or int or torch.device, got float 1.5"),
    (lambda run: lolm.load(run.source, dtype="bfloat16"), "dtype: expected torch.dtype or None, got str 'bfloat16'"),
    (lambda run: lolm.load(run.source, dtype=torch.int64), f"dtype torch.int64: weights are one of {DTYPES[0]}"),
    (lambda run: lolm.load(run.source, step="last"), "step: expected int or None, got str 'last'"),
    (lambda run: lolm.load(run.source, annealed=1), "annealed: expected bool, got int 1"),
    (lambda run: export(run.source, step=1.5), "step: expected int or None, got float 1.5"),
    (lambda run: export(3), "run: " + PATH + "int 3"),
    (lambda run: export(run.source, to=b"x"), "to: expected str or os.PathLike or None, got bytes b'x'"),
    (lambda run: generate(run.model, [[1]], 2), "prompts_BT: expected torch.Tensor, got list [[1]]"),
    (
        lambda run: generate(run.model, torch.ones(1, 2), 2),
        "prompts are ids of shape (B, T), at least one token each; got",
    ),
)


@pytest.mark.parametrize(("asked", "says"), WRONG_TYPES, ids=[says.partition(",")[0] for _, says in WRONG_TYPES])
def test_an_argument_of_another_type_is_named_in_one_line(run, asked, says):
    with pytest.raises(lolm.LolmError, match=rf"^{re.escape(says)}[^\n]*$"):
        asked(run)


def test_numbers_of_numpy_are_numbers(run):
    given = {"max_tokens": 5, "top_k": 7, "seed": 3, "window": 4}
    of_numpy = {name: np.int64(value) for name, value in given.items()}
    assert run.generate("A fox", **of_numpy, temperature=np.float32(0.5)) == run.generate("A fox", **given, temperature=0.5)
    assert run.score("A fox", window=np.int32(3)) == run.score("A fox", window=3)


def test_doctor_names_what_is_missing(project, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "missing: no params.yaml here" in command(capsys, monkeypatch, "doctor", status=1).out
    monkeypatch.chdir(project)
    (project / "params.yaml").touch()
    out = command(capsys, monkeypatch, "doctor").out
    assert "selective_scan: cpu" in out
    assert "weights: smoke has 1 of the 2 runs" in out


@pytest.fixture(scope="module")
def counted(run):
    """A run whose memory has a fixed number of chunks, four, which no shorter text can be cut into."""
    vocabulary = {"vocab_size": run.tokenizer.vocab_size}
    return LoadedModel("", make_model("lolm_published", **vocabulary), run.tokenizer, make_run("lolm_published", **vocabulary))


@torch.no_grad()
def nats_of(counted, starts):
    """Of ``TEXT`` in windows that start at given tokens, each token read behind the one before it, the last one not at all."""
    ids = torch.from_numpy(np.concatenate(([counted.tokenizer.eos_id], counted.tokenizer.encode(TEXT))))
    ends = [*starts[1:], len(ids) - 1]
    logits = [counted.model(ids[None, a:b])[0] for a, b in zip(starts, ends, strict=True)]
    return float(F.cross_entropy(torch.cat(logits), ids[1:], reduction="sum"))


@pytest.mark.parametrize("rest", range(5))
def test_no_window_is_shorter_than_a_memory_with_a_fixed_number_of_chunks_can_read(counted, rest):
    tokens = len(counted.tokenizer.encode(TEXT))
    window = next(size for size in range(6, tokens) if tokens % size == rest)
    starts = list(range(0, tokens, window))
    nats = nats_of(counted, starts[:-1] if rest in (1, 2, 3) else starts)
    scored = counted.score(TEXT, window=window)
    assert scored.tokens == tokens
    assert scored.nats == pytest.approx(nats, rel=1e-5)
    predictor = object.__new__(Predictor)
    predictor.model, predictor.tokenizer, predictor.length = counted.model, counted.tokenizer, window
    row = predictor._row(TEXT, 0)
    assert row["tokens"] == tokens
    assert row["nats_per_token"] * tokens == pytest.approx(nats, rel=1e-5)


def test_a_text_that_is_too_short_as_a_whole_is_refused(counted):
    for short in (lambda: counted.score("A"), lambda: counted.score(TEXT, window=2), lambda: counted.generate("")):
        with pytest.raises(ConfigError, match=r"memory\.chunks = 4"):
            short()
