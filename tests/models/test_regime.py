"""The regime layer: logits, noise, temperature."""

import numpy as np
import pytest
import torch
from builders import make_model

from lolm.config import RegimeConfig, RegimeSize
from lolm.models.regime import Regime, exponential_noise, gumbel_softmax

CPU = torch.device("cpu")


def make(size=None, **config) -> Regime:
    torch.manual_seed(0)
    return Regime(RegimeConfig(**config), size or RegimeSize(5, 3), 4)


@pytest.mark.parametrize("kernel", [0, 1, 4, 7])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_logits_and_embedding_by_hand(kernel, clamp):
    regime = make(neighbour_conv=kernel, clamp=clamp).eval()
    z, h, m = torch.randn(3, 1, 9, 4)
    logits, p, r = regime(z, h, m)
    raw = torch.cat((z, h, m), dim=-1)[0].detach().numpy() @ regime.logits.weight.detach().numpy().T  # (T, R)
    wanted = raw.copy()
    if kernel:
        weight, bias = regime.conv.weight.detach().numpy(), regime.conv.bias.detach().numpy()  # (out, in, k)
        assert float(regime.conv_weight) == pytest.approx(0.1)
        for t in range(9):
            near = sum(weight[:, :, j] @ raw[t - kernel + 1 + j] for j in range(kernel) if t - kernel + 1 + j >= 0)
            wanted[t] += 0.1 * (near + bias)
    if clamp is not None:
        wanted = wanted.clip(-clamp, clamp)
        assert (np.abs(raw) > clamp).any()
    np.testing.assert_allclose(logits[0].detach(), wanted, rtol=1e-4, atol=1e-6)
    shares = np.exp(wanted) / np.exp(wanted).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p[0].detach(), shares, rtol=1e-4)
    np.testing.assert_allclose(r[0].detach(), shares @ regime.codebook.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_temperature_goes_linearly_and_stays():
    regime = make(RegimeSize(5, 3, tau_start=1.0, tau_end=0.5, tau_steps=200))
    assert [regime.tau_at(step) for step in (0, 50, 100, 200, 10_000)] == [1.0, 0.875, 0.75, 0.5, 0.5]
    regime.set_step(50)
    assert float(regime.tau) == 0.875
    assert "tau" in regime.state_dict()  # it travels with the weights


@pytest.mark.parametrize(("rule", "tau"), [("one", 1.0), ("trained", 0.5)])
def test_temperature_of_evaluation(rule, tau):
    regime = make(RegimeSize(5, 3, tau_steps=10), eval_temperature=rule).eval()
    regime.set_step(10)
    x = torch.randn(1, 6, 4)
    logits, p, _ = regime(x, x, x)
    torch.testing.assert_close(p, torch.softmax(logits / tau, dim=-1))
    again = regime(x, x, x)[1]
    assert torch.equal(p, again)  # no noise


def test_a_temperature_of_zero_is_held_above_a_hundredth():
    regime = make(RegimeSize(5, 3, tau_end=0.0, tau_steps=1), eval_temperature="trained").eval()
    regime.set_step(5)
    x = torch.randn(1, 6, 4)
    logits, p, _ = regime(x, x, x)
    torch.testing.assert_close(p, torch.softmax(logits / 0.01, dim=-1))


def test_noise_comes_from_its_own_generator():
    regime = make().train()
    x = torch.randn(1, 6, 4)

    def sample(seed, state):
        torch.manual_seed(state)
        return regime(x, x, x, regime.noise((1, 6), torch.Generator().manual_seed(seed)))[1]

    assert torch.equal(sample(1, 10), sample(1, 11))
    assert not torch.equal(sample(1, 10), sample(2, 10))


def test_argmax_of_gumbel_samples_is_distributed_as_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    noise = exponential_noise((200_000, 4), CPU, torch.Generator().manual_seed(0))
    samples = gumbel_softmax(logits.expand(200_000, 4), 0.7, noise)
    torch.testing.assert_close(samples.sum(dim=-1), torch.ones(200_000))
    shares = torch.bincount(samples.argmax(dim=-1), minlength=4) / 200_000
    torch.testing.assert_close(shares, logits.softmax(dim=-1), rtol=0, atol=4 * (0.25 / 200_000) ** 0.5)


def test_low_temperature_makes_one_hot_samples_and_high_temperature_uniform_ones():
    logits = torch.randn(500, 8)
    noise = exponential_noise((500, 8), CPU, torch.Generator().manual_seed(0))
    assert gumbel_softmax(logits, 0.01, noise).max(dim=-1).values.mean() > 0.97
    torch.testing.assert_close(gumbel_softmax(logits, 1e4, noise), torch.full((500, 8), 1 / 8), rtol=0, atol=1e-3)


def test_a_model_hands_step_and_generator_on():
    model = make_model("lolm").train()
    model.set_step(50)
    assert float(model.regime.tau) == 0.75  # 1 → 0.5 over 100 steps at this scale
    tokens = torch.zeros(1, 20, dtype=torch.long)
    a = model.streams(tokens, model.noise(tokens, torch.Generator().manual_seed(3))).p
    assert torch.equal(a, model.streams(tokens, model.noise(tokens, torch.Generator().manual_seed(3))).p)
    assert not torch.equal(a, model.streams(tokens, model.noise(tokens, torch.Generator().manual_seed(4))).p)
