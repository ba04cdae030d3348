"""`make gpu` rehearsed on a CPU: all steps without DVC, MLflow and datasets, a kill, and the way back into the project."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from dataclasses import replace

import forks
import pytest
import yaml
from minicorpus import make_texts, write_jsonl
from projects import ROOT, copy_of_project, environment, in_forks, python
from synthetic import write_results

from lolm.config import load_params
from lolm.records import Layout, RecordError, RunKey, read, read_json, sha256_of, write, write_text
from lolm.records.results import load_run
from lolm.records.schema import Evaluation
from pipeline import carried, gpu, gpu_notes
from pipeline.gpu import GPUError, Made, note_of, pieces_of

NO_NAMES: dict[str, list[str]] = {"validation": [], "test": []}
PARAMS = ROOT / "params.yaml"
KEY = RunKey("ladder_6_full", 1)
BLOCKER = """
import sys
lacking = ("dvc", "mlflow", "datasets", "submitit")
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in lacking:
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Blocked())
for name in [name for name in sys.modules if name.split(".")[0] in lacking]:  # a fork has them
    del sys.modules[name]
"""


def test_steps_are_made_of_pieces_that_parts_share_out():
    every = pieces_of("c", [1], rehearse=False)
    assert sum((pieces_of(f"c{i}", [1], rehearse=False) for i in (1, 2, 3)), []) == every
    assert every[0] == "run/20m_gpu/ladder_6_full-1"
    assert len(every) == len(set(every)) == 13
    with pytest.raises(GPUError, match="c1 to c3"):
        pieces_of("c4", [1], rehearse=False)
    with pytest.raises(GPUError, match="no step 'f'"):
        pieces_of("f", [1], rehearse=False)


def test_a_step_ends_with_its_minutes_and_the_next_start_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out, sleeping = tmp_path / "back", {"kernel/linear_scan"}

    def command(piece, *_):
        note, wanted = tmp_path / "made" / f"{piece}.json", note_of(out, piece)
        write(note, Made(piece, "cpu", {}, {}, "", True))
        wait = "sleep 60" if piece in sleeping else "true"
        return ["sh", "-c", f"{wait} && mkdir -p {wanted.parent} && cp {note} {wanted}"]

    monkeypatch.setattr(gpu, "_command", command)
    every = pieces_of("a", [1], rehearse=True)
    start = time.monotonic()
    with pytest.raises(GPUError, match=f"^{len(every) - 1} piece.s. are left; the same command makes"):
        gpu.run_steps(["a"], [1], out, 1, True, minutes=3 / 60)
    assert 3 <= time.monotonic() - start < 40
    said = capsys.readouterr().out
    assert "step a: 6 of 6 pieces to make\n" in said
    assert re.search(r"step a: 0\.\d of 0\.05 minutes, 0\.0 MiB to bring back\n", said)
    assert f"its minutes are used up; left are {', '.join(every[1:])}\n" in said
    assert [piece for piece in every if note_of(out, piece).exists()] == every[:1]
    sleeping.clear()
    gpu.run_steps(["a"], [1], out, 1, True)
    said = capsys.readouterr().out
    assert "step a: 5 of 6 pieces to make\n" in said
    assert " of 9.5 minutes, " in said
    assert all(gpu.is_made(piece, [out]) for piece in every)


KINDS = {"kernel/ssd", "step/smoke/transformers_llama", "run/smoke/lolm-1"}


@pytest.mark.parametrize(
    ("section", "changes", "still"),
    [
        (None, {}, KINDS),
        ("corpus", {}, KINDS - {"run/smoke/lolm-1"}),
        ("evaluation", {"samples": 3}, KINDS - {"run/smoke/lolm-1"}),
        ("training", {"batch_size": 3}, {"kernel/ssd"}),
    ],
)
def test_a_note_counts_where_text_and_parameters_are_those_it_was_made_with(tmp_path, monkeypatch, section, changes, still):
    params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    write_text("params.yaml", yaml.safe_dump(params, sort_keys=False))
    index = Layout("smoke").shards / "index.json"
    write_text(index, "{}")
    monkeypatch.setattr(gpu_notes, "code_of", lambda stage: "code")
    monkeypatch.setattr(gpu_notes, "training_device", lambda: "cpu")
    for piece in KINDS:
        gpu_notes.write_note(tmp_path, piece, True)
    if section == "corpus":
        write_text(index, "[]")
    elif section:
        params["scales"]["smoke"].setdefault(section, {}).update(changes)
        write_text("params.yaml", yaml.safe_dump(params, sort_keys=False))
    assert {piece for piece in KINDS if gpu.is_made(piece, [tmp_path])} == still


def test_what_the_cpu_rehearsed_is_not_made_where_there_is_a_gpu(tmp_path, monkeypatch):
    rehearsed = Made("kernel/ssd", "cpu", {}, {}, "", True)
    for device, found in (("cpu", (True, True)), ("cuda", (False, True))):
        monkeypatch.setattr(gpu_notes, "training_device", lambda device=device: device)
        for note, made in zip((rehearsed, replace(rehearsed, device="NVIDIA H200")), found, strict=True):
            write(note_of(tmp_path, note.piece), note)
            assert gpu.is_made(note.piece, [tmp_path]) == made


def test_every_part_of_a_step_has_minutes_of_its_own():
    parts = {step: gpu.parts_of(step, [1], rehearse=False) for step in (*"abcde", "c2")}
    several = {"b": ["b1", "b2", "b3"], "c": ["c1", "c2", "c3"]}
    assert parts == {step: several.get(step, [step]) for step in parts}
    assert [gpu.parts_of(step, [1], rehearse=True) for step in "abcde"] == [[step] for step in "abcde"]


def test_what_is_too_large_to_bring_back_is_said(tmp_path, monkeypatch):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/a").write_bytes(bytes(3 * 2**20))
    write(note_of(tmp_path, "kernel/ssd"), Made("kernel/ssd", "cpu", {}, {}, "", True, {"reports/a": ""}))
    assert gpu.size_of(["kernel/ssd", "kernel/none"], tmp_path) == "3.0 MiB"
    monkeypatch.setattr(gpu_notes, "MOST", 2 * 2**20)
    assert gpu.size_of(["kernel/ssd"], tmp_path) == "3.0 MiB (more than 2)"


def test_graphs_are_used_where_they_were_found_to_pay(tmp_path):
    note = Made("step/20m_gpu/lolm", "GPU", {}, {}, "", True)
    times = {"eager": {"seconds": {"median": 2.0}}, "graph": {"seconds": {"median": 1.0}}}
    for values, wanted in ((times, True), (times | {"graph": {"skipped": "why"}}, False), ({"eager": times["graph"]}, False)):
        write(note_of(tmp_path, note.piece), replace(note, values=values))
        assert gpu.records_steps("20m_gpu", [tmp_path]) == wanted
    write(note_of(tmp_path, note.piece), replace(note, values=times))
    assert gpu.stage_of("20m_gpu", tmp_path).preset.training.cuda_graph
    compiled = "step/149m_gpu/lolm"
    write(note_of(tmp_path, compiled), replace(note, piece=compiled, values=times))
    assert gpu.records_steps("149m_gpu", [tmp_path])
    assert not gpu.stage_of("149m_gpu", tmp_path).preset.training.cuda_graph, "its blocks are compiled"


def test_an_unknown_step_is_said_before_the_missing_device(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu", "--step", "a", "z"])
    with pytest.raises(GPUError, match="no step 'z'"):
        gpu.run()


def test_one_text_and_tokenizer_are_carried_for_all_scales():
    scales = [load_params().scales[scale] for scale, _ in gpu.RUNS.values()]
    assert len({str((carried.read_of(s.corpus), s.tokenizer, s.shards)) for s in scales}) == 1


def shortened(root):
    """A scale smoke of a few steps on a small text."""
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    smoke = params["scales"]["smoke"]
    source = write_jsonl(root / "texts.jsonl", make_texts())
    smoke["corpus"] = {"source": "local", "path": str(source), "validation_fraction": 0.2, "test_fraction": 0.2} | NO_NAMES
    smoke["tokenizer"] |= {"vocab_size": 400}
    smoke["training"] |= {"steps": 6, "eval_every": 6, "checkpoint_every": 2, "cooldowns": [], "snapshots": [], "warmup_steps": 1}
    smoke["training"] |= {"eval_tokens": 256, "kernels": "reference"}  # in a fresh copy Numba would compile everything anew
    smoke["sweep"] |= {"factors": []}
    smoke["evaluation"] |= {"tokens": 256, "subset_tokens": 256, "samples": 1, "sample_tokens": 4, "prompt_tokens": 8}
    smoke["ablation"] |= {"tokens": 256, "calibration_tokens": 128, "gate_values": [0.0, 1.0], "refit_tokens": 128}
    smoke["ablation"] |= {"refit_validation_tokens": 128, "refit_steps": 1, "fine_tune_steps": 1, "refit_checks": 1}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


@pytest.mark.system
def test_a_rehearsal_is_killed_goes_on_comes_back_and_loads(tmp_path, monkeypatch):
    home, away, back = tmp_path / "home", tmp_path / "away", tmp_path / "back"
    shortened(copy_of_project(home, "docs/", "lolm/corpus/embedded/"))
    said = python(home, "-m", "pipeline.gpu", "--prepare", "--rehearse")
    assert "SHA-256" in said
    shutil.copytree(home, away, ignore=shutil.ignore_patterns("artifacts", "reports", ".scratch"))
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    bare = {"PYTHONPATH": str(tmp_path / "blocked"), "CUDA_VISIBLE_DEVICES": ""}
    assert "no CUDA device" in python(away, "-m", "pipeline.gpu", status=2, **bare)  # a process of its own

    bare, words = in_forks(bare), ("-m", "pipeline.gpu", "--rehearse", "--out", str(back), "--jobs", "2")
    begun = [forks.interpreter(), *words, "--step", "c"]
    first = subprocess.Popen(begun, cwd=away, env=environment(away, begun[0], **bare), start_new_session=True)
    until = time.monotonic() + 60
    while not list((back / "reports").rglob("*-1.json")) and time.monotonic() < until and first.poll() is None:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not read(note_of(back, f"run/smoke/{KEY}"), Made).whole if note_of(back, f"run/smoke/{KEY}").exists() else True
    assert "seconds are over" in python(away, *words, "--step", "c", "--seconds", "0.2", status=2, **bare)
    words += ("--step", "a3", "b", "c", "d", "e")  # of the kernels one: the others are interpreted in tests of their own
    python(away, *words, **bare)
    again = python(away, *words, **bare)
    assert again.count("step ") == again.count(": 0 of ") == 5, again
    kernels = [read(path, Made) for path in (back / "reports/gpu/kernel").glob("*.json")]
    assert len(kernels) == 1
    assert all(note.values["triton"]["exact"] for note in kernels)
    steps = read(note_of(back, "step/smoke/lolm"), Made)
    assert steps.values["eager"]["seconds"]["n"] == 1

    monkeypatch.chdir(home)
    with pytest.raises(GPUError, match="of a rehearsal"):
        gpu.import_records(back, rehearsed=False)
    assert not Layout("smoke", home).train(*KEY).exists()
    assert "records taken over" in python(home, "-m", "pipeline.gpu", "--import", str(back), "--rehearse")
    layout = Layout("smoke", home)
    runs = [load_run(layout, key) for key in layout.recorded_runs()]
    assert {str(run.key) for run in runs} == {f"{arm}-1" for _, arms in gpu.REHEARSED.values() for arm in arms}
    assert all(run.evaluation and run.ablation for run in runs)

    note = read(note_of(back, f"run/smoke/{KEY}"), Made)
    with monkeypatch.context() as patch:
        patch.setattr(gpu_notes, "code_of", lambda stage: "other")
        with pytest.raises(GPUError, match="made by other code of .*sweep"):
            gpu.import_records(back, rehearsed=True)
    write(note_of(back, note.piece), replace(note, software={"torch": "another"}))
    with pytest.raises(GPUError, match="smoke: runs of more than one software"):
        gpu.import_records(back, rehearsed=True)
    write(note_of(back, note.piece), replace(note, files={"../outside": "0"}))
    with pytest.raises(GPUError, match="is no record that came with it"):
        gpu.import_records(back, rehearsed=True)
    write(note_of(back, note.piece), note)
    record = back / Layout("smoke").evaluation(*KEY)
    record.write_text(record.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    with pytest.raises(GPUError, match="changed since its note was written"):
        gpu.import_records(back, rehearsed=True)
    told = read_json(away / "carried" / carried.DIGESTS)
    assert told["scales"] == ["smoke"]


NOTE = Made("run/smoke/lolm-1", "cpu", {}, dict.fromkeys(gpu.STAGES, "other"), "", True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"piece": "run/smo', "not valid JSON"),
        ("[1]", "expected a mapping, got list"),
        ('{"piece": "run/smoke/lolm-1"}', "missing key 'device'"),
        (replace(NOTE, whole="yes"), "whole: expected bool, got str 'yes'"),
        (replace(NOTE, files={"reports/a": 1}), r"files\.reports/a: expected str, got int 1"),
        (replace(NOTE, piece="run/smoke/lolm-2"), "is the note of 'run/smoke/lolm-2'"),
        (replace(NOTE, code={}), "code has to name sweep, train, evaluate, ablate, each; see to ablate, evaluate, sweep, train"),
        (replace(NOTE, code=NOTE.code | {"more": ""}), "see to more"),
    ],
)
def test_a_note_from_elsewhere_is_checked(tmp_path, content, said):
    path = note_of(tmp_path, NOTE.piece)
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="utf-8") if isinstance(content, str) else write(path, content)
    with pytest.raises((GPUError, RecordError), match=said) as caught:
        gpu.import_records(tmp_path, rehearsed=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_that_comes_with_a_measurement_of_another_model_is_refused(tmp_path):
    layout = Layout("smoke", write_results(tmp_path))
    gpu._check_schema(tmp_path, NOTE)
    found = read(layout.evaluation("lolm", 1), Evaluation)
    write(layout.evaluation("lolm", 1), replace(found, fingerprint="0" * 16))
    with pytest.raises(RecordError, match=r"lolm-1/config\.json: not of the model that evaluate measured"):
        gpu._check_schema(tmp_path, NOTE)


def test_a_note_with_a_number_that_is_none_is_refused(tmp_path):
    path = note_of(tmp_path, NOTE.piece)
    write(path, replace(NOTE, values={"seconds": 1.5}))
    path.write_text(path.read_text(encoding="utf-8").replace("1.5", "NaN"), encoding="utf-8")
    with pytest.raises(RecordError, match="run/smoke/lolm-1.json: not valid JSON .NaN is no number of JSON"):
        gpu.import_records(tmp_path, rehearsed=True)


@pytest.mark.parametrize("piece", ["run/smoke", "run/smoke/lolm", "run/smoke/lolm-x", "run/a b/lolm-1", "run/smoke/x/lolm-1"])
def test_a_piece_that_is_no_run_is_named(tmp_path, piece):
    write(note_of(tmp_path, piece), replace(NOTE, piece=piece))
    with pytest.raises(GPUError, match=f"no piece '{piece}'"):
        gpu.import_records(tmp_path, rehearsed=True)


@pytest.mark.parametrize(
    "name",
    ["", ".", "/etc/passwd", "../outside", "reports/smoke/../../x", "reports/tiny/a.json", "params.yaml", "reports/smoke/link"],
)
def test_a_file_outside_the_reports_of_its_scale_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(gpu, "other_code", lambda note: [])
    folder, secret = tmp_path / "back", tmp_path / "secret"
    for path in (secret, folder / "reports/tiny/a.json", folder / "params.yaml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    (folder / "reports/smoke").mkdir()
    (folder / "reports/smoke/link").symlink_to(secret)
    write(note_of(folder, NOTE.piece), replace(NOTE, files={name: sha256_of(secret)}))
    with pytest.raises(GPUError, match=re.escape(f"{name!r} is no record that came with it")):
        gpu.import_records(folder, rehearsed=True)


@pytest.mark.parametrize("way", [3, {"seconds": 2.0}, {"seconds": {}}, {"seconds": {"median": "1"}}])
def test_a_step_without_its_seconds_is_named(tmp_path, way):
    note = Made("step/20m_gpu/lolm", "GPU", {}, {}, "", True, values={"graph": way, "eager": {"seconds": {"median": 1.0}}})
    write(note_of(tmp_path, note.piece), note)
    with pytest.raises(GPUError, match=r"step/20m_gpu/lolm\.json: values have no seconds\.median"):
        gpu.records_steps("20m_gpu", [tmp_path])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ('{"scales": ["smo', "not valid JSON"),
        ('{"scales": ["smoke"], "archive": "0"}', "missing key 'index'"),
        ('{"scales": "smoke", "archive": "0", "index": "0"}', "scales: expected a list, got str 'smoke'"),
        ('{"scales": ["../x"], "archive": "0", "index": "0"}', r"scales\[0\]: '../x' is not made of letters"),
        ('{"scales": ["smoke"], "archive": "0", "index": "0"}', "not the file that carried.json was written for"),
    ],
)
def test_what_is_carried_is_checked(tmp_path, monkeypatch, told, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "carried").mkdir()
    (tmp_path / "carried" / carried.DIGESTS).write_text(told, encoding="utf-8")
    (tmp_path / "carried" / carried.ARCHIVE).write_bytes(b"no archive")
    with pytest.raises((GPUError, RecordError), match=said) as caught:
        carried.unpack(tmp_path / "carried")
    assert "\n" not in str(caught.value)


def test_an_archive_that_leaves_its_folder_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "carried"
    folder.mkdir()
    with tarfile.open(folder / carried.ARCHIVE, "w:xz") as archive:
        archive.addfile(tarfile.TarInfo("../../outside"))
    for _ in range(2):
        write(folder / carried.DIGESTS, carried.Carried(("smoke",), sha256_of(folder / carried.ARCHIVE), "0"))
        with pytest.raises(GPUError, match=r"shards\.tar\.xz: cannot be unpacked"):
            carried.unpack(folder)
        (folder / carried.ARCHIVE).write_bytes((folder / carried.ARCHIVE).read_bytes()[:-20])
    assert not list(tmp_path.rglob("outside"))
