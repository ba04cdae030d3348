"""The laboratory on models whose dependence on their branches is known."""

import math
from dataclasses import replace

import pytest
import torch
from builders import PARAMS, make_model
from known_models import CYCLE, WIDTH, entropy_of_targets, held_out, loss_of_reader, loss_without_the_context, reader
from torch import nn

from lolm.analysis.dependency import statistics
from lolm.interventions import Intervention, force_gate, full_set, match_norm, measure, replace_branch, resample_source
from lolm.interventions.core import Context
from lolm.laboratory.cached_activations import cached_activations
from lolm.laboratory.contributions import contributions
from lolm.laboratory.scoring import score_interventions
from lolm.models.language_model import LanguageModel
from lolm.records.names import REPLACEMENTS
from lolm.records.schema import Ablation, Addend, Condition, References

SET = held_out()
MARGIN = PARAMS.analysis.inversion_margin


class Noise(nn.Module):
    sites = {}

    """A latent stream that says nothing: independent of the tokens, another at every position, the same in every run."""

    def forward(self, h_BTD: torch.Tensor) -> torch.Tensor:
        return torch.randn(h_BTD.shape, generator=torch.Generator().manual_seed(0))


def inversion(rows: list[Condition], step: int) -> dict[str, float]:
    """The inversion statistic by way of removal, of rows alone."""
    nothing = References(0.0, 0.0, 0.0, 0.0)
    return statistics(Ablation("arm", 1, "name", "0", "test", 1, 1, nothing, tuple(rows), (), (), ()), step)


def noisy() -> LanguageModel:
    """Reads the surface, and hears noise on its latent branch as loudly."""
    model = reader(surface=True, latent=False)
    model.latent = Noise()
    with torch.no_grad():
        model.fusion.latent.weight.copy_(torch.eye(WIDTH))
    return model


def statistics_of(model: LanguageModel) -> tuple[dict[str, float], list[float]]:
    """The inversion statistic in every way of removing a branch, and its null of random halves."""
    context = Context(measure(model, (x for x, _ in SET.batches(4))))
    rows = score_interventions(model, full_set(model, context, [0.0, 1.0], [0.25], 1, 8), SET, 4, context)
    nats = {row.intervention: row.nats for row in rows}
    null = [nats[f"split_{draw}_second"] - nats[f"split_{draw}_first"] for draw in range(8)]
    return inversion(rows, 0), null


def test_a_latent_branch_of_noise_is_not_called_an_inversion():
    """Without it the loss is that of a reader of the surface alone; without the surface nothing is left but guesses."""
    found, _ = statistics_of(noisy())
    assert set(found) == {"gate", "zero", "mean", "resample", "gaussian"}
    assert max(found.values()) < -MARGIN
    assert found["mean"] < loss_of_reader(SET) - entropy_of_targets(SET) < 0


def test_a_latent_branch_that_alone_informs_is_called_an_inversion_and_chance_is_not():
    """Without the latent branch's context the head bets on frequencies; without the surface it loses nothing."""
    found, null = statistics_of(reader(surface=False, latent=True))
    assert min(found.values()) > MARGIN
    assert found["mean"] == pytest.approx(loss_without_the_context(SET) - loss_of_reader(SET), abs=1e-3)
    assert found["zero"] == pytest.approx(math.log(WIDTH) - loss_of_reader(SET), abs=1e-3)
    assert max(abs(value) for value in null) < found["mean"]
    mirrored, _ = statistics_of(reader(surface=True, latent=False))
    for way in ("gate", "zero", "mean", "resample"):
        assert mirrored[way] == pytest.approx(-found[way], abs=1e-5)


def test_a_symmetric_model_is_not_called_an_inversion():
    found, _ = statistics_of(reader(surface=True, latent=True))
    for way in ("gate", "zero", "mean", "resample"):
        assert found[way] == pytest.approx(0, abs=1e-6)
    assert abs(found["gaussian"]) < MARGIN  # two draws of noise of the same kind


def test_a_way_of_removal_that_was_not_measured_has_no_inversion():
    def row(step, intervention, nats):
        return Condition(step, intervention, None, nats, 0.0, 0.0, 0.0, 0.0)

    rows = [row(1, "latent_mean", 3.0), row(2, "surface_mean", 1.0), row(2, "latent_mean", 1.5)]
    assert inversion(rows, 1) == {}
    assert inversion(rows, 2) == {"mean": 0.5}


@torch.no_grad()
@pytest.mark.parametrize("arm", ["lolm", "lolm_concat", "lolm_v0", "lolm_no_latent", "transformer"])
def test_terms_computed_once_change_no_bit(arm):
    model = make_model(arm, vocab_size=WIDTH)
    context = Context(measure(model, (x for x, _ in SET.batches(4))))
    chosen = full_set(model, context, [0.0, 1.0], [0.25], 1, 2)
    cached = next(iter(cached_activations(model, SET.batches(4), context)))
    plain = [cached.fused(model, intervention) for intervention in chosen]
    known = cached.known_terms(model)
    assert all(torch.equal(cached.fused(model, i, known), o) for i, o in zip(chosen, plain, strict=True))


def losses(model, interventions):
    context = Context(measure(model, (x for x, _ in SET.batches(4))))
    rows = score_interventions(model, [Intervention("none"), *interventions], SET, 4, context)
    return [row.nats for row in rows]


@pytest.mark.parametrize("read", ["surface", "latent"])
def test_only_the_branch_that_is_read_is_missed(read):
    other = {"surface": "latent", "latent": "surface"}[read]
    model = reader(surface=read == "surface", latent=read == "latent")
    every = [replace_branch(branch, by) for branch in (read, other) for by in REPLACEMENTS]
    full, *rest = losses(model, every + [i | match_norm() for i in every[4:]] + [force_gate(v) for v in (0.0, 1.0)])
    assert full == pytest.approx(loss_of_reader(SET), rel=1e-4)
    assert rest[0] == pytest.approx(math.log(WIDTH))  # nothing is left: a uniform guess
    assert rest[1] == pytest.approx(loss_without_the_context(SET), rel=1e-4)
    assert min(rest[2:4]) > entropy_of_targets(SET) > full  # another text's bets, and noise, are no better than none
    assert rest[4:8] == pytest.approx([full] * 4, abs=1e-6)
    assert rest[8:12] == pytest.approx([full] * 4, abs=1e-5)
    at = {"latent": 0, "surface": 1}
    gates = rest[12:]
    assert gates[1 - at[read]] == pytest.approx(math.log(WIDTH))
    assert gates[at[read]] == pytest.approx(full, rel=1e-3)  # the head's norm makes up for the doubled length


def test_two_equal_branches_are_missed_equally():
    model = reader(surface=True, latent=True)
    for by in ("zero", "mean", "resample"):
        surface, latent = losses(model, [replace_branch("surface", by), replace_branch("latent", by)])[1:]
        assert surface == pytest.approx(latent, abs=1e-6)
    full, one, zero = losses(model, [force_gate(1.0), force_gate(0.0)])
    assert one == pytest.approx(zero, abs=1e-6)
    assert one == pytest.approx(full, abs=1e-6)  # g = 0.5 of two equal branches is either of them
    damaged = losses(model, [replace_branch("latent", "resample")])[1]
    assert damaged > full + MARGIN  # what is called an inversion, and here is a damage that both share


def test_the_whole_set_agrees_for_a_reader_of_the_latent_branch():
    """All that touches the surface branch, or the dimensions of it, costs nothing; the latent stream reads h before it."""
    model = reader(surface=False, latent=True)
    context = Context(measure(model, (x for x, _ in SET.batches(4))))
    rows = score_interventions(model, full_set(model, context, [], [0.25], 1), SET, 4, context)
    through = [f"surface_{kind}" for kind in ("total", "indirect", "into_latent", "alone")]
    surface = [row for row in rows if row.intervention.startswith("surface") and not row.intervention.startswith(tuple(through))]
    surface = [row.nats for row in surface]
    assert len(surface) > 10
    assert surface == pytest.approx([rows[0].nats] * len(surface), abs=1e-5)
    by_name = {row.intervention: row for row in rows}
    assert by_name["latent_dimensions_lowest_contribution"].nats < by_name["latent_dimensions_highest_contribution"].nats


def test_the_other_document_is_half_the_set_away():
    """With every window's partner known, resampling z is scoring each window's answers against its partner's text."""
    model = reader(surface=False, latent=True)
    row = score_interventions(model, [resample_source()], SET, 3)[0]
    windows = torch.stack([torch.from_numpy(w) for w in SET.windows()])
    with torch.no_grad():
        log_probs = model(windows.roll(-(len(windows) // 2), 0)[:, :-1]).log_softmax(dim=-1)
    nats = -log_probs.gather(2, windows[:, 1:, None]).mean()
    assert row.nats == pytest.approx(float(nats), rel=1e-5)


def test_losses_by_window_are_those_of_windows_scored_alone():
    model = reader(surface=True, latent=True)
    plain, one = score_interventions(model, [Intervention("none"), force_gate(1.0)], SET, 3, by_window=[("none", None)])
    assert one.window_nats == ()
    windows = [torch.from_numpy(window)[None] for window in SET.windows()]
    with torch.no_grad():
        alone = [-model(w[:, :-1]).log_softmax(dim=-1).gather(2, w[:, 1:, None]).mean().item() for w in windows]
    assert plain.window_nats == pytest.approx(alone, rel=1e-5)
    assert len({round(nats, 3) for nats in alone}) > 1 < len(alone)


def test_fitted_temperatures_are_an_addition_and_never_hurt_where_they_were_fitted():
    model = reader(surface=True, latent=True)
    interventions = [Intervention("none"), force_gate(1.0), replace_branch("latent", "resample")]
    plain = score_interventions(model, interventions, SET, 4)
    fitted = score_interventions(model, interventions, SET, 4, calibration=SET)
    for before, after in zip(plain, fitted, strict=True):
        assert before == replace(after, temperature=None, nats_fitted=None)
        assert after.nats_fitted <= after.nats + 1e-6


@torch.no_grad()
@pytest.mark.parametrize("read", ["surface", "latent"])
def test_contributions_of_a_reader_of_one_branch(read):
    model = reader(surface=read == "surface", latent=read == "latent")
    found = contributions(model, SET, 4)
    assert found.gate == pytest.approx(0.5)  # which says nothing of what is read
    assert found.addends[read].variance_share == pytest.approx(1.0)
    for name, shares in found.addends.items():
        if name != read:
            assert shares == Addend(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert found.addends[read].logit_centred > 1


def test_contributions_of_equal_branches_are_equal():
    found = contributions(reader(surface=True, latent=True), SET, 4).addends
    assert vars(found["surface"]) == pytest.approx(vars(found["latent"]))
    for share in ("variance_share", "share", "spread_share"):
        assert getattr(found["surface"], share) == pytest.approx(0.5)
    assert CYCLE < WIDTH
