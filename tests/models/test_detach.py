"""Edges whose gradient is cut: the same values, and gradients on exactly the other ways."""

from dataclasses import replace

import pytest
import torch
from builders import make_model, random_tokens

EDGES = ("surface_latent", "latent_regime", "latent_gate", "latent_fusion", "regime_gate")
OPEN = {"regime": {"isolate": False}}  # no gradient is cut but those of the test


def reached(output: str, detach: tuple[str, ...]) -> set[str]:
    """Names of the parameters that get a gradient which is not zero from the sum of z, p or g, or from o (squares)."""
    model = make_model("lolm", detach=detach, **OPEN).train()
    tokens = random_tokens(2, 24)
    s = model.streams(tokens, model.noise(tokens, torch.Generator().manual_seed(0)))
    value = model.fuse(s) if output == "o" else getattr(s, output)
    (value * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def under(*parts: str) -> set[str]:
    return {name for name, _ in make_model("lolm").named_parameters() if name.split(".")[0] in parts}


# Cut beside the edge so that it is the only way left from its source to the output; what reaches the output then; what no longer
# does once the edge is cut as well.
@pytest.mark.parametrize(
    ("edge", "output", "others", "before", "lost"),
    [
        ("surface_latent", "z", (), under("embedding", "surface", "latent"), under("embedding", "surface")),
        (
            "latent_regime",
            "p",
            (),
            under("embedding", "surface", "latent", "memory", "regime") - {"regime.codebook"},
            under("latent"),
        ),
        ("latent_gate", "g", ("regime_gate",), under("embedding", "surface", "latent", "memory", "gate"), under("latent")),
        ("regime_gate", "g", (), under("embedding", "surface", "latent", "memory", "regime", "gate"), under("regime")),
        (
            "latent_fusion",
            "o",
            ("latent_regime", "latent_gate"),
            under("embedding", "surface", "latent", "memory", "regime", "gate", "fusion"),
            under("latent"),
        ),
    ],
)
def test_a_cut_edge_takes_away_exactly_what_lies_behind_it(edge, output, others, before, lost):
    assert reached(output, others) == before
    assert reached(output, (*others, edge)) == before - lost


@pytest.mark.parametrize("edge", EDGES)
def test_an_edge_takes_no_gradient_from_another_way(edge):
    """Cut alone, z and r still reach o on their other ways."""
    every = under("embedding", "surface", "latent", "memory", "regime", "gate", "fusion")
    assert reached("o", (edge,)) == every


def test_isolation_at_the_fusion_and_the_gate_leaves_the_codes_without_a_gradient():
    model = make_model("lolm", detach=("regime_gate",)).train()  # isolated at the fusion
    model.fuse(model.streams(random_tokens(2, 24))).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.regime.parameters())


@pytest.mark.parametrize("train", [True, False])
def test_values_are_the_same_bits(train):
    tokens = random_tokens(2, 24)

    def values(**changes):
        model = make_model("lolm", **changes).train(train)
        s = model.streams(tokens, model.noise(tokens, torch.Generator().manual_seed(0)))
        return [s.h, s.z, s.m, s.p, s.r, s.g, model.fuse(s)]

    wanted = values()
    for detach in (*((edge,) for edge in EDGES), EDGES):
        for a, b in zip(values(detach=detach, **OPEN), wanted, strict=True):
            assert torch.equal(a, b), detach


def test_the_gradient_that_is_left_is_that_of_a_constant_source():
    """By hand: with h → z cut, o = f(h, z) is differentiated in h with z held."""
    tokens = random_tokens(2, 24)
    model = make_model("lolm", detach=("surface_latent",))
    model.fuse(model.streams(tokens)).square().mean().backward()
    found = model.embedding.weight.grad.clone()
    whole = make_model("lolm")
    s = whole.streams(tokens)
    z = s.z.detach()
    _, p, r = whole.regime(z, s.h, s.m)
    held = replace(s, z=z, p=p, r=r, g=whole.gate(z, s.h, s.m, r))
    whole.fuse(held).square().mean().backward()
    torch.testing.assert_close(found, whole.embedding.weight.grad, rtol=1e-4, atol=1e-9)
