"""The laboratory on models whose dependence on their branches is known."""

import math

import pytest
import torch
from laboratory import CYCLE, WIDTH, held_out, reader

from lolm.evaluation.ablate import score_interventions
from lolm.evaluation.contribution import contributions
from lolm.interventions import Intervention, force_gate, full_set, match_norm, measure, replace_branch, resample_source
from lolm.interventions.branches import REPLACEMENTS
from lolm.interventions.core import Context

SET = held_out()


def losses(model, interventions):
    context = Context(measure(model, (x for x, _ in SET.batches(4))))
    rows = score_interventions(model, [Intervention("none"), *interventions], SET, 4, context)
    return [row["nats"] for row in rows]


@pytest.mark.parametrize("read", ["surface", "latent"])
def test_only_the_branch_that_is_read_is_missed(read):
    other = {"surface": "latent", "latent": "surface"}[read]
    model = reader(surface=read == "surface", latent=read == "latent")
    every = [replace_branch(branch, by) for branch in (read, other) for by in REPLACEMENTS]
    full, *rest = losses(model, every + [i | match_norm() for i in every[4:]] + [force_gate(v) for v in (0.0, 1.0)])
    assert full < 2.5  # it knows the cycle: the unigram entropy of 17 tokens is 2.8
    assert min(rest[:4]) > full + 0.5
    assert rest[0] == pytest.approx(math.log(WIDTH))  # nothing is left: a uniform guess
    assert rest[4:8] == pytest.approx([full] * 4, abs=1e-6)
    assert rest[8:12] == pytest.approx([full] * 4, abs=1e-5)
    at = {"latent": 0, "surface": 1}
    gates = rest[12:]
    assert gates[1 - at[read]] == pytest.approx(math.log(WIDTH))
    assert gates[at[read]] < full + 0.05  # the head's norm makes up for the doubled length


def test_two_equal_branches_are_missed_equally():
    model = reader(surface=True, latent=True)
    for by in ("zero", "mean", "resample"):
        surface, latent = losses(model, [replace_branch("surface", by), replace_branch("latent", by)])[1:]
        assert surface == pytest.approx(latent, abs=1e-6)
    full, one, zero = losses(model, [force_gate(1.0), force_gate(0.0)])
    assert one == pytest.approx(zero, abs=1e-6)
    assert one == pytest.approx(full, abs=1e-6)  # g = 0.5 of two equal branches is either of them
    damaged = losses(model, [replace_branch("latent", "resample")])[1]
    assert damaged > full + 0.1


def test_the_whole_set_agrees_for_a_reader_of_the_latent_branch():
    """All that touches the surface branch, or the dimensions of it, costs nothing."""
    model = reader(surface=False, latent=True)
    context = Context(measure(model, (x for x, _ in SET.batches(4))))
    rows = score_interventions(model, full_set(model, context, [], [0.25], 1), SET, 4, context)
    surface = [row["nats"] for row in rows if row["intervention"].startswith("surface")]
    assert len(surface) > 10
    assert surface == pytest.approx([rows[0]["nats"]] * len(surface), abs=1e-5)
    by_name = {row["intervention"]: row for row in rows}
    assert by_name["latent_dimensions_lowest_contribution"]["nats"] < by_name["latent_dimensions_highest_contribution"]["nats"]


def test_the_other_document_is_half_the_set_away():
    """With every window's partner known, resampling z is scoring each window's answers against its partner's text."""
    model = reader(surface=False, latent=True)
    row = score_interventions(model, [resample_source()], SET, 3)[0]
    windows = torch.stack([torch.from_numpy(w) for w in SET.windows()])
    with torch.no_grad():
        log_probs = model(windows.roll(-(len(windows) // 2), 0)[:, :-1]).log_softmax(dim=-1)
    nats = -log_probs.gather(2, windows[:, 1:, None]).mean()
    assert row["nats"] == pytest.approx(float(nats), rel=1e-5)


def test_fitted_temperatures_are_an_addition_and_never_hurt_where_they_were_fitted():
    model = reader(surface=True, latent=True)
    interventions = [Intervention("none"), force_gate(1.0), replace_branch("latent", "resample")]
    plain = score_interventions(model, interventions, SET, 4)
    fitted = score_interventions(model, interventions, SET, 4, calibration=SET)
    for before, after in zip(plain, fitted, strict=True):
        assert {key: after[key] for key in before} == before
        assert set(after) - set(before) == {"temperature", "nats_fitted"}
        assert after["nats_fitted"] <= after["nats"] + 1e-6


@torch.no_grad()
@pytest.mark.parametrize("read", ["surface", "latent"])
def test_contributions_of_a_reader_of_one_branch(read):
    model = reader(surface=read == "surface", latent=read == "latent")
    found = contributions(model, SET, 4)
    assert found["gate"] == pytest.approx(0.5)  # which says nothing of what is read
    assert found["addends"][read]["variance_share"] == pytest.approx(1.0)
    for name, shares in found["addends"].items():
        if name != read:
            assert shares == {"mean_norm": 0, "variance_share": 0, "logit": 0, "logit_centred": 0}
    assert found["addends"][read]["logit_centred"] > 1


def test_contributions_of_equal_branches_are_equal():
    found = contributions(reader(surface=True, latent=True), SET, 4)["addends"]
    assert found["surface"] == pytest.approx(found["latent"])
    assert found["surface"]["variance_share"] == pytest.approx(0.5)
    assert CYCLE < WIDTH
