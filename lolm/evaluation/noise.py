"""What the regime layer's numbers are when it has learned nothing: uniform logits, Gumbel-softmax noise alone (spec F7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lolm.config import ConfigError, ObjectiveConfig
from lolm.models.regime import gumbel_softmax
from lolm.objectives import entropy, regime_balance, regime_entropy


@dataclass(frozen=True)
class NoiseExpectation:
    """Means over batches of noise, and by how much one batch differs from them (standard deviations).

    Attributes:
        alive: distinct codes among the argmaxes of a batch.
        usage_entropy: of their shares, nats; ln R at most.
        loss: L_reg, unweighted; None where there is no regime loss.
    """

    alive: float
    usage_entropy: float
    loss: float | None
    alive_std: float
    usage_entropy_std: float
    loss_std: float | None


def regime_noise(
    codes: int, tau: float, tokens: int, objectives: ObjectiveConfig | None = None, draws: int = 8, seed: int = 0
) -> NoiseExpectation:
    """Monte Carlo over p = softmax(G / τ) with independent standard Gumbel noise G of R codes, in batches of ``tokens`` tokens.

    Tokens are independent here, so it makes no difference how a batch is cut into sequences.

    Args:
        codes: R.
        tau: temperature τ of the samples.
        tokens: of the batch whose codes are counted; in a short one codes are missing by chance.
        objectives: which regime loss, and its weights; default is v3's.
        draws: batches, at least two.
        seed: of the noise.

    Raises:
        ConfigError: no codes, a temperature that is not positive, fewer than two tokens or draws.
    """
    for name, value, least in (("codes", codes, 1), ("tokens", tokens, 2), ("draws", draws, 2)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    if tau <= 0:
        raise ConfigError(f"tau must be above 0, got {tau}")
    objectives = ObjectiveConfig() if objectives is None else objectives
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(draws):
        p_BTR = gumbel_softmax(torch.zeros(1, tokens, codes), tau, generator)
        counts = torch.bincount(p_BTR.argmax(dim=-1).flatten(), minlength=codes).double()
        row = [float((counts > 0).sum()), float(entropy(counts / counts.sum()))]
        if objectives.regime == "balance":
            row.append(float(regime_balance(p_BTR, objectives.regime_balance_weight, objectives.regime_entropy_weight)))
        elif objectives.regime == "entropy":
            row.append(float(regime_entropy(p_BTR)))
        rows.append(row)
    values = torch.tensor(rows, dtype=torch.float64)
    means, deviations = values.mean(dim=0).tolist(), values.std(dim=0).tolist()
    none = [None] * (3 - len(means))
    return NoiseExpectation(*means, *none, *deviations, *none)
