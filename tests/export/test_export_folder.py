"""A run as a folder: loaded without this project, back again, its card, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError

transformers = pytest.importorskip("transformers")

from builders import make_model, make_run  # noqa: E402
from minicorpus import make_texts  # noqa: E402
from synthetic import write_results  # noqa: E402

import lolm  # noqa: E402
from lolm.corpus.tokenizer import Tokenizer, train_tokenizer  # noqa: E402
from lolm.export import ExportError, export, is_export, open_export  # noqa: E402
from lolm.export.folder import card_of, write_model  # noqa: E402
from lolm.models.build import build_model  # noqa: E402
from lolm.objectives import build_heads  # noqa: E402
from lolm.records import Layout, RecordError, read, read_json, read_rows, sha256_of, to_record, write_json  # noqa: E402
from lolm.records.layout import cooldown_path, snapshot_path  # noqa: E402
from lolm.records.schema import Evaluation, RunHeader  # noqa: E402
from lolm.source import flat_modules  # noqa: E402
from lolm.training.checkpoint import CheckpointError, save_weights  # noqa: E402

# What a stranger runs: the library, and none of this project or of what it alone needs.
STRANGER = """
import json, sys
sys.modules.update(dict.fromkeys(("lolm", "pipeline", "numba", "sentencepiece", "triton")))
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
folder, again = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
ids = tokenizer("the river and the mountain", return_tensors="pt").input_ids
two = torch.cat((ids, ids.flip(1)))
ones = torch.ones_like(two)
options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": ones}
greedy, full = (model.generate(two, use_cache=cache, **options) for cache in (True, False))
beams, full_beams = (model.generate(two, use_cache=cache, num_beams=3, **options) for cache in (True, False))
torch.manual_seed(0)
fresh = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
model.save_pretrained(again), tokenizer.save_pretrained(again)
back = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
with torch.no_grad():
    logits, same = model(ids).logits, torch.equal(model(ids).logits, back(ids).logits)
    padded = model(torch.cat((two, two[:, :2]), 1), attention_mask=torch.cat((ones, 0 * ones[:, :2]), 1)).logits
    loss = float(model(ids, labels=ids).loss)
expected = float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]))
try:
    model.generate(two, max_new_tokens=2, attention_mask=torch.cat((0 * ones[:, :2], ones[:, 2:]), 1))
except ValueError as error:
    refused = str(error)
print(json.dumps({
    "ids": ids.tolist(), "logits": logits.tolist(), "generation": torch.equal(greedy, full),
    "beams": torch.equal(beams, full_beams),
    "same": same, "padded": float((padded[:, : two.shape[1]] - model(two).logits).abs().max()), "loss": loss - expected,
    "refused": refused, "class": type(model).__name__, "std": float(fresh.get_input_embeddings().weight.std()),
    "tied": sum(p.numel() for p in model.parameters()), "modules": sorted(m for m in sys.modules if m.startswith("lolm.")),
}))
"""


def project(root, *arms):
    """A project with records of made-up runs, a tokenizer, and untrained weights."""
    write_results(root, arms=arms, seeds=(1,))
    layout = Layout("smoke", root)
    layout.tokenizer.mkdir(parents=True)
    lines = [line for text in make_texts(300).values() for line in text.split("\n")]
    run = read(layout.header(arms[0], 1), RunHeader).run
    (layout.tokenizer / "tokenizer.model").write_bytes(train_tokenizer(lines, run.vocab_size))
    write_json(layout.tokenizer / "tokenizer.json", {"model_sha256": sha256_of(layout.tokenizer / "tokenizer.model")})
    splits, sources = (
        {"train": {"documents": 9, "bytes": 2_000_000}},
        {"songs": {"train_documents": 9}, "unread": {"test_documents": 1}},
    )
    licences = [{"licence": "CC0", "documents": 10}]
    header = read(layout.header(arms[0], 1), RunHeader)
    said = {"id": "twice", "group": "gate", "source": "a paper", "sound": {"shown": "1.5×"}, "published": [1], "verdict": "fails"}
    this = [{"name": header.name, "fingerprint": header.fingerprint}]
    claims = [said | {"statement": "Twice.", "runs": this}, said | {"statement": "Of another.", "runs": []}]
    claims.append(said | {"statement": "Undecided.", "runs": this, "verdict": "not run"})
    write_json(layout.reports / "claims.json", claims)
    write_json(layout.corpus_record, {"splits": splits, "sources": sources, "licences": licences})
    for arm in arms:
        run = read(layout.header(arm, 1), RunHeader).run
        heads = build_heads(run.architecture, run.size)
        save_weights(layout.weights(arm, 1) / "model.safetensors", build_model(run), heads)
    return layout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Exports of LOLM and of a Jamba."""
    layout = project(tmp_path_factory.mktemp("project"), "lolm", "jamba", "samba")
    return layout, {arm: export(layout.weights(arm, 1)) for arm in ("lolm", "jamba")}


def test_a_stranger_loads_it(made, tmp_path):
    folder = made[1]["lolm"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    environment |= {"OMP_NUM_THREADS": "1"}  # as this process has: bits of a matrix product depend on it
    command = [sys.executable, "-P", "-c", STRANGER, str(folder), str(tmp_path / "again")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ours, tokenizer, header = open_export(folder)
    for module in ours.modules():
        if hasattr(module, "kernels"):
            module.kernels = "reference"
    ids = torch.tensor(found["ids"])
    assert ids[0].tolist() == tokenizer.encode("the river and the mountain").tolist()
    with torch.no_grad():
        assert torch.equal(torch.tensor(found["logits"]), ours(ids))
    assert found["generation"]
    assert found["beams"]
    assert found["same"]
    assert found["padded"] <= 1e-5
    assert abs(found["loss"]) < 1e-5
    assert "give texts of one length together" in found["refused"]
    assert found["std"] == pytest.approx(0.02, rel=0.05)  # a new model begins as the recipe says
    assert found["tied"] == sum(p.numel() for p in ours.parameters())
    assert found["modules"] == []
    assert header.run.arm == "lolm"


@pytest.mark.parametrize("arm", ["lolm", "jamba"])
def test_back_again(made, arm):
    layout, folders = made
    model, tokenizer, header = open_export(folders[arm])
    run = read(layout.header(arm, 1), RunHeader)
    assert to_record(header).items() >= to_record(run).items()
    assert not model.training
    assert tokenizer.pieces == Tokenizer.load(layout.tokenizer).pieces
    from lolm.training.checkpoint import load_run

    trained = load_run(layout.train(arm, 1), layout.weights(arm, 1)).model
    scaled = [name for name, _ in model.named_parameters() if arm == "jamba" and "x_proj" in name]
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=2**-23 if name in scaled else 0, atol=0)


def test_load_and_the_command(made, tmp_path, monkeypatch, capsys):
    from pipeline import cli

    layout, folders = made
    settings = {"prompt": "the river", "max_tokens": 8, "seed": 3}
    for arm, folder in folders.items():
        run, exported = lolm.load(layout.weights(arm, 1)), lolm.load(folder)
        assert exported.generate(**settings) == run.generate(**settings)
        assert exported.score("the mountain").nats == pytest.approx(run.score("the mountain").nats, abs=1e-5)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file: folders["jamba"] / file)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: folders["jamba"])
    assert lolm.load("someone/jamba").config.arm == "jamba"
    monkeypatch.setattr(sys, "argv", ["lolm", "export", str(layout.weights("jamba", 1)), "--to", str(tmp_path / "jamba")])
    cli.lolm()
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "jamba")]
    assert is_export(tmp_path / "jamba")
    monkeypatch.setattr(sys, "argv", ["lolm", "export", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.lolm()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_what_a_file_lacks_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    write_model(tmp_path, make_model("samba"), make_run("samba"))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.embedding.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks some that this architecture has"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)


def test_weights_of_another_step(made, tmp_path, monkeypatch, capsys):
    from pipeline import cli

    layout, _ = made
    weights, header = layout.weights("lolm", 1), read(layout.header("lolm", 1), RunHeader)
    run, heads = header.run, build_heads(header.run.architecture, header.run.size)
    end = run.training.cooldown_steps[0]
    inside = next(step for step in run.training.snapshot_steps if step % 20 == 0)  # where the made-up series has a validation
    for path, seed in ((snapshot_path(weights, inside), 1), (cooldown_path(weights, end), 2)):
        torch.manual_seed(seed)
        save_weights(path, build_model(run), heads)
    evaluation, found = read(layout.evaluation("lolm", 1), Evaluation), {}
    for step, words in ((inside, ()), (end, ("--annealed",))):
        monkeypatch.setattr(sys, "argv", ["lolm", "export", str(weights), "--step", str(step), *words])
        cli.lolm()
        folder = Path(capsys.readouterr().out.strip())
        assert folder.name == f"lolm-1-{'annealed' if words else 'step'}-{step}"
        ours, theirs = lolm.load(weights, step=step, annealed=bool(words)), lolm.load(folder, step=step, annealed=bool(words))
        assert torch.equal(ours.model.embedding.weight, theirs.model.embedding.weight)
        found[step] = (folder / "README.md").read_text()
        assert found[step] == card_of(folder, layout.root)
        assert f"{evaluation.test.nats:.4f}" not in found[step]
        assert "not of these weights alone" in found[step]
        with pytest.raises(lolm.LolmError, match=f"this one of {'an annealed copy that ended at ' if words else ''}step {step};"):
            lolm.load(folder, step=run.training.steps)
        with pytest.raises(lolm.LolmError, match=r"an export has weights of one step, this one of [^\n]*; load the run's own"):
            lolm.load(folder, step=step, annealed=not words)
    rows = {row["step"]: row for row in read_rows(layout.series("lolm", 1)) if "val/nats" in row}
    assert f"seed 1, after step {inside} of {run.training.steps}\n" in found[inside]
    assert f"| validation, the part scored in training | {rows[inside]['val/nats']:.4f} |" in found[inside]
    assert f"seed 1, annealed to an end at step {end} of {run.training.steps}\n" in found[end]
    assert export(weights, step=run.training.steps).name == "lolm-1"
    with pytest.raises(CheckpointError, match="no weights of step 7; kept are those of"):
        export(weights, step=7)


def test_card(made):
    layout, folders = made
    card = (folders["lolm"] / "README.md").read_text()
    evaluation = json.loads(layout.evaluation("lolm", 1).read_text())
    assert card.startswith("---\nlicense: mit\n")
    assert f"{evaluation['test']['nats']:.4f} (95 %: " in card
    assert "trust_remote_code=True" in card
    assert "it has the streams of LOLM" in card
    assert "`" + "1" * 16 + "`" in card
    assert "9 documents, 2 MB: 9 of `songs` |" in card
    assert "CC0 (10)" in card
    assert "| Twice. | 1.5× | fails |" in card
    assert "Of another." not in card
    assert "Undecided." not in card
    other = (folders["jamba"] / "README.md").read_text()
    assert "`JambaForCausalLM`" in other
    assert "No published claim has been decided with it." in other
    assert "trust_remote_code" not in other
    assert all(len(line) <= 400 for line in card.splitlines())
    assert "{{" not in card + other


def test_code_is_closed():
    """Every name that a file imports from the folder is made there, and nothing of this project is asked for."""
    modules = flat_modules("lolm.export.modeling_lolm")
    assert {"configuration_lolm.py", "modeling_lolm.py", "lolm_models_lolm.py"} <= set(modules)
    for name, source in modules.items():
        compile(source, name, "exec")
        lines = [line.strip() for line in source.splitlines()]
        assert not [line for line in lines if line.startswith(("from lolm", "import lolm"))]
        assert {f"{line.split()[1][1:]}.py" for line in lines if line.startswith("from .")} <= set(modules)


def test_folders_that_are_refused(made, tmp_path, monkeypatch):
    layout, folders = made
    weights = layout.weights("jamba", 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ExportError, match="mine: is there and is no export"):
        export(weights, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    cloned = shutil.copytree(folders["jamba"], tmp_path / "cloned")
    (cloned / ".git").mkdir()
    (cloned / "notes.md").write_text("mine")
    with pytest.raises(ExportError, match=r"cloned: beside an export there is \.git, notes\.md, which would be deleted"):
        export(weights, cloned)
    assert (cloned / "notes.md").read_text() == "mine"
    monkeypatch.chdir(tmp_path / "mine")
    for here in (".", "", "..", tmp_path):
        with pytest.raises(ExportError, match="is the current folder or one around it"):
            export(weights, here)
    for arm, folder in folders.items():  # one of the library's classes, one with its code
        before = {path.name: sha256_of(path) for path in folder.iterdir()}
        assert export(layout.weights(arm, 1)) == folder  # an earlier export is replaced, by the same bytes
        assert {path.name: sha256_of(path) for path in folder.iterdir()} == before
    with pytest.raises(ExportError, match="no folder of a run's weights"):
        export(tmp_path / "mine")
    with pytest.raises(ExportError, match=r"has no lolm\.json"):
        open_export(tmp_path / "mine")
    stray = tmp_path / "artifacts" / "smoke" / "runs" / "lolm-9"
    stray.mkdir(parents=True)
    with pytest.raises(RecordError, match="no such record"):
        export(stray)
    assert not (tmp_path / "artifacts" / "smoke" / "exports").exists()


@pytest.mark.parametrize("arm", ["lolm", "jamba"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "sentencepiece.model"])
@pytest.mark.parametrize("content", [None, b"", b"[1]", b"{}", 0.5])
def test_a_damaged_export_is_named_in_one_line(made, tmp_path, arm, file, content):
    """Missing, empty, of another kind, cut."""
    broken = tmp_path / "broken"
    shutil.copytree(made[1][arm], broken)
    whole = (broken / file).read_bytes()
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    assert is_export(broken)
    with pytest.raises(
        ExportError,
        match=r"^[^\n]*broken: cannot be read as a whole export [^\n]*; export the run again, or copy the folder anew$",
    ):
        open_export(broken)


@pytest.mark.parametrize("file", ["model.safetensors", "sentencepiece.model", "tokenizer.json", "tokenizer_config.json"])
def test_a_flipped_bit_is_named_and_an_export_without_digests_loads(made, tmp_path, file):
    broken = tmp_path / "broken"
    shutil.copytree(made[1]["lolm"], broken)
    content = bytearray((broken / file).read_bytes())
    content[-1 - min(1000, len(content) // 2)] ^= 1
    (broken / file).write_bytes(content)
    with pytest.raises(
        ExportError, match=rf"^[^\n]*broken: [^\n]*not the bytes that were written: {file}\); export the run again"
    ):
        lolm.load(broken)
    older = {name: value for name, value in read_json(broken / "lolm.json").items() if name not in ("sha256", "settings")}
    shutil.copytree(made[1]["lolm"], broken, dirs_exist_ok=True)
    write_json(broken / "lolm.json", older)
    assert open_export(broken)[2].sha256 == {}


def test_another_setting_in_the_description_is_named(made, tmp_path):
    shutil.copytree(made[1]["lolm"], broken := tmp_path / "broken")
    header = read_json(broken / "lolm.json")
    header["run"]["architecture"]["gate"]["bias"] += 1
    write_json(broken / "lolm.json", header)
    with pytest.raises(ExportError, match=r"written: lolm\.json\)"):
        open_export(broken)


def test_a_model_on_the_hub_that_is_no_export_is_not_downloaded(monkeypatch):
    def lacking(name, file):
        raise EntryNotFoundError(f"no {file}")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lacking)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: pytest.fail("all of it was downloaded"))
    with pytest.raises(
        ExportError, match=r"someone/llama: no such folder, and the model of that name on the hub has no lolm\.json"
    ):
        lolm.load("someone/llama")
