"""Where interventions act, in what order, and what they are told."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from builders import make_model
from known_models import OTHERS, TOKENS, context_of, fused, seen

from lolm.interventions import (
    EMPTY,
    Context,
    Intervention,
    InterventionError,
    change_branch,
    change_site,
    compose,
    force_gate,
    inside,
    intervene,
    measure,
    observe,
    remove_stream,
    replace_writes,
    streams_under,
)
from lolm.interventions.sites import STREAMS, TERMS

FORMS = ["per_dimension", "scalar", "static_dimension", "static_scalar", "fixed", "none", "concat"]


def model_with(form):
    return make_model("lolm") if form == "per_dimension" else make_model("lolm", gate={"form": form})


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_branches_are_changed_under_every_form_of_fusion(form):
    """Against the streams: doubling u is doubling the gain of the surface's norm."""
    model, twice = model_with(form), model_with(form)
    twice.fusion.surface_norm.weight.mul_(2)
    twice.fusion.latent_norm.weight.mul_(-1)
    change = change_branch("surface", "double", lambda u, _: 2 * u) | change_branch("latent", "negate", lambda v, _: -v)
    torch.testing.assert_close(fused(model, change), twice.fuse(twice.streams(TOKENS)))
    assert not torch.equal(fused(model, change), fused(model, Intervention("none")))


@torch.no_grad()
def test_without_norms_the_branches_are_changed_all_the_same():
    model = make_model("lolm_v0")
    assert isinstance(model.fusion.surface_norm, torch.nn.Identity)
    s, kept = model.streams(TOKENS), seen(model)
    o = fused(model, change_branch("surface", "drop", lambda u, _: torch.zeros_like(u)))
    torch.testing.assert_close(o, model.fuse(s) - kept["gu"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_model_is_as_before_also_after_an_error():
    model = make_model("lolm")
    before = model(TOKENS)

    def fail(u, context):
        raise RuntimeError("stop")

    for change in (change_branch("surface", "double", lambda u, _: 2 * u), change_branch("latent", "fail", fail)):
        with nullcontext() if change.name == "double" else pytest.raises(RuntimeError, match="stop"):
            fused(model, change)
        assert torch.equal(model(TOKENS), before)


@torch.no_grad()
def test_one_change_inside_another_leaves_the_outer_one():
    model = make_model("transformer")
    with inside(model, replace_writes(["stack.0.mlp"], "zero")):
        outer = model(TOKENS)
        with inside(model, replace_writes(["stack.0.mlp", "stack.1.mlp"], "zero")):
            assert not torch.equal(model(TOKENS), outer)
        assert torch.equal(model(TOKENS), outer)
    assert not torch.equal(model(TOKENS), outer)


@torch.no_grad()
def test_the_first_of_a_composition_acts_first():
    model = make_model("lolm")
    add, double = change_branch("latent", "add", lambda v, _: v + 1), change_branch("latent", "double", lambda v, _: 2 * v)
    both = change_branch("latent", "both", lambda v, _: 2 * (v + 1))
    assert torch.equal(fused(model, add | double), fused(model, both))
    assert not torch.equal(fused(model, double | add), fused(model, both))
    assert torch.equal(fused(model, compose(add, double, force_gate(0.0))), fused(model, both | force_gate(0.0)))
    gates = force_gate(0.2) | force_gate(0.7)
    assert torch.equal(fused(model, gates), fused(model, force_gate(0.7)))


@torch.no_grad()
def test_composition_joins_every_place():
    model = make_model("lolm")
    end = change_site("o", "end", lambda o, context: o - context.full)
    everything = force_gate(0.0) | remove_stream("memory") | change_branch("latent", "drop", lambda v, _: 0 * v) | end
    s = model.streams(TOKENS)
    regime_only = model.fusion.regime(s.r)
    torch.testing.assert_close(fused(model, everything), regime_only - model.fuse(s), rtol=1e-4, atol=1e-5)


def test_names_of_compositions():
    none, a = Intervention("none"), Intervention("a")
    assert ((force_gate(0.5) | a).name, (force_gate(0.5) | a).value) == ("gate+a", 0.5)
    assert ((a | force_gate(0.5)).name, (a | force_gate(0.5)).value) == ("a+gate", 0.5)
    both = force_gate(0.5) | force_gate(0.0)
    assert (both.name, both.value) == ("gate=0.5+gate=0", None)
    assert compose(a).name == "a"
    assert (none | a).label == "none+a"
    assert (Intervention("x", skip_last=1) | Intervention("y", skip_last=2)).skip_last == 3


@torch.no_grad()
def test_a_missing_branch_or_context_is_an_error_that_says_so():
    plain, alone = make_model("transformer"), make_model("lolm_no_latent")
    with pytest.raises(InterventionError, match="no latent branch"):
        intervene(plain, change_branch("latent", "x", lambda v, _: v), plain.streams(TOKENS))
    with pytest.raises(InterventionError, match="no latent branch"):
        intervene(alone, change_branch("latent", "x", lambda v, _: v), alone.streams(TOKENS))
    with pytest.raises(InterventionError, match="no branch 'sky'"):
        change_branch("sky", "x", lambda v, _: v)
    with pytest.raises(InterventionError, match="needs statistics"):
        EMPTY.mean("u", TOKENS)
    with pytest.raises(InterventionError, match="needs other documents"):
        EMPTY.elsewhere("z")
    with pytest.raises(InterventionError, match="no 'z' to go by"):
        Context(measure(alone, [TOKENS])).mean("z", alone.streams(TOKENS).h)


@torch.no_grad()
def test_statistics_are_those_of_all_tokens_together():
    model = make_model("lolm")
    statistics, kept = measure(model, [TOKENS[:2], TOKENS[2:]]), seen(model)
    assert set(kept) == set(statistics.mean) == set(statistics.std) == {"h", "z", "m", "r", "g", "u", "v", "gu", "gv"}
    for name, x in kept.items():
        flat = x.flatten(0, 1)
        torch.testing.assert_close(statistics.mean[name], flat.mean(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(statistics.std[name], flat.std(dim=0, unbiased=False), rtol=1e-3, atol=1e-5)
    s = model.streams(TOKENS)
    torch.testing.assert_close(
        kept["gu"] + kept["gv"] + sum(model.fusion.beside(s.m, s.r).values()), model.fuse(s), rtol=1e-4, atol=1e-5
    )
    assert statistics.streams.m is statistics.mean["m"]


def test_draws_depend_on_seed_purpose_and_batch_alone():
    def draw(context, name, **how):
        return torch.rand(4, generator=context.generator(name, **how))

    one = Context(seed=1)
    assert torch.equal(draw(one, "a"), draw(one, "a"))
    others = [draw(one, "b"), draw(Context(seed=2), "a"), draw(replace(one, batch=1), "a")]
    assert not any(torch.equal(draw(one, "a"), other) for other in others)
    assert torch.equal(draw(one, "a", every_batch=False), draw(replace(one, batch=1), "a", every_batch=False))


@torch.no_grad()
def test_the_context_speaks_of_the_other_documents():
    model = make_model("lolm")
    assert torch.equal(context_of(model).elsewhere("z"), model.streams(OTHERS).z)
    assert set(observe(make_model("transformer"), make_model("transformer").streams(TOKENS))) == {"h"}


@pytest.mark.parametrize("site", [*STREAMS, *TERMS, "surface_gate", "surface.0.mlp", "latent.0.mixer", "o"])
@pytest.mark.parametrize(("change", "says"), [(lambda x, _: x[:, :1], r"not \(1, 1, "), (lambda x, _: None, "not NoneType")])
def test_a_change_of_another_shape_is_refused_and_not_broadcast(site, change, says):
    model, tokens = make_model("lolm"), TOKENS[:1]
    intervention = change_site(site, "mine", change)
    with pytest.raises(InterventionError, match=f"^mine: a change must return a tensor of the shape .*{says}"):
        intervene(model, intervention, streams_under(model, intervention, tokens))
