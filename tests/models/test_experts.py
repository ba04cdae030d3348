"""The mixture of experts against transformers' Jamba with the same weights, and its load and losses counted by hand."""

import math

import pytest
import torch
from builders import make_model, make_run, random_tokens

from lolm.config import BlockConfig, ConfigError, MixerConfig, StackConfig
from lolm.models.build import build_model
from lolm.models.experts import Experts, router_loss
from lolm.objectives import auxiliary_losses, token_loss, total_loss
from lolm.training.metrics import load_metrics

D, F, E, K = 12, 20, 6, 2


def experts(seed: int = 0) -> Experts:
    torch.manual_seed(seed)
    mixture = Experts("swiglu", D, F, 0.0, False, E, K)
    torch.nn.init.normal_(mixture.router.weight)
    return mixture


def stack(**block) -> StackConfig:
    moe = BlockConfig(MixerConfig("attention"), mlp="swiglu", norm="rmsnorm", **({"experts": E} | block))
    dense = BlockConfig(MixerConfig("mamba1"), mlp="swiglu", norm="rmsnorm")
    return StackConfig({"dense": dense, "moe": moe}, ("dense", "moe"))


def test_output_and_gradients_equal_jamba():
    from transformers import JambaConfig
    from transformers.models.jamba.modeling_jamba import JambaSparseMoeBlock, load_balancing_loss_func

    ours = experts()
    config = JambaConfig(hidden_size=D, intermediate_size=F, num_experts=E, num_experts_per_tok=K, hidden_act="silu")
    theirs = JambaSparseMoeBlock(config)
    with torch.no_grad():
        theirs.router.weight.copy_(ours.router.weight)
        for e, mlp in enumerate(ours.mlps):
            theirs.experts.gate_up_proj[e].copy_(mlp.up.weight)
            theirs.experts.down_proj[e].copy_(mlp.down.weight)
    x = torch.randn(3, 17, D)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    y, routing = ours(a)
    wanted = theirs(b)
    torch.testing.assert_close(y, wanted)
    probe = torch.randn_like(y)
    (y * probe).sum().backward()
    (wanted * probe).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.router.weight.grad, theirs.router.weight.grad)
    for e, mlp in enumerate(ours.mlps):
        torch.testing.assert_close(mlp.up.weight.grad, theirs.experts.gate_up_proj.grad[e])
        torch.testing.assert_close(mlp.down.weight.grad, theirs.experts.down_proj.grad[e])
    # Theirs lets f sum to k; ours to 1.
    logits = (x.flatten(0, 1) @ ours.router.weight.T,)
    torch.testing.assert_close(routing.loss, load_balancing_loss_func(logits, E, K) / K)


def test_load_and_loss_by_hand():
    mixture = experts()
    x = torch.randn(2, 9, D)
    counts, p_mean = torch.zeros(E), torch.zeros(E)
    for token in x.flatten(0, 1):
        p = (mixture.router.weight @ token).softmax(dim=0)
        p_mean += p.detach() / 18
        counts[p.argsort(descending=True)[:K]] += 1
    _, routing = mixture(x)
    torch.testing.assert_close(routing.load, counts / (18 * K))
    assert not routing.load.requires_grad
    torch.testing.assert_close(routing.loss.detach(), E * (counts / (18 * K) * p_mean).sum())
    routing.loss.backward()
    assert mixture.router.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("share", "wanted"), [([0.25] * 4, 1.0), ([1.0, 0, 0, 0], 4.0), ([0.5, 0.5, 0, 0], 2.0)])
def test_router_loss_and_metrics_at_known_loads(share, wanted):
    load = torch.tensor(share)
    assert float(router_loss(load.expand(7, 4), load)) == pytest.approx(wanted)
    metrics = load_metrics(torch.stack((load, torch.full((4,), 0.25))))
    entropy = -sum(s * math.log(s) for s in share if s)
    assert metrics == pytest.approx({"moe/load_max": max(share), "moe/load_entropy": (entropy + math.log(4)) / 2})


def test_an_expert_without_tokens_takes_part_with_a_gradient_of_zero():
    mixture = experts()
    with torch.no_grad():
        mixture.router.weight[:2] = 0
        mixture.router.weight[:2, 0], mixture.router.weight[2:] = 100.0, 0.0
    x = torch.randn(1, 5, D)
    x[..., 0] = 1.0  # all tokens to experts 0 and 1
    y, routing = mixture(x)
    y.sum().backward()
    assert routing.load.tolist() == [0.5, 0.5, 0, 0, 0, 0]
    assert (mixture.mlps[5].up.weight.grad == 0).all()


def test_sizes_and_costs():
    mixture = experts()
    assert mixture.num_params() == sum(p.numel() for p in mixture.parameters()) == D * E + E * 3 * D * F
    assert mixture.active_params() == D * E + K * 3 * D * F
    assert mixture.flops_per_token(99) == 2 * (D * E + K * 3 * D * F)
    model = make_model("transformer_modern", surface=stack())
    inactive = 2 * (E - K) * 3 * 32 * 92  # two of four layers
    assert model.stack.num_params() == sum(p.numel() for p in model.stack.parameters())
    assert model.stack.active_params() == model.stack.num_params() - inactive
    assert make_model("transformer_modern").stack.active_params() == make_model("transformer_modern").stack.num_params()


def test_the_stack_reports_every_mixture_that_ran_and_the_loss_counts_them():
    model = make_model("transformer_modern", surface=stack())
    x, y = random_tokens(2, 12), random_tokens(2, 12, seed=1)
    streams = model.streams(x)
    assert streams.load.shape == (2, E)
    torch.testing.assert_close(streams.load.sum(dim=1), torch.ones(2))
    assert model.streams(x, skip_last=1).load.shape == (1, E)
    assert model.streams(x, skip_last=3).load is None
    objectives = make_run("transformer_modern", objectives={"router_weight": 0.25}).architecture.objectives
    terms = auxiliary_losses(objectives, streams, None)
    assert set(terms) == {"router"}
    token = token_loss(model, model.fuse(streams), y)
    torch.testing.assert_close(total_loss(objectives, token, terms), token + 0.25 * streams.router)
    dense = make_model("transformer_modern").streams(x)
    assert dense.router is None
    assert auxiliary_losses(objectives, dense, None) == {}


def test_experts_in_the_surface_of_lolm():
    model = make_model("lolm", surface=stack())
    streams = model.streams(random_tokens(1, 12))
    assert streams.load.shape == (1, E)
    assert streams.g is not None


def test_activation_checkpointing_changes_nothing_and_counts_nothing_twice():
    x, y = random_tokens(2, 12), random_tokens(2, 12, seed=1)
    found = []
    for on in (False, True):
        model = make_model("transformer_modern", surface=stack(), training={"activation_checkpointing": on}).train()
        streams = model.streams(x)
        (token_loss(model, model.fuse(streams), y) + streams.router).backward()
        found.append((streams.router.detach(), streams.load, [p.grad for p in model.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(found[1][1].sum(dim=1), torch.ones(2))


def test_the_router_computes_in_float32_under_autocast():
    mixture = experts()
    x = torch.randn(2, 40, D)
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = mixture(x)
    assert torch.equal(routing.load, mixture(x)[1].load)
    assert routing.loss.dtype == torch.float32
    torch.testing.assert_close(y.float(), mixture(x)[0], rtol=0.05, atol=0.05)


def test_mixtures_of_different_sizes_in_one_stack_are_an_error():
    moe = {n: BlockConfig(MixerConfig("attention"), experts=n) for n in (2, 4)}
    run = make_run("transformer_modern", surface=StackConfig({"a": moe[2], "b": moe[4]}, ("a", "b")))
    with pytest.raises(ConfigError, match=r"\[2, 4\] experts; give every mixture the same number"):
        build_model(run)
