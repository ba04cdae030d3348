"""What mixers and MLPs write, changed by layer and by type: against models whose weights were changed by hand."""

from copy import deepcopy

import pytest
import torch
from builders import make_model
from known_models import OTHERS, TOKENS

from lolm.interventions import (
    Context,
    Intervention,
    InterventionError,
    change_site,
    compose,
    fusion_of,
    intervene,
    measure,
    observe_writes,
    replace_writes,
    sites,
    streams_under,
    writes,
)

ARMS = ["transformer", "samba", "hymba", "jamba_moe", "griffin", "lolm", "lolm_published", "lolm_v0", "lolm_transformer_latent"]


@torch.no_grad()
def output(model, intervention, context=None, tokens=TOKENS):
    context = Context() if context is None else context
    return intervene(model, intervention, streams_under(model, intervention, tokens, context), context)


def owner(model, site):
    """The block or latent layer that a site belongs to."""
    stack, layer, _ = site.split(".", 2)
    return model.get_submodule(f"{stack}.layers.{layer}")


@torch.no_grad()
def silence(model, site):
    """Zero by hand the map that writes at a site."""
    layer, part = owner(model, site), site.split(".", 2)[2]
    if part == "mlp":
        for mlp in layer.mlp.mlps if hasattr(layer.mlp, "mlps") else [layer.mlp]:
            mlp.down.weight.zero_()
            if mlp.down.bias is not None:
                mlp.down.bias.zero_()
        return
    mixer = getattr(layer, "mixer", layer)
    if part in ("mixer.attention", "mixer.ssm"):
        getattr(mixer, f"{part.removeprefix('mixer.')}_norm").weight.zero_()
        return
    for name in ("out", "out_proj", "linear_out"):
        if hasattr(mixer, name):
            for parameter in getattr(mixer, name).parameters():
                parameter.zero_()


@torch.no_grad()
@pytest.mark.parametrize("arm", ARMS)
def test_removing_a_write_equals_a_model_without_it(arm):
    model = make_model(arm)
    learned = output(model, Intervention("none"))
    assert torch.equal(learned, model.fuse(model.streams(TOKENS)))
    for site in writes(model):
        by_hand = deepcopy(model)
        silence(by_hand, site)
        changed = output(model, replace_writes([site], "zero"))
        assert torch.equal(changed, by_hand.fuse(by_hand.streams(TOKENS))), site
        assert not torch.equal(changed, learned), site
    assert torch.equal(output(model, Intervention("none")), learned)  # nothing stays behind


@torch.no_grad()
def test_several_writes_are_removed_at_once():
    model, by_hand = make_model("samba"), make_model("samba")
    chosen = writes(model, "recurrent") + writes(model, "mlp", layers=[1])
    for site in chosen:
        silence(by_hand, site)
    without = replace_writes(chosen, "zero", "no_recurrence")
    assert without.name == "no_recurrence"
    assert torch.equal(output(model, without), by_hand.fuse(by_hand.streams(TOKENS)))


def test_sites_are_listed_by_layer_and_type():
    samba = make_model("samba", size={"n_layers": 4})
    mixers = {site.name: site.kind for site in sites(samba) if site.name.endswith("mixer")}
    assert list(mixers) == [f"stack.{layer}.mixer" for layer in range(4)]
    assert list(mixers.values()) == [type(block.mixer).__name__.lower() for block in samba.stack.blocks]
    assert set(mixers.values()) == {"mamba1", "attention"}
    assert sorted(writes(samba, "recurrent") + writes(samba, "attention")) == list(mixers)
    assert writes(samba, "mamba1") == writes(samba, "recurrent")
    assert writes(samba, "mlp", layers=[2]) == ["stack.2.mlp"]

    hymba = make_model("hymba", size={"n_layers": 1})
    assert writes(hymba) == ["stack.0.mixer.attention", "stack.0.mixer.ssm", "stack.0.mixer", "stack.0.mlp"]
    assert writes(hymba, "attention") == ["stack.0.mixer.attention"]
    assert writes(hymba, "recurrent") == ["stack.0.mixer.ssm"]
    assert writes(hymba, "hymba") == ["stack.0.mixer"]

    lolm = make_model("lolm", size={"n_layers": 2})
    assert writes(lolm, stack="surface") == ["surface.0.mixer", "surface.0.mlp", "surface.1.mixer", "surface.1.mlp"]
    assert writes(lolm, "recurrent") == [f"latent.{layer}.mixer" for layer in range(len(lolm.latent.layers))]
    edges = [site.name for site in sites(lolm) if site.kind == "edge"]
    assert edges == [f"surface_{to}" for to in ("latent", "memory", "regime", "gate")] + ["latent_regime", "latent_gate"]
    seam = [site.name for site in sites(lolm) if site.layer is None and site.kind != "edge"]
    assert seam == ["h", "z", "m", "r", "g", "u", "v", "memory", "regime", "o"]
    assert [site.name for site in sites(samba) if site.layer is None] == ["h", "o"]
    moe = make_model("jamba_moe")
    assert writes(moe, "experts")
    assert set(writes(moe, "experts")) < set(writes(moe, "mlp"))


@torch.no_grad()
def test_a_write_is_replaced_by_its_mean_or_by_that_of_another_document():
    model = make_model("samba")
    site = writes(model, "attention")[0]
    context = Context(measure(model, [TOKENS], [site]), other_writes=lambda: observe_writes(model, OTHERS))
    written = observe_writes(model, TOKENS)[site]
    torch.testing.assert_close(context.statistics.mean[site], written.mean(dim=(0, 1)))
    for by, wanted in (("mean", written.mean(dim=(0, 1)).expand_as(written)), ("resample", observe_writes(model, OTHERS)[site])):
        changed = output(model, replace_writes([site], by), context)
        torch.testing.assert_close(changed, output(model, change_site(site, "given", lambda x, _, wanted=wanted: wanted)))
    noise = replace_writes([site], "gaussian")
    assert torch.equal(output(model, noise, context), output(model, noise, context))


@torch.no_grad()
def test_the_documents_own_write_changes_nothing():
    model = make_model("lolm")
    context = Context(other_writes=lambda: observe_writes(model, TOKENS))
    assert torch.equal(output(model, replace_writes(writes(model), "resample"), context), output(model, Intervention("none")))


@torch.no_grad()
def test_another_documents_writes_are_the_unchanged_models_whatever_else_is_changed():
    """Only the sites that are asked for are looked at; what is changed before them is lifted while that is done."""
    model = make_model("samba")
    zeroed, replaced = writes(model, "recurrent"), writes(model, "attention")
    true = observe_writes(model, OTHERS, replaced)
    context = Context(other_writes=lambda: observe_writes(model, OTHERS, replaced))
    changes = [change_site(site, "given", lambda x, _, site=site: true[site]) for site in replaced]
    changed = output(model, replace_writes(zeroed, "zero") | replace_writes(replaced, "resample"), context)
    assert torch.equal(changed, output(model, compose(replace_writes(zeroed, "zero"), *changes)))


@torch.no_grad()
def test_errors_say_what_to_do_and_leave_the_model_as_it_was():
    model = make_model("transformer")
    before = output(model, Intervention("none"))
    with pytest.raises(InterventionError, match=r"no site 'stack\.99\.mixer'; it has stack\.0\.mixer"):
        output(model, replace_writes(["stack.99.mixer"], "zero"))
    for look in (measure, lambda model, batches, sites: observe_writes(model, batches[0], sites)):
        with pytest.raises(InterventionError, match=r"no site 'stack\.9\.mixer'; it has stack\.0\.mixer, stack\.0\.mlp"):
            look(model, [TOKENS], ["stack.0.mlp", "stack.9.mixer"])
    with pytest.raises(InterventionError, match="needs statistics"):
        output(model, replace_writes(writes(model), "mean"))
    with pytest.raises(InterventionError, match="needs other documents"):
        output(model, replace_writes(writes(model), "resample"))
    with pytest.raises(InterventionError, match="no site to replace"):
        replace_writes([], "zero")
    assert all(site.change is None for site in model.sites().values())
    assert torch.equal(output(model, Intervention("none")), before)


@torch.no_grad()
def test_terms_of_the_fusion_are_sites():
    model = make_model("lolm")
    streams = model.streams(TOKENS)
    for name, part in (("memory", "memory"), ("regime", "regime")):
        changed = intervene(model, change_site(name, "drop", lambda x, _: torch.zeros_like(x)), streams)
        term = fusion_of(model).beside(streams.m, streams.r)[part]
        torch.testing.assert_close(model.fuse(streams) - changed, term, rtol=1e-4, atol=1e-5)
