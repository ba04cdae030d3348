"""What it takes to add an intervention, and what composing it with others gives."""

import math

import pytest
import torch
from builders import make_model
from known_models import TOKENS, WIDTH, followers, fused, held_out, loss_of_reader, pairs_of, reader, seen

from lolm.interventions import Intervention, change_branch, force_gate, match_norm, remove_stream
from lolm.laboratory.scoring import score_interventions


def reverse_latent() -> Intervention:
    """v := v with its dimensions in reverse order: keeps every value, loses which dimension it belongs to."""
    return change_branch("latent", "latent_reversed", lambda v, _: v.flip(-1))


def test_it_is_measured_beside_the_others_and_costs_what_the_hand_says():
    """The reader then bets on token 31 − f where it bet on f, and is right as often as that token comes."""
    model, data = reader(surface=False, latent=True), held_out()
    none, reversed_, kept = score_interventions(
        model, [Intervention("none"), reverse_latent(), reverse_latent() | match_norm()], data, 4
    )
    tokens, targets = pairs_of(data)
    right = float((WIDTH - 1 - followers(tokens) == targets).double().mean())
    assert none.nats == pytest.approx(loss_of_reader(data), rel=1e-4)
    assert reversed_.nats == pytest.approx(loss_of_reader(data, right), rel=1e-4)
    assert reversed_.accuracy == pytest.approx(right)
    assert reversed_.nats > math.log(WIDTH)
    assert kept.intervention == "latent_reversed+match_norm"
    assert kept.nats == pytest.approx(reversed_.nats, rel=1e-5)  # a change of order keeps the norm


@torch.no_grad()
def test_it_composes_with_what_acts_elsewhere_in_either_order():
    model = make_model("lolm")
    s, v = model.streams(TOKENS), seen(model)["v"]
    wanted = v.flip(-1) + model.fusion.regime(s.r)
    parts = [reverse_latent(), force_gate(0.0), remove_stream("memory")]
    for a, b, c in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        torch.testing.assert_close(fused(model, parts[a] | parts[b] | parts[c]), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(fused(model, reverse_latent() | reverse_latent()), fused(model, Intervention("none")))
