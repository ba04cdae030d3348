"""What is made already is told by what it was made from; code that is accepted as giving the same results counts as the same."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import ArrayStream, make_run
from runs import short_run

from lolm import LolmError
from lolm.config import to_mapping
from lolm.records import FINAL_WEIGHTS, Layout, RunKey, cooldown_path, read, sha256_of, snapshot_path, write, write_text
from lolm.records.schema import DataChecksums, Divergence, Flops, Parameters, RunHeader, Summary
from pipeline import accept, code, identity, train

DATA = DataChecksums("aa", "bb")
KEY = RunKey("lolm", 1)


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """A trained run: its records and its weights, made from the data DATA by the code "old"."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(identity, "data_of", lambda layout: DATA)
    monkeypatch.setattr(identity, "training_device", lambda: "cpu")
    monkeypatch.setattr(identity, "choose_backend", lambda device, asked: "cpu")
    monkeypatch.setattr(code, "code_hash", lambda module, root=Path(): "old")
    identity._file_hash.cache_clear()
    layout, run = Layout("smoke"), make_run("lolm")
    for path in kept(layout):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    header = RunHeader(
        run.name, "LOLM", identity.fingerprint_of_run(run, DATA), run, Parameters(1, 1, {}), Flops(1.0, 3.0, 1.0, {}), 1, 4,
        "cpu", "cpu", DATA, "old",
    )  # fmt: skip
    write(layout.header(*KEY), header)
    write_text(layout.series(*KEY), "")
    write(layout.summary(*KEY), Summary("lolm", 1, 4, 1000, 1.0, 1.0, 0.0, 1, 1.0, 1e-3, 1.0, 1.0, 1.0, 1.0, 0.1))
    return layout


def kept(layout):
    """Files of the run's weights, the final ones first."""
    folder, training = layout.weights(*KEY), make_run("lolm").training
    inside = [snapshot_path(folder, step) for step in training.snapshot_steps]
    return [folder / FINAL_WEIGHTS, *inside, *(cooldown_path(folder, step) for step in training.cooldown_steps)]


def why(layout, **changes):
    return identity.why_train(layout, KEY, replace(make_run("lolm"), **changes))


def test_a_run_that_is_there_is_not_trained_again(layout):
    assert why(layout) is None
    assert identity.why_train(layout, RunKey("lolm", 2), make_run("lolm")) == "no record"


def test_it_says_why_a_run_is_trained_again(layout, monkeypatch):
    run = make_run("lolm")
    longer = replace(run.training, steps=run.training.steps + 1)
    assert why(layout, training=longer) == f"other parameters: training.steps: {run.training.steps} → {run.training.steps + 1}"
    monkeypatch.setattr(identity, "data_of", lambda layout: DataChecksums("aa", "other"))
    assert why(layout) == "other data"
    monkeypatch.setattr(identity, "data_of", lambda layout: DATA)
    monkeypatch.setattr(identity, "choose_backend", lambda device, asked: "reference")
    assert why(layout) == "made on cpu with cpu kernels"
    monkeypatch.setattr(identity, "choose_backend", lambda device, asked: "cpu")
    monkeypatch.setattr(code, "code_hash", lambda module, root=Path(): "new")
    assert "other code" in why(layout)
    monkeypatch.setattr(code, "code_hash", lambda module, root=Path(): "old")
    shutil.rmtree(layout.weights(*KEY))
    assert why(layout) == "no weights"
    for path in (layout.summary, layout.header, layout.series):
        kept = path(*KEY).read_bytes()
        path(*KEY).unlink()
        assert why(layout) == "no record"
        path(*KEY).write_bytes(kept)


def test_a_run_whose_record_cannot_be_read_is_trained_again(layout):
    for path in (layout.header(*KEY), layout.summary(*KEY)):
        kept = path.read_bytes()
        path.write_bytes(kept[:20])
        assert why(layout) == "its record cannot be read"
        path.write_bytes(kept)
    assert why(layout) is None
    write_text(layout.divergence(*KEY), "{")
    assert why(layout) == "its record cannot be read"


@pytest.mark.parametrize("recorded", ["0", "1"])
@pytest.mark.parametrize("digests", [True, False])
def test_weights_that_are_damaged_are_trained_again(layout, monkeypatch, digests, recorded):
    """Also where records alone suffice: they say what the weights are. Without digests a cut file is not known as such."""
    monkeypatch.setenv("LOLM_RECORDED", recorded)
    if digests:
        names = {path.relative_to(layout.weights(*KEY)).as_posix(): sha256_of(path) for path in kept(layout)}
        write(layout.summary(*KEY), replace(read(layout.summary(*KEY), Summary), weights=names))
    assert why(layout) is None
    for path in kept(layout):
        path.unlink()
        assert why(layout) == "weights are not those that were trained"
        path.write_bytes(b"weigh")
        identity._file_hash.cache_clear()
        assert why(layout) == ("weights are not those that were trained" if digests else None)
        path.write_bytes(b"weights")
        identity._file_hash.cache_clear()
    assert why(layout) is None


def test_a_file_of_weights_is_hashed_once(layout, monkeypatch):
    hashed = []
    monkeypatch.setattr(identity, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    names = {path.relative_to(layout.weights(*KEY)).as_posix(): sha256_of(path) for path in kept(layout)}
    write(layout.summary(*KEY), replace(read(layout.summary(*KEY), Summary), weights=names))
    assert why(layout) is why(layout) is None
    identity.weights_hash(layout, KEY)
    assert sorted(hashed) == sorted(kept(layout))


def test_accepted_code_is_the_same_code(layout, monkeypatch):
    write_text(code.GOLDEN, '{"history": ["first"], "losses": {"lolm": {"/loss/0": 1.5}}}')
    monkeypatch.setattr(code, "code_hash", lambda module, root=Path(): "new")
    fingerprint = identity.fingerprint_of_run(make_run("lolm"), DATA)
    listed = accept.accepted(None, code.golden_hashes(), {"train": "new"}, ["old"], "abc", "a comment")
    write(code.ACCEPTED, listed)
    assert why(layout) is None
    assert code.code_of("train") == "old", "a run made now is called as before the refactor"
    assert identity.fingerprint_of_run(make_run("lolm"), DATA) == read(layout.header(*KEY), RunHeader).fingerprint != fingerprint
    write_text(code.GOLDEN, '{"history": ["second"], "losses": {"lolm": {"/loss/0": 1.5}, "new": {"/loss/0": 2.5}}}')
    assert why(layout) is None, "a golden that is new changes none"
    for changed in ('{"losses": {"lolm": {"/loss/0": 1.25}}}', '{"losses": {"new": {"/loss/0": 2.5}}}', "{}"):
        write_text(code.GOLDEN, changed)
        assert "other code" in why(layout), "with another golden nothing is accepted"
    code.GOLDEN.unlink()
    assert "other code" in why(layout)
    write_text(code.GOLDEN, "[]")
    with pytest.raises(LolmError, match="golden.json: broken .*git checkout tests/golden/golden.json"):
        why(layout)


def test_the_list_grows_by_the_present_code_and_begins_anew_with_the_goldens():
    g1, g2 = {"losses/lolm": "1"}, {"losses/lolm": "2"}
    first = accept.accepted(None, g1, {"train": "b", "sweep": "s"}, ["a", "a"], "c1", "why 1")
    assert [(version.code, version.commit) for version in first.stages["train"]] == [("a", ""), ("b", "c1")]
    assert [version.code for version in first.stages["sweep"]] == ["s"]
    assert accept.accepted(first, g1, {"train": "b", "sweep": "s"}, ["x"], "c2", "why 2") == first
    second = accept.accepted(first, g1 | {"losses/new": "3"}, {"train": "c"}, ["x"], "c2", "why 2")
    assert [version.code for version in second.stages["train"]] == ["a", "b", "c"]
    assert second.golden == g1 | {"losses/new": "3"}
    assert (second.stages["train"][-1].why, second.stages["sweep"]) == ("why 2", first.stages["sweep"])
    third = accept.accepted(second, g2 | {"losses/new": "3"}, {"train": "d"}, ["x"], "c3", "why 3")
    assert {stage: [version.code for version in versions] for stage, versions in third.stages.items()} == {"train": ["d"]}


@pytest.mark.parametrize(("loss", "words"), [(1.5, []), (2.5, ["--pages"])])
def test_after_a_change_of_goldens_the_lock_is_told_of_pages_alone(layout, monkeypatch, capsys, loss, words):
    write_text(code.GOLDEN, '{"losses": {"lolm": 1.5}}')
    write(code.ACCEPTED, accept.accepted(None, code.golden_hashes(), {"train": "old"}, ["old"], "abc", "a comment"))
    write_text(code.GOLDEN, f'{{"losses": {{"lolm": {loss}, "new": 0.5}}}}')
    write_text(accept.LOCK, "stages:\n  train@smoke:\n    cmd: python -m pipeline.train --scale smoke --study smoke\n")
    asked = []
    run = lambda words, **options: asked.append(words) or SimpleNamespace(returncode=0, stdout="")  # noqa: E731
    monkeypatch.setattr(accept.subprocess, "run", run)
    for name in ("write_beside", "hold_goldens"):
        monkeypatch.setattr(accept, name, lambda: None)
    monkeypatch.setattr("sys.argv", ["accept"])
    accept.accept()
    assert asked[-1][1:] == ["-m", "pipeline.accept", "--scale", "smoke", "--study", "smoke", *words]
    assert ("golden numbers have changed" in capsys.readouterr().out) == bool(words)


def test_goldens_that_do_not_hold_accept_nothing(layout, monkeypatch):
    write_text("tests/golden/test_fails.py", "def test_golden():\n    assert False\n")
    monkeypatch.setattr("sys.argv", ["accept"])
    with pytest.raises(accept.AcceptError, match="does not give the same results"):
        accept.accept()
    assert not code.ACCEPTED.exists()


def test_a_run_that_diverged_is_not_tried_again_until_something_changes(layout, monkeypatch):
    fingerprint = read(layout.header(*KEY), RunHeader).fingerprint
    write(layout.divergence(*KEY), Divergence(*KEY, "lolm", fingerprint, step=3, reason="loss = nan"))
    assert why(layout) is None
    run = make_run("lolm")
    assert "it diverged" in why(layout, size=replace(run.size, learning_rate=run.size.learning_rate / 2))


def test_a_divergence_says_of_what_run_it_is(layout):
    header = read(layout.header(*KEY), RunHeader)
    places = (layout.evaluation, layout.text_losses, layout.ablation, layout.layers, layout.downstream, layout.metrics)
    for place in (*places, layout.recall):
        for seed in (1, 2):
            write_text(place("lolm", seed), "")
    train.record_divergence(layout, KEY, header, 3, "loss = nan")
    assert read(layout.divergence(*KEY), Divergence).header == header
    assert why(layout) is None
    left = [place(*KEY) for place in (*places, layout.recall) if place(*KEY).exists()]
    assert left == [layout.recall(*KEY)], "of a model of its own"
    assert all(place("lolm", 2).exists() for place in places)


class Text(ArrayStream):
    checksum = "aa"

    def verify(self):
        pass


@pytest.mark.parametrize(("force", "again"), [("", False), ("0", False), ("1", True)])
def test_a_run_that_has_just_ended_is_trained_again_if_all_is_to_be(tmp_path, monkeypatch, capsys, force, again):
    """Its scratch folder is there still, marked, so that a kill before DVC has recorded it costs nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.TokenStream, "open", lambda folder, split: Text())
    monkeypatch.setattr(train, "try_sync", lambda folder: None)
    monkeypatch.setattr(identity, "data_of", lambda layout: DATA)
    layout, run = (
        Layout("smoke"),
        short_run("transformer", training={"steps": 3, "threads": 0, "eval_tokens": 48, "snapshots": ()}),
    )
    trained = []
    for said in ("", force):
        monkeypatch.setenv("LOLM_FORCE", said)
        train._train(layout, RunKey("transformer", 1), run, "cpu")
        trained.append("was finished already" not in capsys.readouterr().err)
    assert trained == [True, again]
    assert read(layout.summary("transformer", 1), Summary).step == 3


def test_a_measurement_is_of_its_run_and_of_its_inputs(layout):
    path, fingerprint = layout.evaluation(*KEY), read(layout.header(*KEY), RunHeader).fingerprint
    ask = lambda inputs: identity.measured_from(layout, KEY, path, identity.Identity, inputs)  # noqa: E731
    assert ask("x") == "no record"
    write(path, identity.Identity(*KEY, "lolm", fingerprint, inputs="x"))
    assert ask("x") is None
    assert ask("y") == "other settings, weights, data or code"
    write(path, identity.Identity(*KEY, "lolm", "another", inputs="x"))
    assert ask("x") == "of another run"


def test_records_alone_suffice_where_it_is_said(layout, monkeypatch):
    """Of a run that is whole and of the present parameters and code; with its weights it is judged as ever."""
    evaluation, fingerprint = layout.evaluation(*KEY), read(layout.header(*KEY), RunHeader).fingerprint
    trained = lambda: identity.why_train(layout, KEY, make_run("lolm"), [evaluation])  # noqa: E731
    measured = lambda: identity.measured_from(layout, KEY, evaluation, identity.Identity, "y")  # noqa: E731
    monkeypatch.setenv("LOLM_RECORDED", "1")
    write(evaluation, identity.Identity(*KEY, "lolm", fingerprint, inputs="x"))
    assert trained() is None
    assert measured() == "other settings, weights, data or code"
    shutil.rmtree(layout.weights(*KEY))
    assert trained() is None
    assert measured() is None
    write(evaluation, identity.Identity(*KEY, "lolm", "another", inputs="x"))
    assert trained() == f"no weights to make {evaluation.as_posix()} with"
    assert measured() == "of another run"
    evaluation.unlink()
    assert trained() == f"no weights to make {evaluation.as_posix()} with"
    assert measured() == "no record"
    assert why(layout) is None  # nothing is asked to be measured
    monkeypatch.setattr(code, "code_hash", lambda module, root=Path(): "new")
    assert "other code" in trained()
    monkeypatch.setenv("LOLM_RECORDED", "0")
    monkeypatch.setattr(code, "code_hash", lambda module, root=Path(): "old")
    assert trained() == "no weights"


def test_inputs_follow_settings_weights_and_code(layout, monkeypatch):
    run = make_run("lolm")
    known = {identity.inputs_of("evaluate", run, "a"), identity.inputs_of("evaluate", run, "b")}
    known.add(identity.inputs_of("evaluate", replace(run, seed=9), "a"))
    assert identity.inputs_of("evaluate", run, "a") in known
    monkeypatch.setattr(code, "code_hash", lambda module, root=Path(): "new")
    known.add(identity.inputs_of("evaluate", run, "a"))
    assert len(known) == 4
    before = identity.weights_hash(layout, KEY)
    identity._file_hash.cache_clear()
    (layout.weights(*KEY) / FINAL_WEIGHTS).write_bytes(b"others")
    assert identity.weights_hash(layout, KEY) != before


def test_differences_name_the_settings():
    old = to_mapping(make_run("lolm"))
    new = deepcopy(old)
    new["size"]["d_model"] = 99
    del new["training"]["clip"]
    assert identity.differences(old, new) == [
        f"size.d_model: {old['size']['d_model']} → 99",
        f"training.clip: {old['training']['clip']} → None",
    ]


def test_studies_in_a_lock(tmp_path):
    lock = tmp_path / "dvc.lock"
    assert accept.studies_in(lock) == []
    lines = ["schema: '2.0'", "stages:"]
    for stage, cmd in (("corpus@tiny", "corpus --scale tiny"), ("train@tiny", "train --scale tiny --study main")):
        lines += [f"  {stage}:", f"    cmd: python -m pipeline.{cmd}"]
    lines += ["  report@nano-sizes:", "    cmd: python -m pipeline.report --scale nano --study sizes", ""]
    lock.write_text("\n".join(lines), encoding="utf-8")
    assert accept.studies_in(lock) == [("nano", "sizes"), ("tiny", "main")]


def test_text_that_is_not_there_is_named(layout):
    with pytest.raises(LolmError, match=r"tokenizer/tokenizer\.model: is not there; run `make repro SCALE="):
        identity.text_hashes(layout)
