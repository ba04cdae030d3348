"""Statistics of gate, codes and auxiliary losses against NumPy."""

import math

import numpy as np
import pytest
import torch
from builders import ArrayStream, make_model, make_run

from lolm.data.batches import EvaluationSet
from lolm.evaluation.streams import GateStatistics, RegimeStatistics, StreamSummary, describe_streams
from lolm.objectives import auxiliary_losses, build_heads, competitive_target, future_cpc


@pytest.fixture(scope="module")
def held_out() -> EvaluationSet:
    return EvaluationSet(ArrayStream(1000), 320, 32)


def describe(arm: str, held_out, batch_size: int = 4, **changes):
    run = make_run(arm, **changes)
    model = make_model(arm, **changes)
    torch.manual_seed(9)
    heads = build_heads(run.architecture, run.size)
    return model, heads, describe_streams(model, heads, run.architecture.objectives, held_out, batch_size, seed=1)


@torch.no_grad()
def test_gate_statistics_by_hand(held_out):
    model, _, found = describe("lolm", held_out)
    streams = [model.streams(torch.from_numpy(w)[None, :-1]) for w in held_out.windows()]
    g = np.concatenate([s.g[0].double().numpy() for s in streams])  # (tokens, D)
    gate = found.gate
    assert gate.mean == pytest.approx(g.mean())
    np.testing.assert_allclose(gate.per_dimension, g.mean(axis=0))
    assert gate.std_over_positions == pytest.approx(g.std(axis=0).mean(), rel=1e-4)
    assert gate.std_over_dimensions == pytest.approx(g.mean(axis=0).std(), rel=1e-5)
    counts, edges = np.histogram(g.astype(np.float32), bins=20, range=(0, 1))
    assert gate.histogram.counts == tuple(counts)
    np.testing.assert_allclose(gate.histogram.edges, edges, atol=1e-6)
    shares = []
    for s in streams:
        u, v = (b[0].double().numpy() for b in model.fusion.branches(s.h, s.z))
        gate_ = s.g[0].double().numpy()
        a, b = ((gate_ * u) ** 2).sum(axis=1), (((1 - gate_) * v) ** 2).sum(axis=1)
        shares.append(a / (a + b))
    assert gate.share == pytest.approx(np.concatenate(shares).mean(), rel=1e-5)
    targets = torch.cat([competitive_target(s.h, s.z).flatten() for s in streams])
    assert gate.target == pytest.approx(float(targets.double().mean()), rel=1e-6)


def test_sequences_that_are_too_short_for_a_target_have_none():
    found = describe("lolm", EvaluationSet(ArrayStream(100), 16, 8))[2].gate
    assert found.target is None
    assert 0 < found.share < 1


def test_saturation_counts_values_near_the_ends():
    model = make_model("lolm")
    g = torch.full((1, 10, 32), 0.5)
    g[0, 0, :16] = 0.01
    g[0, 1, :8] = 0.99
    statistics = GateStatistics()
    with torch.no_grad():
        statistics.add(model.fusion, torch.randn(1, 10, 32), torch.randn(1, 10, 32), g)
    found = statistics.summary()
    assert (found.saturated_low, found.saturated_high) == (16 / 320, 8 / 320)


def test_auxiliary_losses_are_means_over_sequences(held_out):
    model, heads, found = describe("lolm", held_out, batch_size=1)
    objectives = make_run("lolm").architecture.objectives
    with torch.no_grad():
        rows = [auxiliary_losses(objectives, model.streams(torch.from_numpy(w)[None, :-1]), heads) for w in held_out.windows()]
    for name, value in found.objectives.items():
        assert value == pytest.approx(np.mean([float(row[name]) for row in rows]), rel=1e-5), name
    _, _, batched = describe("lolm", held_out, batch_size=4)  # 4, 4 and 2 sequences
    for name in ("future", "competitive", "manifest", "memory"):  # means over tokens, so batching is no matter
        assert batched.objectives[name] == pytest.approx(found.objectives[name], rel=1e-4), name


def test_contrastive_loss_stands_beside_its_chance_level(held_out):
    _, _, found = describe("lolm", held_out)
    assert found.cpc.candidates == 24  # 32 − 8
    assert found.cpc.chance == math.log(24)
    assert found.cpc.nats == found.objectives["future"]


@torch.no_grad()
@pytest.mark.parametrize(("arm", "candidates"), [("lolm_cpc_documents", 1 + 3 * 24), ("lolm_cpc_positions", 4)])
def test_against_other_texts_the_chance_level_is_that_of_a_full_batch(arm, candidates, held_out):
    model, heads, found = describe(arm, held_out, batch_size=4)  # 4, 4 and 2 sequences
    assert (found.cpc.candidates, found.cpc.chance) == (candidates, math.log(candidates))
    streams = [model.streams(x) for x, _ in held_out.batches(4)]
    assert found.cpc.nats == pytest.approx(np.mean([float(future_cpc(s.z, s.h, heads)) for s in streams[:2]]), rel=1e-6)
    assert describe(arm, held_out, batch_size=3)[2].cpc is not None  # the last sequence stands alone
    assert describe(arm, held_out, batch_size=1)[2].cpc is None
    assert describe(arm, held_out, batch_size=64)[2].cpc.candidates == heads.candidates(32, 10)


def test_a_model_reports_only_what_it_has(held_out):
    _, _, decoder = describe("transformer", held_out)
    assert decoder == StreamSummary(None, None, None, None)
    _, _, v0 = describe("lolm_v0", held_out)
    assert v0.cpc is None
    assert set(v0.objectives) == {"future", "regime", "memory", "manifest"}
    _, _, part = describe("lolm", held_out, regime={"enabled": False})
    assert part.regime is None
    assert part.gate is not None


def test_statistics_are_the_same_twice(held_out):
    assert describe("lolm", held_out)[2] == describe("lolm", held_out)[2]


def test_pure_noise_uses_every_code_and_evaluation_need_not():
    """What "all codes alive" is worth: with 32 codes noise alone gives a usage entropy of 3.465 of 3.466 (facts F7)."""
    statistics = RegimeStatistics(32, seed=0)
    logits = torch.zeros(20, 2000, 32)
    logits[..., 3] = 0.5  # a slight preference, which always wins without noise
    for part in logits.split(5):
        statistics.add(part, part.softmax(dim=-1), tau=1.0)
    found = statistics.summary()
    assert (found.alive_sampled, found.alive_noise, found.alive_eval) == (32, 32, 1)
    assert found.usage_entropy_noise == pytest.approx(3.465, abs=1.5e-3)
    assert found.usage_entropy_eval == 0
    assert found.usage_entropy_sampled < found.usage_entropy_noise
    assert found.max_entropy == math.log(32)
    shares = statistics.counts["sampled"] / 40_000  # argmax of Gumbel samples follows the softmax
    assert float(shares[3]) == pytest.approx(math.exp(0.5) / (31 + math.exp(0.5)), abs=5e-3)
