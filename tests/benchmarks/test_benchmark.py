"""The numbers of the benchmark are right: ratios, slopes, operations, bytes, memory. Nothing here asks how fast anything is."""

import importlib
import importlib.util
import json
from contextlib import ExitStack, suppress

import pytest
import torch
from builders import PARAMS, make_model
from rules import RuleModel, certain
from synthetic import Truth, write_results

from benchmarks import PARTS, BenchmarkError, Settings, benchmark
from benchmarks.generation import PEERS, peer_of, steps_from, whole_pass
from benchmarks.machine import bandwidth
from benchmarks.peers import llama_of, mamba2_pair, mamba_pair
from benchmarks.processes import side, startup
from benchmarks.scan import (
    bounds,
    memory_growth,
    own_scan,
    parallel_scan,
    saved_tensors,
    scan_bytes,
    scan_inputs,
    scan_memory,
    scan_operations,
)
from benchmarks.settings import widened
from benchmarks.steps import Stepper, steps
from benchmarks.text import corpus_slice, own_job, peer_job, size_of, trained_peer
from benchmarks.timing import Part, Timer, Unavailable, interleave, ratios, slope, slopes, summary, threads
from lolm.accounting.count import account_run
from lolm.corpus.tokenizer import Tokenizer, sample_lines, train_tokenizer
from lolm.models.build import build_model

QUICK = Settings.quick(PARAMS, "smoke", ("lolm", "transformer"))


class Clock:
    """Stands still until a call lets it go on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_timer_gives_the_median_of_its_calls():
    clock, lasting = Clock(), iter([1.0, 9.0, 2.0])

    def call():
        clock.now += next(lasting)

    assert Timer(clock)(call, 3) == 2.0


def test_things_are_measured_in_turn_and_ratios_taken_within_a_round():
    order = []

    def measure(name, values):
        left = iter(values)
        return lambda: order.append(name) or next(left)

    # The machine is ten times as slow in the second round; the ratio does not see it.
    a, b = measure("a", [2.0, 20.0, 2.0]), measure("b", [1.0, 10.0, 1.0])
    rare = measure("rare", [5.0])
    parts = {"x": Part({"a": a, "b": b}, dict), "y": Part({"rare": rare}, dict, most=1)}
    samples, reasons = interleave(parts, 3)
    assert order == ["a", "b", "rare", "a", "b", "a", "b"]
    assert samples == {"x": {"a": [2.0, 20.0, 2.0], "b": [1.0, 10.0, 1.0]}, "y": {"rare": [5.0]}}
    assert not reasons
    assert summary(ratios(samples["x"]["a"], samples["x"]["b"])) == {"median": 2, "low": 2, "high": 2, "n": 3}


def test_a_part_that_fails_is_left_out_with_its_reason():
    def fails():
        raise Unavailable("no such program")

    samples, reasons = interleave({"bad": Part({"m": fails}, dict), "good": Part({"m": lambda: 1.0}, dict)}, 2)
    assert samples == {"good": {"m": [1.0, 1.0]}}
    assert reasons == {"bad": "no such program"}


def test_summary_by_hand():
    assert summary([5.0, 1.0, 2.0, 3.0, 4.0]) == {"median": 3.0, "low": 2.0, "high": 4.0, "n": 5}
    with pytest.raises(BenchmarkError, match="nothing was measured"):
        summary([])


def test_slope_is_the_power():
    assert slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert slopes([10, 100], [[1.0, 7.0], [10.0, 7.0]]) == pytest.approx([1, 0])
    with pytest.raises(BenchmarkError, match="two places or more"):
        slope([1, 1], [2, 3])


@pytest.mark.parametrize(("parts", "rounds", "message"), [(["scn"], 1, "no part 'scn'.*scan"), (["machine"], 0, "rounds is 0")])
def test_unknown_parts_and_no_rounds_are_errors(parts, rounds, message):
    with pytest.raises(BenchmarkError, match=message):
        benchmark(QUICK, parts, rounds)


@pytest.mark.parametrize("arms", [("lolm", "lolmm"), (), ("lolm", "lolm")])
def test_arms_that_do_not_exist_or_repeat_are_errors(arms):
    with pytest.raises(BenchmarkError, match="scale 'smoke' has lolm"):
        Settings(PARAMS, "smoke", arms)


# ---------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("arm", ["lolm", "transformer", "mamba2", "samba"])
def test_doubled_widths_make_about_four_times_the_parameters(arm):
    settings = Settings(PARAMS, "tiny", (arm,))
    base, wide = account_run(settings.run(arm)), account_run(settings.run(arm, 2))
    assert 3.3 < wide.parameters.total / base.parameters.total < 4.1
    assert widened(settings.run(arm).size, 1) == settings.run(arm).size


@pytest.mark.parametrize("arm", ["lolm", "lolm_cpc_documents", "transformer"])  # whose second contrasts a batch's sequences
def test_the_flops_of_a_step_are_those_of_the_accounting(arm):
    run = QUICK.run(arm, length=16, tokens=32)
    stepper = Stepper(run)
    assert run.training.batch_size == 2
    assert stepper.tokens == 32
    assert stepper.flops == 32 * account_run(run).flops_per_token.training
    weights = [p.detach().clone() for p in stepper.trainer.model.parameters()]
    stepper()
    assert any(not torch.equal(a, b) for a, b in zip(weights, stepper.trainer.model.parameters(), strict=True))


def test_shares_of_the_peak_from_known_seconds():
    with ExitStack() as stack:
        part = steps(QUICK, stack)
    flops = {arm: account_run(QUICK.run(arm)).flops_per_token.training for arm in QUICK.arms}
    training = QUICK.run("lolm").training
    tokens = training.batch_size * training.accumulation * training.seq_len
    # Two rounds of one second a step and a peak of 1e9, then all twice as slow.
    known = {name: [1e9, 5e8] if name.endswith("peak") else [1.0, 2.0] for name in part.measures}
    entry = part.result(known)
    rows = entry["base"]["arms"]
    for arm in QUICK.arms:
        assert rows[arm]["share_of_peak"]["low"] == rows[arm]["share_of_peak"]["high"] == pytest.approx(flops[arm] * tokens / 1e9)
        assert rows[arm]["tokens_per_second"]["median"] == pytest.approx(0.75 * tokens)
    assert rows["transformer"]["over_baseline"]["median"] == 1
    assert rows["lolm"]["over_baseline"]["median"] == pytest.approx(flops["lolm"] / flops["transformer"])


# ---------------------------------------------------------------------------------------------- the scan


def test_bytes_and_operations_of_a_scan_by_hand():
    # B 1, T 2, I 3, N 4: u, delta, gate 6 each, B, C 8 each, A 12, skip 3 = 49 floats in, 6 out.
    assert scan_bytes((1, 2, 3, 4)) == {"forward": 4 * 55, "both": 4 * (55 + 49 + 6 + 49)}
    assert scan_operations((1, 2, 3, 4)) == {"forward": 15 * 24, "both": (15 + 24) * 24}


def test_bytes_are_those_of_the_tensors():
    shape = (2, 7, 5, 3)
    inputs = scan_inputs(shape)
    y = own_scan(*inputs)
    assert scan_bytes(shape)["forward"] == sum(x.nbytes for x in inputs) + y.nbytes
    gradients = torch.autograd.grad(y.sum(), inputs)
    assert scan_bytes(shape)["both"] == 2 * sum(x.nbytes for x in inputs) + 2 * y.nbytes + sum(g.nbytes for g in gradients)


def test_bounds_by_hand():
    # 100 bytes at 50 a second: 2 s; 30 operations at 20/2 a second: 3 s, the floor of 4 s.
    entry = bounds([4.0], 100, 30, peak=[20.0], copied=[50.0])
    assert entry["memory_bound_seconds"]["median"] == 2
    assert entry["arithmetic_bound_seconds"]["median"] == 3
    assert entry["floor"] == "arithmetic"
    assert entry["share_of_bandwidth"]["median"] == 0.5
    assert entry["share_of_arithmetic"]["median"] == entry["share_of_floor"]["median"] == 0.75
    assert bandwidth(100, [4.0]) == [50.0]


@pytest.mark.skipif(importlib.util.find_spec("mambapy") is None, reason="mambapy is not installed")
def test_the_peer_computes_the_same_function():
    inputs = scan_inputs((2, 16, 5, 3))
    ours, theirs = own_scan(*inputs), parallel_scan(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class Keeps(torch.autograd.Function):
    """Keeps ``count`` floats for its gradient, twice in one place."""

    @staticmethod
    def forward(ctx, x, count):
        kept = torch.zeros(count)
        ctx.save_for_backward(kept, kept)
        return x * 1

    @staticmethod
    def backward(ctx, g):
        return g, None


def test_kept_memory_is_counted_once():
    assert saved_tensors(lambda: Keeps.apply(torch.ones(3, requires_grad=True), 10)) == (40, 10)


@pytest.mark.parametrize("power", [1, 2])
def test_memory_grows_with_the_power_of_what_is_kept(power):
    entry = memory_growth(lambda length: Keeps.apply(torch.ones(1, requires_grad=True), length**power), [8, 16, 64])
    assert entry["slope"] == pytest.approx(power)
    assert entry["bytes"]["16"] == 4 * 16**power


def test_the_scan_keeps_memory_linear_in_time_and_not_every_state():
    entry = scan_memory((256, 512, 1024), channels=32, states=8)
    assert entry["slope"] == pytest.approx(1, abs=0.05)
    assert entry["keeps_all_states"] is False


# ---------------------------------------------------------------------------------------------- peers and text


def test_peers_have_our_sizes():
    for own, theirs in (mamba_pair(32), mamba2_pair(32)):
        assert own.num_params() == sum(p.numel() for p in theirs.parameters())
    run = QUICK.run("transformer_modern")
    ours = sum(p.numel() for p in build_model(run).stack.parameters())
    theirs = llama_of(run, run.size.n_layers)
    assert ours == sum(p.numel() for p in theirs.parameters()) - theirs.embed_tokens.weight.numel()


def test_what_writes_beside_ours_has_our_sizes():
    for name, arm in PEERS.items():
        run = QUICK.run(arm)
        own = build_model(run).eval()
        theirs = peer_of(name, run, own)
        assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in own.parameters())
        assert theirs.generate(torch.zeros(1, 3, dtype=torch.long), min_new_tokens=4, max_new_tokens=4, pad_token_id=0).shape == (
            1,
            7,
        )


def test_a_token_is_measured_behind_the_same_text_every_time():
    lengths = []

    class Model(RuleModel):
        def step(self, tokens, state):
            lengths.append(state.length)
            return super().step(tokens, state)

    measure = steps_from(Model(61, lambda x: certain(x, 61)), 12, 2, 1)
    assert measure() > 0
    assert lengths == [12, 13] * 2  # once to warm up
    assert whole_pass(make_model("mamba"), 12, 1)() > 0


def test_both_text_jobs_write_every_document(tmp_path):
    import datasets
    import numpy as np

    documents = corpus_slice(QUICK)
    total = size_of(documents)
    assert QUICK.text_bytes <= total < QUICK.text_bytes + 80_000
    texts = [document.text for document in documents]
    tokenizer = Tokenizer(train_tokenizer(sample_lines(texts, total, total), 320))
    own_job(documents, tokenizer, tmp_path / "own")
    ids = np.fromfile(tmp_path / "own" / "00000.bin", dtype="<u2")
    parts = np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)[:-1]
    assert [tokenizer.decode(part) for part in parts] == texts

    peer = trained_peer(documents, 320)
    peer_job(datasets.Dataset.from_dict({"text": texts}), peer, tmp_path / "peer.bin")
    ids = np.fromfile(tmp_path / "peer.bin", dtype="<u2")
    parts = np.split(ids, np.flatnonzero(ids == peer.token_to_id("</s>")) + 1)[:-1]
    assert [peer.decode(part.tolist()) for part in parts] == texts
    assert peer.get_vocab_size() == 320


def test_one_core_has_no_runs_side_by_side(monkeypatch):
    monkeypatch.setattr("benchmarks.processes.available_cores", lambda: 1)
    with ExitStack() as stack, pytest.raises(Unavailable, match="one core"):
        side(QUICK, stack)
    assert PARTS["side"] is side
    record = benchmark(QUICK, ["side"], 1)
    assert record["side"] == {"skipped": "one core has no room for two runs"}


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with suppress(RuntimeError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_kernels_of_gpus_as_a_share_of_bandwidth(monkeypatch):
    kernels = importlib.import_module("benchmarks.kernels")  # the package has a function of that name
    with pytest.raises(Unavailable, match="no CUDA"):
        kernels.kernels(QUICK, ExitStack())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(kernels, "TIMED", (1, 2, 3))
    monkeypatch.setattr(kernels, "copy_seconds", lambda: 1.0)  # 10⁹ bytes read and written in a second
    monkeypatch.setattr(kernels, "failure", lambda op, name, device_type: None if name == "triton" else "not installed")
    monkeypatch.setattr(kernels, "seconds", lambda op, device_type, name: 2.0)
    part = kernels.kernels(QUICK, ExitStack())
    found = part.result({name: [measure()] for name, measure in part.measures.items()})
    assert found["selective_scan/mamba-ssm"] == {"skipped": "not installed"}
    entry = found["linear_scan/triton"]
    assert entry["bytes"] == 2 * 6 * (2 * 3 + 2)  # six bfloat16 a series: two inputs and an output
    assert entry["share_of_bandwidth"]["median"] == pytest.approx(96 / 2e9 / 2)


# ---------------------------------------------------------------------------------------------- verification


def test_the_share_of_verification_is_of_all_checks_and_of_all_steps(data, monkeypatch):
    class Here:
        def __init__(self, scale):
            self.shards = data / "shards"

    monkeypatch.setattr(importlib.import_module("benchmarks.verification"), "Layout", Here)
    preset = PARAMS.scales["smoke"].training
    with ExitStack() as stack:
        part = PARTS["verification"](QUICK, stack)
        for check in part.measures.values():
            assert check() > 0
        seconds = {"splits": [1.0], "lock": [2.0], "checkpoint": [3.0], "series": [4.0], "weights": [5.0], "step": [0.5]}
        assert list(seconds) == list(part.measures)
        steps_in_all = preset.all_tokens / preset.tokens_per_step
        assert part.result(seconds)["share_of_training"]["median"] == pytest.approx(15.0 / (0.5 * steps_in_all))


def test_verification_needs_shards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack, pytest.raises(Unavailable, match="no shards of scale 'smoke' here"):
        PARTS["verification"](QUICK, stack)


def test_filling_mlflow_from_a_finished_run_is_timed_with_its_share_of_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        part = startup(QUICK, stack)
        assert "mlflow" not in part.measures
        write_results(tmp_path, arms=("lolm",), seeds=(1,), truth=Truth(steps=40, log_every=20, eval_every=20))
        recorded = startup(QUICK, stack)
    known = {name: [1.0] for name in part.measures}
    assert part.result(known)["mlflow"] == {"skipped": "reports/smoke has no finished run"}
    whole = recorded.measures["mlflow"]()
    entry = recorded.result(known)["mlflow"]
    assert whole == pytest.approx(entry["store_seconds"]["median"] + entry["run_seconds"]["median"])
    assert entry["run_seconds"]["median"] > 0
    summary_of_run = json.loads((tmp_path / "reports/smoke/train/lolm-1/summary.json").read_text())
    training = summary_of_run["seconds"] + summary_of_run["annealing_seconds"]
    assert entry["training_seconds"] == training
    assert entry["share_of_training"]["median"] == pytest.approx(entry["run_seconds"]["median"] / training)
    assert not (tmp_path / "mlflow.db").exists(), "the store that is timed is thrown away"
