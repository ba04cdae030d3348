"""Groups of dimensions: which ones, how many, how large, and what removing them does."""

import pytest
import torch
from builders import make_model
from known_models import TOKENS, context_of, fused, seen

from lolm.interventions import (
    Intervention,
    InterventionError,
    Statistics,
    contribution,
    dimension_set,
    force_gate,
    random_group,
    ranked,
    remove_dimensions,
    replace_branch,
)

WEIGHTS = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 0.5, 8.0])  # contributions
STATISTICS = Statistics(
    {"g": torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.4, 0.6])}, {"gu": WEIGHTS.sqrt(), "gv": WEIGHTS.flip(0).sqrt()}
)


@torch.no_grad()
def test_removed_dimensions_are_at_their_mean_and_the_others_as_they_were():
    model = make_model("lolm")
    for branch, field, gate in (("surface", "u", 1.0), ("latent", "v", 0.0)):
        x = seen(model)[field]
        s = model.streams(TOKENS)
        dimensions = torch.tensor([3, 30, 7])
        intervention = force_gate(gate) | remove_dimensions(branch, dimensions, "some")
        found = fused(model, intervention) - sum(model.fusion.beside(s.m, s.r).values())
        wanted = x.clone()
        wanted[..., dimensions] = x.mean(dim=(0, 1))[dimensions]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_removing_no_dimension_is_nothing_and_removing_all_is_the_mean():
    model = make_model("lolm")
    none, every = torch.tensor([], dtype=torch.int64), torch.arange(model.d_model)
    for branch in ("surface", "latent"):
        assert torch.equal(fused(model, remove_dimensions(branch, none, "none")), fused(model, Intervention("none")))
        assert torch.equal(fused(model, remove_dimensions(branch, every, "all")), fused(model, replace_branch(branch, "mean")))
    assert remove_dimensions("latent", every, "all").value == model.d_model


def test_orders():
    assert ranked(STATISTICS, "surface", "gate").tolist() == [1, 5, 3, 6, 2, 7, 4, 0]
    assert ranked(STATISTICS, "surface", "contribution").tolist() == [6, 1, 3, 4, 2, 0, 5, 7]
    assert ranked(STATISTICS, "latent", "contribution").tolist() == [1, 6, 4, 3, 5, 7, 2, 0]
    with pytest.raises(InterventionError, match="cannot order dimensions by 'taste'"):
        ranked(STATISTICS, "latent", "taste")
    with pytest.raises(InterventionError, match="by gate where the model has one"):
        ranked(Statistics({}, STATISTICS.std), "latent", "gate")


@torch.no_grad()
def test_contribution_is_the_variance_of_what_the_gate_lets_through():
    model = make_model("lolm")
    found = contribution(context_of(model).statistics, "latent")
    torch.testing.assert_close(found.float(), seen(model)["gv"].flatten(0, 1).var(dim=0, unbiased=False), rtol=1e-3, atol=1e-6)


def test_random_groups_of_equal_size():
    groups = [random_group(STATISTICS, "surface", torch.tensor([0, 1, 2]), "size", 0, draw) for draw in range(20)]
    assert all(len(set(group.tolist())) == 3 for group in groups)
    assert len({tuple(sorted(group.tolist())) for group in groups}) > 5
    assert groups[0].tolist() == random_group(STATISTICS, "surface", torch.tensor([5, 6, 7]), "size", 0, 0).tolist()


@pytest.mark.parametrize("like", [[7], [6], [0, 1, 2], [5, 7], list(range(8))])
def test_random_groups_of_equal_norm_cannot_come_nearer_by_taking_one_more(like):
    target = float(WEIGHTS[like].sum())
    for draw in range(20):
        group = random_group(STATISTICS, "surface", torch.tensor(like), "norm", 0, draw).tolist()
        total = float(WEIGHTS[group].sum())
        assert group
        assert len(set(group)) == len(group)
        assert total <= target + 1e-5
        assert all(total + float(WEIGHTS[d]) > target - 1e-5 for d in range(8) if d not in group)


def test_an_unknown_match_is_an_error():
    with pytest.raises(InterventionError, match="match random dimensions by 'colour'"):
        random_group(STATISTICS, "surface", torch.tensor([1]), "colour", 0, 0)


def test_the_set_names_each_group_once():
    rows = [(i.name, i.value) for i in dimension_set(STATISTICS, "latent", [2, 4], 3, seed=0)]
    assert len(rows) == len(set(rows)) == 2 * (4 * (1 + 3) + 3)
    assert rows[:2] == [("latent_dimensions_lowest_gate", 2.0), ("latent_dimensions_lowest_gate_norm_0", 2.0)]
    assert ("latent_dimensions_highest_contribution_norm_2", 4.0) in rows
    assert rows[-1] == ("latent_dimensions_random_2", 4.0)
    without = [i.name for i in dimension_set(Statistics({}, STATISTICS.std), "latent", [2], 1, seed=0)]
    assert not any("gate" in name for name in without)
    assert len(without) == 2 * 2 + 1
