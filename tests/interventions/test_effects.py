"""Effects of h and z along the ways that they are read, against forwards put together by hand and models of known paths."""

import pytest
import torch
from builders import make_model
from known_models import OTHERS, TOKENS, context_of, fused, seen

from lolm.interventions import (
    Intervention,
    InterventionError,
    branch_alone,
    change_site,
    compose,
    freeze_gate_per_dimension,
    replace_branch,
    replace_writes,
    sites,
    stream_effect,
    streams_under,
)
from lolm.interventions.sites import EDGES
from lolm.records import names

ARMS = ["lolm", "lolm_parallel", "lolm_published", "lolm_v0", "lolm_sum", "lolm_concat", "lolm_no_memory", "lolm_no_regime"]
WAYS = [(branch, kind) for branch, kinds in names.EFFECTS.items() for kind in kinds]


def has(model, branch, kind):
    """Whether something in a model reads a stream so."""
    sources = [edge for edge in model.edges if edge.startswith(branch)]
    return kind in (names.TOTAL, names.DIRECT) or ("surface_latent" in sources if kind == names.INTO_LATENT else bool(sources))


@torch.no_grad()
def by_hand(model, h, z=None, reads=("latent", "memory", "regime", "gate"), z_reads=("regime", "gate"), fusion=()):
    """o when what is named reads h or z from elsewhere: every part called once, none twice."""
    true, x = model.streams(TOKENS).h, model.embedding(TOKENS)
    h_for = {part: h if part in reads else true for part in ("latent", "memory", "regime", "gate")}
    latent = model.latent(h_for["latent"] if model.latent_input == "surface" else x)
    z_for = {part: z if z is not None and part in z_reads else latent for part in ("regime", "gate")}
    m = None if model.memory is None else model.memory(h_for["memory"])[0]
    m_in = torch.zeros_like(true) if m is None else m
    r = None if model.regime is None else model.regime(z_for["regime"], h_for["regime"], m_in)[2]
    r_in = true.new_zeros(*true.shape[:2], model.regime_width) if r is None else r
    g = None if model.gate is None else model.gate(z_for["gate"], h_for["gate"], m_in, r_in)
    terms = model.fusion.terms(true, latent, m, r)
    return model.fusion.join(terms | dict(fusion), g)


@torch.no_grad()
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("by", names.RECOMPUTED)
def test_every_effect_is_the_forward_with_the_replaced_tensors(arm, by):
    model = make_model(arm)
    context = context_of(model)
    other, here = seen(model, OTHERS), seen(model)

    def put(name):
        """What stands in the place of a stream or a branch."""
        ways = {"zero": torch.zeros_like(here[name]), "resample": other[name]}
        return ways.get(by) if by in ways else context.statistics.mean[name].expand_as(here[name])

    u, v, h, z = {"surface": put("u")}, {"latent": put("v")}, put("h"), put("z")
    true = model.streams(TOKENS).h
    expected = {
        ("surface", "total"): by_hand(model, h, fusion=u),
        ("surface", "direct"): by_hand(model, true, fusion=u),
        ("surface", "indirect"): by_hand(model, h),
        ("surface", "into_latent"): by_hand(model, h, reads=("latent",)),
        ("latent", "total"): by_hand(model, true, z, fusion=v),
        ("latent", "direct"): by_hand(model, true, fusion=v),
        ("latent", "indirect"): by_hand(model, true, z),
    }
    for (branch, kind), wanted in expected.items():
        if has(model, branch, kind):
            found = fused(model, stream_effect(model, branch, kind, by), context)
            torch.testing.assert_close(found, wanted, msg=lambda text, at=(branch, kind): f"{at}: {text}")
        else:
            with pytest.raises(InterventionError, match="nothing in this model reads"):
                stream_effect(model, branch, kind, by)
    torch.testing.assert_close(fused(model, Intervention("none"), context), by_hand(model, true))


@torch.no_grad()
def test_in_series_the_total_effect_of_another_text_is_that_text_and_in_parallel_it_is_not():
    for arm, same in (("lolm", True), ("lolm_parallel", False)):
        model = make_model(arm)
        found = fused(model, stream_effect(model, "surface", "total", "resample"))
        assert torch.equal(found, model.fuse(model.streams(OTHERS))) == same


@torch.no_grad()
@pytest.mark.parametrize("arm", ARMS)
def test_a_stream_replaced_by_itself_changes_no_bit(arm):
    model = make_model(arm)
    alike = compose(*(change_site(edge, "same", lambda x, _: x.clone()) for edge in model.edges))
    assert torch.equal(fused(model, alike), model.fuse(model.streams(TOKENS)))


@torch.no_grad()
def test_a_latent_stream_that_the_fusion_does_not_read_acts_through_the_gate_alone():
    model = make_model("lolm")
    model.fusion.latent.weight.zero_()
    learned = fused(model, Intervention("none"))
    effect = {kind: fused(model, stream_effect(model, "latent", kind, "mean")) for kind in names.EFFECTS["latent"]}
    torch.testing.assert_close(effect["direct"], learned)
    torch.testing.assert_close(effect["total"], effect["indirect"])
    assert (effect["total"] - learned).abs().max() > 1e-3
    model.gate.hidden.weight[:, : model.d_model].zero_()  # nor the gate
    model.regime.logits.weight[:, : model.d_model].zero_()  # nor the codes
    torch.testing.assert_close(fused(model, stream_effect(model, "latent", "total", "mean")), fused(model, Intervention("none")))


@torch.no_grad()
def test_an_ssm_that_ignores_its_input_makes_nothing_of_another():
    model = make_model("lolm")
    model.latent.in_proj.weight.zero_()
    assert torch.equal(fused(model, stream_effect(model, "surface", "into_latent", "mean")), fused(model, Intervention("none")))


@torch.no_grad()
def test_direct_and_indirect_effects_add_up_where_the_fusion_is_a_sum():
    """Without a gate o is linear in its terms, so what the two ways change is what both together change."""
    model = make_model("lolm_sum")
    learned = fused(model, Intervention("none"))
    for branch in names.BRANCHES:
        parts = [fused(model, stream_effect(model, branch, kind, "mean")) - learned for kind in ("total", "direct", "indirect")]
        torch.testing.assert_close(parts[0], parts[1] + parts[2], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("branch", names.BRANCHES)
def test_alone_a_branch_is_all_that_depends_on_the_text(branch):
    """o = g ⊙ u + (1 − g) ⊙ v̄ + W_m m̄ + W_r r̄ by hand; with the gate at its mean, all beside the branch is constant."""
    model = make_model("lolm")
    context, s = context_of(model), model.streams(TOKENS)
    mean, terms = context.statistics.mean, model.fusion.terms(s.h, s.z, s.m, s.r)
    kept = terms[branch]
    other = mean["v" if branch == "surface" else "u"].expand_as(kept)
    u, v = (kept, other) if branch == "surface" else (other, kept)
    rest = model.fusion.memory(mean["m"]) + model.fusion.regime(mean["r"])
    torch.testing.assert_close(fused(model, branch_alone(model, branch), context), s.g * u + (1 - s.g) * v + rest)
    frozen = fused(model, branch_alone(model, branch) | freeze_gate_per_dimension(), context)
    g = mean["g"] if branch == "surface" else 1 - mean["g"]
    constant = frozen - g * kept
    torch.testing.assert_close(constant, constant[:1, :1].expand_as(constant))


@torch.no_grad()
def test_means_and_other_texts_are_the_unchanged_models_where_stacks_are_changed_too():
    model = make_model("lolm")
    context = context_of(model)
    silent = replace_writes(["surface.0.mlp"], "zero")
    together = silent | change_site("surface_latent", "other", lambda _, c: c.elsewhere("h"))
    found = streams_under(model, together, TOKENS, context)
    torch.testing.assert_close(found.z, model.latent(model.streams(OTHERS).h))
    assert torch.equal(found.h, streams_under(model, silent, TOKENS, context).h)


def test_edges_are_sites_and_a_missing_one_is_named():
    found = {site.name: site.kind for site in sites(make_model("lolm"))}
    assert all(found[edge] == "edge" for edge in EDGES)
    parallel = make_model("lolm_parallel")
    assert "surface_latent" not in {site.name for site in sites(parallel)}
    with pytest.raises(InterventionError, match="no edge 'surface_latent'; it has surface_memory"):
        streams_under(parallel, change_site("surface_latent", "any", lambda x, _: x), TOKENS)
    with pytest.raises(InterventionError, match="no effect 'indirectly'"):
        stream_effect(parallel, "latent", "indirectly", "mean")
    with pytest.raises(InterventionError, match="no branch 'memory' to leave alone"):
        branch_alone(parallel, "memory")
    with pytest.raises(InterventionError, match="no branch 'latent' to leave alone"):
        branch_alone(make_model("lolm_no_latent"), "latent")
    assert replace_branch("latent", "mean").name == stream_effect(parallel, "latent", "direct", "mean").name
