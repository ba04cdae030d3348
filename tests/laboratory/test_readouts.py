"""Refits that must win back what a change of the readout alone has spoilt."""

import math

import pytest
import torch
from known_models import (
    MARGIN,
    WIDTH,
    Unchanged,
    entropy_of_targets,
    followers,
    held_out,
    loss_of_reader,
    pairs_of,
    reader,
    share_right,
    training,
)

from lolm.interventions import Intervention, InterventionError, change_branch, change_site, force_gate, match_norm, replace_branch
from lolm.laboratory.readouts import Effort, refit_readouts
from lolm.laboratory.temperature import fit_temperature
from lolm.records.names import READOUTS

SET, VALIDATION, TRAIN = held_out(), held_out(seed=2), training(15)
UNIFORM = math.log(WIDTH)
MIRROR = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]
TURNED = change_site("o", "turned", lambda o, _: o @ MIRROR)  # loses nothing


def refit_readout(model, intervention, readout, train, validation, scored, batch_size, *effort):
    """The row of one readout under one intervention."""
    (row,) = refit_readouts(model, [intervention], train, validation, scored, batch_size, *effort, readouts=[readout])
    return row


def calibrated(scale: float):
    """Logits that are ln p of the targets' own distribution, times ``scale``: T = scale is right."""
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    targets = torch.tensor([0] * 4 + [1] * 2 + [2] + [3])
    return p.log().expand(8, 4) * scale, targets


@pytest.mark.parametrize("scale", [1e-3, 0.2, 1.0, 3.0, 1e3])
def test_a_temperature_undoes_a_scale(scale):
    logits, targets = calibrated(scale)
    assert fit_temperature(lambda: [(logits[:3], targets[:3]), (logits[3:], targets[3:])]) == pytest.approx(scale, rel=1e-4)


def test_temperatures_at_the_ends():
    logits, targets = calibrated(1.0)
    assert fit_temperature(lambda: [(-logits, targets)]) == pytest.approx(1e6, rel=0.01)  # worse than a uniform guess
    certain = torch.eye(4)
    assert fit_temperature(lambda: [(certain, torch.arange(4))]) < 0.05  # never wrong: the colder the better
    assert fit_temperature(lambda: [(torch.zeros(4, 4), torch.arange(4))]) == 1.0  # all the same


def test_logits_times_three_are_recovered_by_a_temperature_of_three_more():
    """Tripling a head without a norm triples the logits. The reader's best temperature gives its bet the probability ρ."""
    model, right = reader(surface=True, latent=True), share_right(SET)
    model.head_norm = torch.nn.Identity()
    best = math.log((WIDTH - 1) * right / (1 - right)) / MARGIN  # of MARGIN, so that e^a / (e^a + 31) = ρ
    base = refit_readout(model, Intervention("none"), "temperature", SET.batches(4), SET, SET, 4).temperature
    assert base == pytest.approx(1 / best, rel=1e-4)
    model.embedding.weight.data.div_(base)  # now calibrated on SET
    model.head_norm, tripled = torch.nn.Identity(), change_site("o", "tripled", lambda o, _: 3 * o)
    model.latent = Unchanged()
    found = refit_readout(model, tripled, "temperature", SET.batches(4), SET, SET, 4)
    full, damaged = (loss_of_reader(SET, scale=best * times) for times in (1, 3))
    assert (found.full, found.damaged) == pytest.approx((full, damaged), rel=1e-4)
    assert found.temperature == pytest.approx(3.0, rel=1e-3)
    assert found.refitted == pytest.approx(found.full, abs=1e-5)
    assert found.recovered == pytest.approx(1.0, abs=1e-3)


def test_refitted_affines_undo_a_negation_and_no_temperature_does():
    """Gains of −1 bring −v back, and a readout that learns does better than the reader, who is right less often than it bets.

    Negated, the bet has a logit a below the 31 others: −ln p is ln(31 + e^−a), and a more where the bet is right. It is right
    so often that the best temperature is an endless one, which leaves a uniform guess.
    """
    model = reader(surface=False, latent=True)
    negated = change_branch("latent", "negated", lambda v, _: -v)
    found = refit_readout(model, negated, "affine", TRAIN, VALIDATION, SET, 4, Effort(300, 5e-2))
    assert found.full == pytest.approx(loss_of_reader(SET), rel=1e-4)
    assert found.damaged == pytest.approx(math.log(WIDTH - 1 + math.exp(-MARGIN)) + share_right(SET) * MARGIN, rel=1e-4)
    assert found.refitted < found.full
    assert found.recovered == pytest.approx(1, abs=0.02)  # the reader that was never negated gains as much
    temperature = refit_readout(model, negated, "temperature", TRAIN, VALIDATION, SET, 4)
    assert temperature.refitted == pytest.approx(UNIFORM, rel=1e-4)


@pytest.mark.parametrize("readout", ["head", "head_scratch"])
def test_a_refitted_head_wins_back_a_turned_o(readout):
    """The head E M reads o M as E reads o; one that learns does better than the reader, who is right less often than it bets."""
    model = reader(surface=False, latent=True)
    found = refit_readout(model, TURNED | match_norm(), readout, TRAIN, VALIDATION, SET, 4, Effort(300, 5e-2))
    x, y = pairs_of(SET)
    bets = torch.nn.functional.one_hot(followers(x), WIDTH).double()
    bets = (bets - 1 / WIDTH) / bets.std(dim=-1, unbiased=False, keepdim=True)
    logits = torch.nn.functional.layer_norm(bets @ MIRROR.double(), [WIDTH])
    assert found.damaged == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)), rel=1e-4)
    assert found.damaged > UNIFORM
    assert found.refitted < found.full
    assert found.recovered == pytest.approx(1, abs=0.1)


LOST = replace_branch("latent", "zero")
BOTH_LOST = LOST | replace_branch("surface", "zero")


@pytest.mark.parametrize("readout", ["temperature", "head", "head_scratch"])
def test_a_map_without_a_bias_makes_nothing_of_nothing(readout):
    found = refit_readout(reader(False, True), LOST, readout, TRAIN, VALIDATION, SET, 4, Effort(50))
    assert (found.damaged, found.refitted) == pytest.approx((UNIFORM, UNIFORM), rel=1e-6)
    assert found.recovered == pytest.approx(1 - (UNIFORM - found.intact) / (UNIFORM - found.full), rel=1e-5)
    assert found.recovered <= 0  # all that the refit brings the intact reader is taken off


@pytest.mark.parametrize(("readout", "removal"), [("affine", LOST), ("affine", BOTH_LOST), ("fine_tune", BOTH_LOST)])
def test_what_is_lost_leaves_a_constant_and_no_constant_beats_the_entropy(readout, removal):
    """Biases learn how often each token comes, which is worth something: so much, and no more."""
    found = refit_readout(reader(False, True), removal, readout, TRAIN, VALIDATION, SET, 4, Effort(300, 5e-2, 100, 1e-2))
    assert entropy_of_targets(SET) > found.full
    assert entropy_of_targets(SET) - 1e-6 < found.refitted < UNIFORM


def test_fine_tuning_teaches_the_path_that_is_left_what_no_readout_can():
    """The surface of this reader says nothing, though it could: nothing but its own map stands between it and the token."""
    model = reader(surface=False, latent=True)
    effort = Effort(fine_tune_steps=100, fine_tune_rate=1e-2)
    for removal in (LOST, force_gate(1.0)):
        found = refit_readout(model, removal, "fine_tune", TRAIN, VALIDATION, SET, 4, effort)
        assert found.damaged == pytest.approx(UNIFORM, rel=1e-6)
        assert found.refitted < entropy_of_targets(SET)  # so it depends on the token
    again = refit_readout(model, force_gate(1.0), "fine_tune", TRAIN, VALIDATION, SET, 4, effort)
    assert again == found


def test_all_refits_together_are_the_single_ones():
    model, effort = reader(True, True), Effort(3, fine_tune_steps=2)
    interventions = [Intervention("none"), force_gate(1.0)]
    rows = refit_readouts(model, interventions, TRAIN, VALIDATION, SET, 4, effort)
    assert [(row.intervention, row.value, row.readout) for row in rows] == [
        (i.name, i.value, readout) for i in interventions for readout in READOUTS
    ]
    for row, i in zip(rows, [i for i in interventions for _ in READOUTS], strict=True):
        assert row == refit_readout(model, i, row.readout, TRAIN, VALIDATION, SET, 4, effort)


def test_the_model_stays_as_it_was():
    model = reader(surface=True, latent=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for readout in READOUTS:
        refit_readout(model, TURNED, readout, TRAIN, VALIDATION, SET, 4, Effort(3, fine_tune_steps=3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_nothing_damaged_has_no_share_recovered():
    untouched = refit_readout(
        reader(True, True), Intervention("none"), "head", TRAIN, VALIDATION, SET, 4, Effort(0, fine_tune_steps=0)
    )
    assert untouched.full == untouched.damaged
    assert untouched.recovered is None
    assert untouched.refitted == untouched.intact == pytest.approx(untouched.full)
    assert untouched.kept == 0


def test_errors_say_what_to_do():
    model = reader(surface=True, latent=True)
    with pytest.raises(InterventionError, match="no readout 'tuner'"):
        refit_readout(model, TURNED, "tuner", TRAIN, VALIDATION, SET, 4)
    with pytest.raises(InterventionError, match="at least one batch"):
        refit_readout(model, TURNED, "head", [], VALIDATION, SET, 4)
    model.head_norm = model.fusion.surface_norm = model.fusion.latent_norm = torch.nn.Identity()
    with pytest.raises(InterventionError, match="no norm"):
        refit_readout(model, TURNED, "affine", TRAIN, VALIDATION, SET, 4)


def test_a_refit_that_only_overfits_is_not_kept():
    """Two windows of noise to learn from: the head learns them by heart, at every check the loss on other text is higher."""
    model = reader(surface=True, latent=True)
    generator = torch.Generator().manual_seed(0)
    noise = [tuple(torch.randint(0, WIDTH, (1, 32), generator=generator) for _ in range(2)) for _ in range(2)]
    for readout in ("head", "affine", "fine_tune"):
        effort = Effort(40, 0.1, 40, 0.1, checks=4)
        found = refit_readout(model, Intervention("none"), readout, noise, VALIDATION, SET, 4, effort)
        assert found.kept == 0
        assert found.refitted == pytest.approx(found.full, rel=1e-6)


def test_validation_text_says_where_a_refit_stops_and_test_text_does_not():
    """On the text that it learns from, the last check is the best; which text is scored in the end changes nothing."""
    model, effort = reader(surface=False, latent=True), Effort(20, 5e-2, checks=5)

    def kept(validation, scored):
        return refit_readout(model, TURNED, "head", SET.batches(4), validation, scored, 4, effort).kept

    assert kept(SET, SET) == kept(SET, held_out(seed=7)) == 20
    assert kept(VALIDATION, SET) in (0, 4, 8, 12, 16, 20)


def test_what_is_won_back_is_net_of_what_the_intact_model_gains():
    """A head three times too loud: the same temperature is right for both, and nothing of the damage is won back by it."""
    model = reader(surface=True, latent=True)
    model.embedding.weight.data.mul_(3)
    found = refit_readout(model, LOST, "temperature", TRAIN, VALIDATION, SET, 4)
    left = found.refitted - found.intact
    assert found.intact < found.full
    assert found.recovered == pytest.approx(1 - left / (found.damaged - found.full))
