"""The recipes of docs/contributing.md, carried out: each block is taken from the page, so that what is written there works."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import yaml

import lolm.config.mixers as declared

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")


def block(name):
    """The code of a recipe, as written on the page."""
    (code,) = re.findall(rf"(?ms)^<!-- recipe: {name} -->\n```\w+\n(.*?)^```", PAGE)
    return code


def run(name, **known):
    """Execute a recipe; returns what it defines."""
    defined = dict(known)
    exec(compile(block(name), f"contributing.md: {name}", "exec"), defined)
    return defined


def module_of(path):
    """A test file as a module of its own."""
    spec = importlib.util.spec_from_file_location("borrowed", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_block(name, folder):
    """A project's params.yaml with a recipe's block added, in a folder; the rest of the file as it is."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, entries in yaml.safe_load(block(name)).items():
        assert not entries.keys() & raw[section].keys()
        raw[section] |= entries
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return path


def test_mixer(monkeypatch):
    """The whole contract of tests/mixers/test_contract.py holds for it, and a stack of it trains."""
    contract = module_of(ROOT / "tests" / "mixers" / "test_contract.py")
    mixers, variants, by_hand = dict(contract.MIXERS), dict(contract.VARIANTS), dict(contract.FLOPS_BY_HAND)
    mixer = run("mixer")["MovingAverage"]
    monkeypatch.setattr(declared, "OPTIONS", dict(declared.OPTIONS))
    monkeypatch.setattr(declared, "NAMES", dict(declared.NAMES))
    lines = {"MIXERS": mixers, "VARIANTS": variants, "FLOPS_BY_HAND": by_hand, "declare": declared.declare}
    run("mixer-lines", **lines, MovingAverage=mixer)
    (name,) = mixers.keys() - contract.MIXERS.keys()
    monkeypatch.setitem(contract.MIXERS, name, mixer)  # the registry itself
    monkeypatch.setitem(contract.VARIANTS, name, variants[name])
    monkeypatch.setitem(contract.FLOPS_BY_HAND, name, by_hand[name])
    contract.test_every_registered_mixer_is_tested()
    for position in (0, 11, 36):
        contract.test_a_token_changes_nothing_before_it(name, position)
    contract.test_no_gradient_flows_from_the_future(name)
    for length in (1, 3, 37):
        contract.test_step_by_step_equals_all_at_once(name, length)
    for d_model, n_heads in ((8, 2), (48, 4)):
        contract.test_parameter_formula_equals_the_count(name, d_model, n_heads)
    contract.test_every_parameter_is_used(name)
    for length in (1, 9):
        contract.test_state_size_equals_the_real_state(name, length)
    contract.test_flops_equal_a_hand_count(name)


def test_study(tmp_path):
    from lolm.config import load_params

    params = load_params(with_block("study", tmp_path))
    (name,) = yaml.safe_load(block("study"))["studies"]
    study = params.select(study=name).selected
    assert study.name == name
    assert study.subject in study.arms
    assert study.baseline in study.arms


@torch.no_grad()
def test_intervention(monkeypatch):
    """By its line and its name it is in the full set of a model that has what it needs, and in no other's."""
    from builders import make_model
    from known_models import TOKENS, fused, seen

    from lolm.interventions import Context, catalogue, full_set, measure
    from lolm.records import RecordError, names

    known = run("intervention")
    line = eval(block("intervention-line"), {"entry": catalogue.entry} | known)
    model, plain = make_model("lolm"), make_model("transformer")
    context = Context(measure(model, [TOKENS]))
    before = [i.name for i in full_set(model, context)]
    stack = [i.name for i in full_set(plain, Context())]
    monkeypatch.setattr(catalogue, "CONTROLS", (*catalogue.CONTROLS, line))
    with pytest.raises(RecordError, match=r"no intervention 'latent_reversed'.*lolm/records/names\.py"):
        full_set(model, context)
    named = run("intervention-name", INTERVENTIONS=names.INTERVENTIONS)["INTERVENTIONS"]
    monkeypatch.setattr(names, "INTERVENTIONS", named)
    assert names.check_intervention("latent_reversed")
    assert [i.name for i in full_set(model, context)] == [*before, "latent_reversed"]
    assert [i.name for i in full_set(plain, Context())] == stack
    branches, s = seen(model), model.streams(TOKENS)
    changed = fused(model, known["reverse_latent"]()) - fused(model, full_set(model, context)[0])
    torch.testing.assert_close(changed, (1 - s.g) * (branches["v"].flip(-1) - branches["v"]), rtol=1e-4, atol=1e-5)


def test_claim(tmp_path):
    """By its one entry it is decided where it was measured, and not run, with the command, where it was not."""
    from synthetic import write_results

    from lolm.claims.decide import decide
    from lolm.records.results import load_results

    entry = run("claim")["ENTRY"]
    results = load_results(write_results(tmp_path / "whole"))
    claim = decide(entry, results, {entry.id: entry})
    accuracies = [run.evaluation.test.accuracy for run in results.of(results.subject)]
    assert claim.verdict == ("holds" if min(accuracies) > 1 / 3 else "fails" if max(accuracies) < 1 / 3 else "inconclusive")
    assert claim.sound.per_seed == tuple(accuracies)
    assert claim.sound.n_seeds == 3
    results = load_results(write_results(tmp_path / "lacking", not_run=["lolm"]))
    claim = decide(entry, results, {entry.id: entry})
    assert claim.verdict == "not run"
    assert "make repro" in claim.needs.command


def test_figure(tmp_path, monkeypatch):
    """By its one entry it is among the pictures, with its table; without its data it is left out."""
    from synthetic import write_results

    from lolm.records.results import load_results
    from lolm.report import figures

    entry = run("figure")["FIGURE"]
    results = load_results(write_results(tmp_path, seeds=(1, 2)))
    monkeypatch.setattr(figures, "FIGURES", (*figures.FIGURES, entry))
    picture = figures.pictures(results)[-1]
    assert picture.name == entry.name
    assert picture.svg.startswith("<svg")
    assert {"arm", "seed", "nats"} <= set(picture.table)
    assert entry not in figures.left_out(results)


def test_arm(tmp_path):
    """By its one block it is resolved at every scale, differs in what the block says alone, and is matched to LOLM."""
    from dataclasses import replace

    from lolm.accounting.resolve import resolve_run
    from lolm.config import load_params
    from lolm.models.build import build_model

    params = load_params(with_block("arm", tmp_path))
    ((arm, said),) = yaml.safe_load(block("arm"))["architectures"].items()
    for scale in ("tiny", "304m"):
        lolm, parent, mine = (resolve_run(params, scale, name, 1) for name in ("lolm", said["extends"], arm))
        gate = replace(parent.architecture.gate, **said["gate"])
        assert mine.architecture == replace(parent.architecture, label=said["label"], gate=gate)
        assert mine.size.d_ff > parent.size.d_ff  # the gate's parameters went there
        with torch.device("meta"):
            count, target = (sum(p.numel() for p in build_model(run).parameters()) for run in (mine, lolm))
        assert abs(count / target - 1) <= params.analysis.parameter_tolerance
