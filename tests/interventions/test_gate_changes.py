"""Each change of the gate where its effect is known by hand."""

import pytest
import torch
from builders import make_model
from known_models import TOKENS, context_of, fused

from lolm.interventions import (
    Intervention,
    InterventionError,
    binarise_gate,
    force_gate,
    freeze_gate_globally,
    freeze_gate_per_dimension,
    permute_gate_dimensions,
    shuffle_gate_positions,
    swap_gate,
)

NONE = Intervention("none")
GATE_CONTROLS = (
    freeze_gate_per_dimension, freeze_gate_globally, shuffle_gate_positions, permute_gate_dimensions, binarise_gate, swap_gate,
)  # fmt: skip


def with_gate(form, **options):
    return make_model("lolm", gate={"form": form} | options)


@pytest.fixture
def learned():
    """Gates that vary over positions and dimensions, on both sides of 0.5."""
    model = make_model("lolm")
    with torch.no_grad():
        model.gate.hidden.weight.mul_(20)
        model.gate.out.weight.mul_(20)
    return model


@pytest.fixture
def static():
    """One value per dimension at every position."""
    model = with_gate("static_dimension")
    with torch.no_grad():
        model.gate.bias.copy_(torch.linspace(-2, 2, model.d_model))
    return model


@torch.no_grad()
def gate(model, intervention):
    return intervention.apply(model.streams(TOKENS), context_of(model)).g


@torch.no_grad()
def test_freezing_a_static_gate_at_its_mean_per_dimension_changes_nothing(static):
    torch.testing.assert_close(fused(static, freeze_gate_per_dimension()), fused(static, NONE))
    torch.testing.assert_close(gate(static, freeze_gate_globally()), torch.full((3, 24, static.d_model), 0.5))


@torch.no_grad()
def test_a_frozen_gate_keeps_the_means(learned):
    g = learned.streams(TOKENS).g
    frozen = gate(learned, freeze_gate_per_dimension())
    torch.testing.assert_close(frozen, g.mean(dim=(0, 1)).expand_as(g))
    assert g.std(dim=(0, 1)).min() > 0.01
    torch.testing.assert_close(gate(learned, freeze_gate_globally()), g.mean().expand_as(g))


@torch.no_grad()
def test_shuffling_positions_changes_nothing_but_the_order(learned, static):
    assert torch.equal(fused(static, shuffle_gate_positions()), fused(static, NONE))
    g, shuffled = learned.streams(TOKENS).g, gate(learned, shuffle_gate_positions())
    assert not torch.equal(shuffled, g)
    for before, after in zip(g, shuffled, strict=True):  # sequence by sequence, whole vectors
        assert sorted(map(tuple, before.tolist())) == sorted(map(tuple, after.tolist()))


@torch.no_grad()
def test_permuting_dimensions_changes_nothing_where_all_are_alike(static):
    for form in ("scalar", "static_scalar", "fixed"):
        model = with_gate(form)
        assert torch.equal(fused(model, permute_gate_dimensions()), fused(model, NONE))
    g, permuted = static.streams(TOKENS).g, gate(static, permute_gate_dimensions())
    assert not torch.equal(permuted, g)
    assert torch.equal(permuted.sort(dim=-1).values, g.sort(dim=-1).values)
    assert torch.equal(permuted, permuted[:1, :1].expand_as(g))
    later = permute_gate_dimensions().apply(static.streams(TOKENS), context_of(static, batch=5)).g
    assert torch.equal(later, permuted)


@torch.no_grad()
def test_a_binary_gate_is_its_own_binarisation(learned):
    for value in (0.0, 1.0):
        model = with_gate("fixed", value=value)
        assert torch.equal(fused(model, binarise_gate()), fused(model, NONE))
    g, binary = learned.streams(TOKENS).g, gate(learned, binarise_gate())
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(binary == 1, g >= 0.5)


@torch.no_grad()
def test_swapping_a_half_changes_nothing_and_twice_is_none(learned):
    model = with_gate("fixed", value=0.5)
    assert torch.equal(fused(model, swap_gate()), fused(model, NONE))
    torch.testing.assert_close(gate(learned, swap_gate()), 1 - learned.streams(TOKENS).g)
    torch.testing.assert_close(gate(learned, swap_gate() | swap_gate()), learned.streams(TOKENS).g)
    assert torch.equal(fused(learned, force_gate(1.0) | swap_gate()), fused(learned, force_gate(0.0)))


@torch.no_grad()
@pytest.mark.parametrize("make", GATE_CONTROLS)
def test_nothing_but_the_gate_is_changed(learned, make):
    s = learned.streams(TOKENS)
    changed = make().apply(s, context_of(learned))
    assert not torch.equal(changed.g, s.g)
    assert all(getattr(changed, name) is getattr(s, name) for name in ("h", "z", "m", "r"))
    without = with_gate("none")
    with pytest.raises(InterventionError, match="no gate to change"):
        make().apply(without.streams(TOKENS), context_of(without))
