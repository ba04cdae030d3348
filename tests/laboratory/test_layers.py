"""Removal by layer and type: against full recomputation, against hand counts, and on models whose dependence is planted."""

import math
from copy import deepcopy
from itertools import combinations

import pytest
import torch
from builders import ArrayStream, make_model
from torch import nn

from lolm.analysis import layers as by
from lolm.analysis.statistics import t_interval
from lolm.config import LayersConfig
from lolm.data.batches import IGNORED, BatchSampler, EvaluationSet
from lolm.interventions import Context, InterventionError, measure_writes, observe_writes
from lolm.laboratory.layers import (
    INTACT,
    Removed,
    joined,
    labellings,
    matched_sets,
    measure_layers,
    recall_by_type,
    score_removals,
    site_params,
    sites_by_type,
    type_removals,
    written_norms,
)
from lolm.mixers.site import Site
from lolm.records import names

ARMS = ["samba", "griffin", "hymba", "jamba_moe", "transformer", "lolm", "lolm_conv_latent"]
SHORTER = {"jamba_moe": {"n_layers": 5}}  # of eight, with all that its pattern has
CONFIG = LayersConfig(tokens=192, batch_size=3, draws=3)
VOCAB, CYCLE = 32, 17  # of ArrayStream: token i is mostly followed by i + 1


def held_out(seed=0, vocab_size=VOCAB, tokens=192):
    return EvaluationSet(ArrayStream(1200, vocab_size, seed), tokens, 24)


class Contract(nn.Module):
    """A model of which no more is seen than the contract has."""

    def __init__(self, model):
        super().__init__()
        self.inner = [model]  # not a child: no submodule is found by a site's name
        self.weight = nn.Parameter(torch.zeros(1))
        self.sites = model.sites

    def forward(self, tokens_BT):
        return self.inner[0](tokens_BT)


def measured(model, **changes):
    settings = {"seed": 1, "step": 8} | changes
    return measure_layers(model, held_out(), held_out(1), CONFIG, **settings)


@pytest.mark.parametrize("arm", ARMS)
def test_nothing_is_recomputed_wrongly_and_nothing_stays_behind(arm):
    """To the bit: a prefix that is computed once changes no score, and the model is what it was."""
    model = make_model(arm, vocab_size=VOCAB, size=SHORTER.get(arm))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = next(held_out().batches(4))[0]
    with torch.no_grad():
        logits = model(tokens)
        context = Context(measure_writes(model, [x for x, _ in held_out(1).batches(3)]), seed=3)
        removals = [INTACT, *type_removals(model), *(Removed((site,), "mean") for site in model.sites())]
        resumed, whole = (score_removals(m, removals, held_out().batches(3), context) for m in (model, Contract(model)))
        assert resumed == whole
        assert measured(model).removals
        assert torch.equal(model(tokens), logits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(site.change is None for site in model.sites().values())
    assert resumed[0].top1_change == 0
    assert any(score.top1_change > 0 for score in resumed)


@torch.no_grad()
def test_a_type_without_its_writes_is_a_model_whose_output_maps_are_zero():
    model, by_hand = make_model("samba", vocab_size=VOCAB), make_model("samba", vocab_size=VOCAB)
    for block in by_hand.stack.blocks:
        if block.mixer_site.kind == "mamba1":
            block.mixer.out_proj.weight.zero_()
    recurrent = sites_by_type(model)["recurrent"]
    (removed,) = score_removals(model, [Removed(recurrent, "zero")], held_out().batches(3))
    (zeroed,) = score_removals(by_hand, [INTACT], held_out().batches(3))
    assert (removed.nats, removed.accuracy) == (zeroed.nats, zeroed.accuracy)


def test_what_is_measured_of_a_model():
    found = measured(make_model("samba", vocab_size=VOCAB))
    assert [s.site for s in found.sites if s.type == "recurrent"] == ["stack.0.mixer", "stack.2.mixer"]
    assert found.of_type["mlp"] == tuple(f"stack.{i}.mlp" for i in range(4))
    for by_what in names.REPLACEMENTS:
        assert all(found.damage(sites, by_what) is not None for sites in found.of_type.values())
        assert all(found.damage([s.site], by_what) is not None for s in found.sites)
    assert all(found.damage(sites, "mean") is not None for sites in combinations(found.mixers, 2))  # every labelling
    assert {c.match for c in found.controls} == {"number", "parameters", "norm"}
    intact = found.removal()
    assert intact.bits_per_byte == pytest.approx(intact.nats * found.tokens / (math.log(2) * found.bytes))
    early = measured(make_model("samba", seed=1, vocab_size=VOCAB), step=4, last=False)
    assert len(early.removals) == 1 + 3 * 4
    both = joined([early, found])
    assert both.steps == (4, 8)
    assert both.damage(both.of_type["attention"], "mean", 4) == early.damage(early.of_type["attention"], "mean")
    assert both.norm(both.mixers, 4) == early.norm(early.mixers)
    assert both.controls == found.controls


def test_experts_are_a_type_of_their_own_where_there_are_other_mlps():
    model = make_model("jamba_moe", vocab_size=VOCAB, size=SHORTER["jamba_moe"])
    sites = sites_by_type(model)
    assert set(sites["experts"]) < set(sites["mlp"])
    assert measured(model).damage(sites["experts"], "zero") is not None
    assert "experts" not in sites_by_type(make_model("samba"))


def test_a_model_from_outside_may_say_its_parameters_and_may_not():
    model = make_model("samba", vocab_size=VOCAB)
    outside = Contract(model)
    found = measured(outside)
    assert {s.parameters for s in found.sites} == {None}
    assert {c.match for c in found.controls} == {"number", "norm"}
    assert found.removals[0].nats == measured(model).removals[0].nats
    outside.site_params = lambda: dict.fromkeys(model.sites(), 7)
    assert {s.parameters for s in measured(outside).sites} == {7}
    with pytest.raises(InterventionError, match=r"^stack\.9\.mixer_zero: this model has no site 'stack\.9\.mixer'"):
        score_removals(outside, [Removed(("stack.9.mixer",), "zero")], held_out().batches(3))


def test_parameters_of_sites_by_hand():
    for arm in ("samba", "griffin", "hymba", "lolm", "jamba_moe"):
        model = make_model(arm)
        params = site_params(model)
        for stack, blocks in (("surface" if arm == "lolm" else "stack", model.stack.blocks),):
            for i, block in enumerate(blocks):
                assert params[f"{stack}.{i}.mixer"] == block.mixer.num_params()
                assert params[f"{stack}.{i}.mlp"] == block.mlp.num_params()
    assert params.keys() == model.sites().keys()
    lolm, hymba = make_model("lolm"), make_model("hymba")
    assert site_params(lolm)["latent.0.mixer"] == lolm.latent.layers[0].num_params()
    assert site_params(hymba)["stack.0.mixer.ssm"] == hymba.stack.blocks[0].mixer.ssm.num_params()


@torch.no_grad()
def test_norms_of_writes_by_hand():
    model, (tokens, _) = make_model("hymba", vocab_size=VOCAB), next(held_out().batches(8))
    statistics = measure_writes(model, [tokens])
    norms = written_norms(model, [tokens], statistics)
    written = observe_writes(model, tokens)
    assert list(norms) == list(model.sites())
    for site in ("stack.1.mixer", "stack.1.mlp"):
        about = written[site] - written[site].mean(dim=(0, 1))
        assert norms[site] == pytest.approx(float(about.square().sum(dim=-1).mean().sqrt()), rel=1e-4)
    for branch in ("attention", "ssm"):
        site = f"stack.1.mixer.{branch}"
        about = model.stack.blocks[1].mixer.out_proj((written[site] - written[site].mean(dim=(0, 1))) / 2)
        assert norms[site] == pytest.approx(float(about.square().sum(dim=-1).mean().sqrt()), rel=1e-4)
    assert all(site.change is None for site in model.sites().values())


# ---------------------------------------------------------------------------------------------- controls


@pytest.mark.parametrize(("arm", "layers", "count"), [("samba", 6, 20), ("griffin", 6, 15), ("jamba", 8, 8), ("hymba", 4, 70)])
def test_labellings_are_all_ways_to_name_the_types(arm, layers, count):
    with torch.no_grad():
        found = measured(make_model(arm, vocab_size=VOCAB, size={"n_layers": layers}), last=False)
    sets = labellings(found, 70)
    halves = len(found.of_type["recurrent"]) == len(found.of_type["attention"])
    assert len(sets) == count * (1 if halves else 2)
    assert len({frozenset(s) for s in sets}) == len(sets)
    assert labellings(found, count - 1) == []


def test_random_sets_are_the_closest_and_never_the_type_itself():
    found = measured(make_model("griffin", vocab_size=VOCAB, size={"n_layers": 6}))
    for kind in names.MIXER_TYPES:
        own = found.of_type[kind]
        for match in ("number", "parameters", "norm"):
            drawn = [c.sites for c in found.controls if (c.type, c.match) == (kind, match)]
            assert len({frozenset(s) for s in drawn}) == len(drawn) == CONFIG.draws
            assert set(own) not in [set(s) for s in drawn]
            assert all(found.damage(s, "mean") is not None for s in drawn)
        assert {len(c.sites) for c in found.controls if (c.type, c.match) == (kind, "number")} == {len(own)}
        others = [s for n in range(1, 6) for s in combinations(found.mixers, n) if set(s) != set(own)]
        best = sorted(abs(found.norm(s) - found.norm(own)) for s in others)[: CONFIG.draws]
        drawn = [abs(found.norm(c.sites) - found.norm(own)) for c in found.controls if (c.type, c.match) == (kind, "norm")]
        assert drawn == pytest.approx(best)
    again = matched_sets(found, CONFIG, 1)
    assert again == found.controls
    assert matched_sets(found, CONFIG, 2) != again
    assert measured(make_model("mamba", vocab_size=VOCAB)).controls == ()


# ---------------------------------------------------------------------------------------------- planted truths


class Planted(nn.Module):
    """Layers that each write, times a gain, which token follows; kinds alternate. What a type knows is what its gains say."""

    def __init__(self, gains, kinds=("mamba1", "attention")):
        super().__init__()
        self.gains = nn.Parameter(torch.tensor(gains), requires_grad=False)
        self.places = {f"stack.{i}.mixer": Site(kinds[i % 2]) for i in range(len(gains))}

    def sites(self):
        return self.places

    def forward(self, tokens_BT):
        follower = torch.where(tokens_BT < CYCLE, (tokens_BT + 1) % CYCLE, tokens_BT)
        told = torch.nn.functional.one_hot(follower, VOCAB).float()
        return sum(site(gain * told) for gain, site in zip(self.gains, self.places.values(), strict=True))


def measured_as_over_seeds(models):
    return [measure_layers(m, held_out(i), held_out(i + 9), CONFIG, seed=i, step=8) for i, m in enumerate(models)]


def told(runs, margin=0.05):
    """(which type is missed more, its share of the norm, which types are unused), over the runs of all seeds."""
    found = t_interval([by.statistic(run, "mean") for run in runs])
    unused = {k for k in names.MIXER_TYPES if by.unused(t_interval([by.damage(run, k, "mean") for run in runs]), margin)}
    return by.missed_more(found, margin), by.share(runs[0]), unused


@pytest.mark.parametrize(
    ("gains", "missed", "share", "unused"),
    [
        ([0.0, 1.0] * 3, "attention", 0.0, {"recurrent"}),
        ([1.0, 0.0] * 3, "recurrent", 1.0, {"attention"}),
        ([1.0, 1.0] * 3, "neither", 0.5, set()),
        ([1.5, 0.5] * 3, "recurrent", 0.75, set()),
    ],
)
def test_types_that_write_nothing_everything_or_the_same_are_told(gains, missed, share, unused):
    assert told(measured_as_over_seeds([Planted(gains) for _ in range(3)])) == (missed, pytest.approx(share), unused)


def test_a_labelling_of_equal_mixers_is_as_good_as_any():
    runs = [measured(Planted([1.0] * 6)), measured(Planted([1.5, 0.5] * 3))]
    equal, unequal = (by.permutation([run], "mean") for run in runs)
    assert len(equal.all) == 20
    assert equal.p_value == 1.0
    assert unequal.p_value == pytest.approx(2 / 20)  # the true one and its mirror image


def trained(arm, frozen, seed=0, steps=40):
    """A small model that learns the cycle with some output maps held at zero."""
    model = make_model(arm, seed=seed, vocab_size=VOCAB)
    for block in model.stack.blocks:
        for tensor in frozen(block):
            tensor.data.zero_()
            tensor.requires_grad_(False)
    sampler = BatchSampler(ArrayStream(4000, VOCAB, seed=7), 8, 24, seed)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    for step in range(steps):
        x, y = sampler.batch(step)
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def out_of(kind):
    """What holds a Samba's mixers of a kind, and its MLPs, at zero."""
    return lambda block: (
        [block.mlp.down.weight]
        + (
            [next(m for n, m in block.mixer.named_children() if n in ("out", "out_proj")).weight]
            if block.mixer_site.kind == kind
            else []
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "frozen", "missed", "share", "bypassed"),
    [
        ("hymba", lambda block: [block.mlp.down.weight, block.mixer.ssm_norm.weight], "attention", 0.0, "recurrent"),
        ("samba", out_of("mamba1"), "attention", 0.0, "recurrent"),
        ("samba", out_of("attention"), "recurrent", 1.0, "attention"),
    ],
)
def test_a_bypassed_branch_is_found_out(arm, frozen, missed, share, bypassed):
    """As in Transformers converted to hybrids (arXiv 2510.05901): trained, with one type that says nothing."""
    runs = measured_as_over_seeds([trained(arm, frozen, seed) for seed in (1, 2)])
    assert told(runs)[1:] == (pytest.approx(share), {bypassed})
    s = t_interval([by.statistic(run, "mean") for run in runs])
    assert (s.value > 0.3) if missed == "recurrent" else (s.value < -0.3)


def test_output_maps_that_are_zeroed_after_training_leave_nothing_to_remove():
    model = trained("samba", lambda block: [])
    whole, cut = measured(model), deepcopy(model)
    with torch.no_grad():
        for block in cut.stack.blocks:
            if block.mixer_site.kind == "mamba1":
                block.mixer.out_proj.weight.zero_()
    found = measured(cut)
    assert by.share(found) == 0.0 < by.share(whole)
    assert by.damage(found, "recurrent", "mean") == 0.0
    assert found.removal().nats == whole.removal(whole.of_type["recurrent"], "zero").nats


# ---------------------------------------------------------------------------------------------- recall


def test_recall_is_scored_where_it_is_asked_alone():
    model = Planted([1.0, 0.0] * 2)
    x = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    y = torch.full_like(x, IGNORED)
    y[:, 1] = x[:, 1] + 1
    y[0, 3] = 0  # asked, and not what the model says
    found = {(row.type, row.by): row for row in recall_by_type(model, [(x, y)], [x], 1)}
    assert found["attention", "zero"].accuracy == pytest.approx(2 / 3)
    assert found["recurrent", "zero"].nats == pytest.approx(math.log(VOCAB))
    assert set(found) == {(kind, how) for kind in ("recurrent", "attention") for how in names.REPLACEMENTS}
