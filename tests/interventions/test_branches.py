"""Replacing a branch, against the fusion's formula."""

import pytest
import torch
from builders import make_model, random_tokens
from known_models import OTHERS, TOKENS, context_of, fused, seen

from lolm.interventions import (
    Context,
    Intervention,
    InterventionError,
    force_gate,
    intervene,
    match_norm,
    measure,
    replace_branch,
    resample_source,
)

FIELD = {"surface": "u", "latent": "v"}


@pytest.fixture(params=["lolm", "lolm_published", "lolm_v0"])
def model(request):
    return make_model(request.param)


@torch.no_grad()
@pytest.mark.parametrize("branch", ["surface", "latent"])
def test_zero_mean_and_resample_take_the_place_of_the_branch(model, branch):
    s, here = model.streams(TOKENS), seen(model)
    weight = s.g if branch == "surface" else 1 - s.g
    rest = model.fuse(s) - here["g" + FIELD[branch]]
    x = here[FIELD[branch]]
    wanted = {
        "zero": torch.zeros_like(x),
        "mean": x.mean(dim=(0, 1)).expand_as(x),
        "resample": seen(model, OTHERS)[FIELD[branch]],
    }
    for by, new in wanted.items():
        torch.testing.assert_close(fused(model, replace_branch(branch, by)), rest + weight * new, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("branch", ["surface", "latent"])
def test_gaussian_noise_has_the_moments_of_the_branch(branch):
    model, tokens = make_model("lolm"), random_tokens(64, 64)
    s = model.streams(tokens)
    context = Context(measure(model, [tokens]))
    gate = force_gate(1.0 if branch == "surface" else 0.0)  # o is the branch and the offset
    noise = intervene(model, gate | replace_branch(branch, "gaussian"), s, context) - sum(model.fusion.beside(s.m, s.r).values())
    flat = noise.flatten(0, 1)
    mean, std = context.statistics.mean[FIELD[branch]], context.statistics.std[FIELD[branch]]
    error = 5 * std / 64  # five standard errors of the mean of 4096 draws
    assert ((flat.mean(dim=0) - mean).abs() < error).all()
    torch.testing.assert_close(flat.std(dim=0), std, rtol=0.06, atol=1e-4)
    correlation = torch.corrcoef(flat.T) - torch.eye(model.d_model)
    assert correlation.abs().max() < 0.1
    again = intervene(model, gate | replace_branch(branch, "gaussian"), s, context) - sum(model.fusion.beside(s.m, s.r).values())
    assert torch.equal(noise, again)


@torch.no_grad()
def test_another_documents_z_at_the_source_equals_its_branch_at_the_seam(model):
    for branch, field in (("surface", "h"), ("latent", "z")):
        source, seam = resample_source(branch), replace_branch(branch, "resample")
        torch.testing.assert_close(fused(model, source), fused(model, seam), rtol=1e-4, atol=1e-5)
        s = model.streams(TOKENS)
        changed = source.apply(s, context_of(model))
        assert torch.equal(getattr(changed, field), getattr(model.streams(OTHERS), field))
        assert all(getattr(changed, name) is getattr(s, name) for name in "hzmrg" if name != field)


@torch.no_grad()
def test_a_document_resampled_by_itself_changes_nothing(model):
    context = Context(other=lambda: seen(model))
    for branch in FIELD:
        assert torch.equal(fused(model, replace_branch(branch, "resample"), context), fused(model, Intervention("none")))


@torch.no_grad()
def test_norm_matching_keeps_lengths_and_direction(model):
    full, removed = fused(model, Intervention("none")), fused(model, replace_branch("latent", "zero"))
    matched = fused(model, replace_branch("latent", "zero") | match_norm())
    torch.testing.assert_close(matched.norm(dim=-1), full.norm(dim=-1))
    torch.testing.assert_close(torch.cosine_similarity(matched, removed, dim=-1), torch.ones(3, 24))
    assert not torch.allclose(removed.norm(dim=-1), full.norm(dim=-1), rtol=1e-3)
    torch.testing.assert_close(fused(model, match_norm()), full)


@torch.no_grad()
def test_norm_matching_leaves_an_o_that_is_nothing():
    model = make_model("lolm", memory={"enabled": False}, regime={"enabled": False})
    nothing = replace_branch("latent", "zero") | replace_branch("surface", "zero") | match_norm()
    assert torch.equal(fused(model, nothing), torch.zeros(3, 24, model.d_model))


def test_an_unknown_replacement_is_an_error():
    with pytest.raises(InterventionError, match="no replacement 'magic'"):
        replace_branch("latent", "magic")
