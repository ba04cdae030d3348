"""Random halves of both branches together: the null that the inversion statistic is held against."""

import pytest
import torch
from builders import make_model
from known_models import TOKENS, context_of, fused, seen

from lolm.interventions import force_gate, random_halves, replace_branch, split_set


def test_halves_share_nothing_and_leave_nothing_out():
    for draw in range(8):
        first, second = random_halves(16, draw, seed=3)
        assert len(first) == len(second) == 16
        assert sorted(torch.cat((first, second)).tolist()) == list(range(32))
        assert first.tolist() == sorted(first.tolist())
    drawn = {tuple(random_halves(16, draw, seed)[0].tolist()) for draw in range(8) for seed in (1, 2)}
    assert len(drawn) == 16
    assert random_halves(16, 5, seed=1)[0].tolist() == random_halves(16, 5, seed=1)[0].tolist()


def test_halves_favour_neither_branch():
    """Of D draws out of 2·D, half are of each branch: the count is hypergeometric with variance D² D² / ((2D)² (2D − 1))."""
    d, draws = 32, 200
    counts = [int((random_halves(d, draw, seed=0)[0] < d).sum()) for draw in range(draws)]
    deviation = (d * d / (4 * (2 * d - 1)) / draws) ** 0.5
    assert sum(counts) / draws == pytest.approx(d / 2, abs=4 * deviation)


@torch.no_grad()
@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_a_half_is_at_its_mean_and_the_rest_as_it_was(gate):
    model = make_model("lolm")
    s, d = model.streams(TOKENS), model.d_model
    branch, field, offset = (("surface", "u", 0), ("latent", "v", d))[int(gate == 0.0)]
    x = seen(model)[field]
    for i, intervention in enumerate(split_set(d, 2, seed=0)):
        half = random_halves(d, i // 2, seed=0)[i % 2]
        removed = half[(half >= offset) & (half < offset + d)] - offset
        assert 0 < len(removed) < d, branch
        wanted = x.clone()
        wanted[..., removed] = x.mean(dim=(0, 1))[removed]
        found = fused(model, intervention | force_gate(gate)) - sum(model.fusion.beside(s.m, s.r).values())
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_both_halves_are_both_branches():
    model = make_model("lolm")
    context = context_of(model)
    first, second = split_set(model.d_model, 1, seed=0)
    assert [(i.name, i.value) for i in (first, second)] == [("split_0_first", None), ("split_0_second", None)]
    both = replace_branch("surface", "mean") | replace_branch("latent", "mean")
    assert torch.equal(fused(model, first | second, context), fused(model, both, context))
