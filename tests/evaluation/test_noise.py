"""What pure noise gives, against the spec's figures, closed forms and a simulation in NumPy."""

import math

import numpy as np
import pytest

from lolm.config import ConfigError, ObjectiveConfig
from lolm.evaluation.noise import regime_noise


def test_noise_reproduces_the_spec():
    """32 codes: usage entropy 3.465 of 3.466, all alive; 64 codes at τ = 0.95: L_reg about −2.13 (spec F7)."""
    few = regime_noise(32, 1.0, 16_384)
    assert few.alive == 32
    assert few.usage_entropy == pytest.approx(3.465, abs=5e-4)
    assert few.usage_entropy < math.log(32)
    many = regime_noise(64, 0.95, 32_768)
    assert many.loss == pytest.approx(-2.13, abs=0.02)
    assert many.loss_std < 0.01


def test_counts_of_argmaxes_follow_the_closed_forms():
    """Shares are multinomial: R (1 − (1 − 1/R)^n) codes are alive, and the entropy falls short of ln R by (R − 1) / 2n."""
    short = regime_noise(64, 0.95, 100, draws=400)
    assert short.alive == pytest.approx(64 * (1 - (1 - 1 / 64) ** 100), abs=4 * short.alive_std / 20)
    assert short.alive_std > 0
    long = regime_noise(64, 0.95, 8192, draws=50)
    assert math.log(64) - long.usage_entropy == pytest.approx(63 / (2 * 8192), rel=0.1)


def test_the_loss_has_the_weights_of_the_arm():
    rng = np.random.default_rng(0)
    p = np.exp(rng.gumbel(size=(20_000, 8)) / 0.6)
    p /= p.sum(axis=1, keepdims=True)
    shares = np.bincount(p.argmax(axis=1), minlength=8) / len(p)
    balance, h = 8 * (p.mean(axis=0) * shares).sum(), -(p * np.log(p)).sum(axis=1).mean()
    length = np.linalg.norm(p, axis=1)
    sticky = -((p[1:] * p[:-1]).sum(axis=1) / (length[1:] * length[:-1])).mean()
    minimised = ObjectiveConfig(regime_balance_weight=0.0, regime_entropy_weight=1.0)
    switches = (p.argmax(axis=1)[1:] != p.argmax(axis=1)[:-1]).mean()
    for objectives, wanted in (
        (None, 0.5 * balance - h + 0.2 * sticky),
        (minimised, h + 0.2 * sticky),
        (ObjectiveConfig(regime="entropy"), h + 0.1 * switches),
    ):
        assert regime_noise(8, 0.6, 20_000, objectives).loss == pytest.approx(wanted, abs=0.01)
    none = regime_noise(8, 0.6, 100, ObjectiveConfig(regime="none"))
    assert (none.loss, none.loss_std) == (None, None)
    assert none.alive_std is not None


def test_the_seed_decides():
    assert regime_noise(8, 1.0, 50) == regime_noise(8, 1.0, 50)
    assert regime_noise(8, 1.0, 50, seed=1) != regime_noise(8, 1.0, 50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": 0}, "codes must be at least 1"),
        ({"tokens": 1}, "tokens must be at least 2"),
        ({"draws": 1}, "draws must be at least 2"),
        ({"tau": 0.0}, "tau must be above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        regime_noise(**({"codes": 8, "tau": 1.0, "tokens": 10} | change))
