"""Refits that must win back what a change of the readout alone has spoilt."""

import pytest
import torch
from laboratory import WIDTH, held_out, reader, training

from lolm.evaluation.readout import READOUTS, Effort, Refit, refit_readout, refit_readouts
from lolm.evaluation.temperature import fit_temperature
from lolm.interventions import Intervention, InterventionError, change_branch, match_norm, replace_branch

SET, TRAIN = held_out(), training(15)
MIRROR = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]
TURNED = Intervention("turned", output=lambda o, _: o @ MIRROR)  # loses nothing


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
    """Tripling a head without a norm triples the logits; the learned temperature may differ from 1 beforehand."""
    model = reader(surface=True, latent=True)
    model.head_norm = torch.nn.Identity()
    base = refit_readout(model, Intervention("none"), "temperature", SET.batches(4), SET, 4).temperature
    model.embedding.weight.data.div_(base)  # now calibrated on SET
    model.head_norm, tripled = torch.nn.Identity(), Intervention("tripled", output=lambda o, _: 3 * o)
    model.latent = torch.nn.Identity()
    found = refit_readout(model, tripled, "temperature", SET.batches(4), SET, 4)
    assert found.damaged > found.full + 0.05
    assert found.temperature == pytest.approx(3.0, rel=1e-3)
    assert found.refitted == pytest.approx(found.full, abs=1e-5)
    assert found.recovered == pytest.approx(1.0, abs=1e-3)


def scrambled():
    scale = torch.linspace(-1, 2, WIDTH)
    return change_branch("latent", "scrambled", lambda v, _: v * scale + 0.5)


def test_refitted_affines_win_back_a_scrambled_affine():
    """v_d · s_d + 0.5 with s_d ≠ 0 is undone by gains 1 / s_d of the norm that comes before the change."""
    model = reader(surface=False, latent=True)
    found = refit_readout(model, scrambled(), "affine", TRAIN, SET, 4, Effort(300, 5e-2))
    assert found.damaged > found.full + 0.3
    assert found.recovered > 0.9
    temperature = refit_readout(model, scrambled(), "temperature", TRAIN, SET, 4)
    assert temperature.recovered < found.recovered - 0.1


@pytest.mark.parametrize("readout", ["head", "head_scratch"])
def test_a_refitted_head_wins_back_a_turned_o(readout):
    model = reader(surface=False, latent=True)
    found = refit_readout(model, TURNED | match_norm(), readout, TRAIN, SET, 4, Effort(300, 5e-2))
    assert found.damaged > found.full + 1
    assert found.recovered > 0.9


@pytest.mark.parametrize("readout", ["temperature", "affine", "head", "head_scratch"])
def test_no_readout_wins_back_what_is_lost(readout):
    """Without the branch that is read there is only the unigram distribution to learn: about ln 17 of the cycle."""
    found = refit_readout(reader(False, True), replace_branch("latent", "zero"), readout, TRAIN, SET, 4, Effort(50, fine_tune_steps=50))
    assert found.refitted > found.full + 0.5
    assert found.recovered < 0.6


def test_the_model_stays_as_it_was():
    model = reader(surface=True, latent=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for readout in ("affine", "head"):
        refit_readout(model, TURNED, readout, TRAIN, SET, 4, Effort(3, fine_tune_steps=3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_nothing_damaged_has_no_share_recovered():
    assert Refit("head", 1.0, 1.0, 0.9).recovered is None
    assert Refit("head", 1.0, 3.0, 1.5).recovered == 0.75
    untouched = refit_readout(reader(True, True), Intervention("none"), "head", TRAIN, SET, 4, Effort(0, fine_tune_steps=0))
    assert untouched.full == untouched.damaged
    assert untouched.refitted == pytest.approx(untouched.full)


def test_errors_say_what_to_do():
    model = reader(surface=True, latent=True)
    with pytest.raises(InterventionError, match="no readout 'tuner'"):
        refit_readout(model, TURNED, "tuner", TRAIN, SET, 4)
    with pytest.raises(InterventionError, match="at least one batch"):
        refit_readout(model, TURNED, "head", [], SET, 4)
    model.head_norm = model.fusion.surface_norm = model.fusion.latent_norm = torch.nn.Identity()
    with pytest.raises(InterventionError, match="no norm"):
        refit_readout(model, TURNED, "affine", TRAIN, SET, 4)
