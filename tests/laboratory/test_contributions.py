"""Contributions of the fusion's addends, on models with random weights."""

import pytest
import torch
from builders import ArrayStream, make_model
from known_models import TOKENS

from lolm.config import ObjectiveConfig
from lolm.data.batches import EvaluationSet
from lolm.evaluation.streams import describe_streams
from lolm.interventions import InterventionError
from lolm.laboratory.contributions import contributions, linearised
from lolm.records.names import BRANCHES

SET = EvaluationSet(ArrayStream(1000), 320, 32)
ARMS = ["lolm", "lolm_published", "lolm_v0", "lolm_concat", "lolm_sum", "lolm_no_latent"]


@torch.no_grad()
@pytest.mark.parametrize("arm", ARMS)
def test_addends_sum_to_o_and_shares_to_one(arm):
    model = make_model(arm)
    s = model.streams(TOKENS)
    addends = model.fusion.addends(model.fusion.terms(s.h, s.z, s.m, s.r), s.g)
    torch.testing.assert_close(sum(addends.values()), model.fuse(s), rtol=1e-4, atol=1e-5)
    found = contributions(model, SET, 4)
    assert sum(row.variance_share for row in found.addends.values()) == pytest.approx(1.0)
    assert (found.gate is None) == (model.gate is None)
    branches = [found.addends[name] for name in BRANCHES if name in found.addends]
    assert sum(row.share for row in branches) == pytest.approx(1.0)
    assert sum(row.spread_share for row in branches) == pytest.approx(1.0)
    assert all(found.addends[name].share is None for name in found.addends if name not in BRANCHES)
    if model.gate is not None:  # the evaluation's share of the same text
        described = describe_streams(model, None, ObjectiveConfig(future="none"), SET, 4, 0)
        assert found.addends["latent"].share == pytest.approx(1 - described.gate.share)


@torch.no_grad()
def test_shares_by_hand():
    """u constant and v of half its length and changing sign: a fifth of the power, all of the variance."""
    model = make_model("lolm_sum", memory={"enabled": False}, regime={"enabled": False})
    u = torch.ones(1, 1, model.d_model)
    signs = torch.tensor([1.0, -1.0]).repeat(16)[None, :, None]
    model.fusion.branches = lambda h, z: (u.expand_as(h), 0.5 * (signs * u).expand_as(h))
    found = contributions(model, SET, 4).addends
    assert found["latent"].share == pytest.approx(0.2)
    assert found["latent"].spread_share == pytest.approx(1.0)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["none", "layernorm", "rmsnorm"])
def test_linearised_parts_and_the_bias_make_up_the_logit_of_the_correct_token(norm):
    model = make_model("lolm", recipe={"head_norm": norm})
    bias = torch.zeros(model.d_model)
    if norm != "none":
        model.head_norm.weight.uniform_(0.5, 2)
    if norm == "layernorm":
        bias = model.head_norm.bias.uniform_(-1, 1)
    found = contributions(model, SET, 4).addends
    total = centred = 0.0
    for x, y in SET.batches(4):
        logits = model(x) - bias @ model.embedding.weight.T
        total += float(logits.gather(2, y[..., None]).sum())
        centred += float((logits.gather(2, y[..., None]) - logits.mean(dim=-1, keepdim=True)).sum())
    assert sum(row.logit for row in found.values()) == pytest.approx(total / 320, rel=1e-3, abs=1e-4)
    assert sum(row.logit_centred for row in found.values()) == pytest.approx(centred / 320, rel=1e-3, abs=1e-4)


@torch.no_grad()
def test_linearised_is_linear():
    norm = torch.nn.LayerNorm(8)
    o, a, b = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    whole = linearised(norm, 2 * a + b, o)
    torch.testing.assert_close(whole, 2 * linearised(norm, a, o) + linearised(norm, b, o))
    torch.testing.assert_close(linearised(norm, o, o), norm(o))


def test_a_plain_stack_has_nothing_to_share():
    with pytest.raises(InterventionError, match="one stack"):
        contributions(make_model("transformer"), SET, 4)
