"""Initial values, in one place."""

from __future__ import annotations

import math

import torch
from torch import nn

from lolm.config import RecipeConfig
from lolm.models.language_model import LanguageModel

STD = 0.02


@torch.no_grad()
def init_weights(model: LanguageModel, recipe: RecipeConfig) -> None:
    """Set the initial weights of a freshly constructed model.

    ============================  ==========================  =======================================
    parameter                     ``framework`` (published)   ``scaled`` (sound)
    ============================  ==========================  =======================================
    token embedding = head        N(0, 1)                     N(0, 0.02)
    linear maps                   U(±1/√fan_in)               N(0, 0.02)
    maps into the residual        U(±1/√fan_in)               N(0, 0.02 / √(2 · layers))
    biases                        U(±1/√fan_in)               0
    norms                         1 and 0                     1 and 0
    inside SSM layers             as constructed: A = −(1 … N), skip 1, Δ in [0.001, 0.1] (Mamba-1)
    memory slots                  N(0, 0.02)                  the same
    regime codebook               N(0, 1)                     the same
    gate bias, when configured    its value                   the same
    ============================  ==========================  =======================================

    Parameters marked by :func:`lolm.mixers.base.keep_init` are never touched.
    """
    if recipe.init == "framework":
        return
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            if not getattr(module.weight, "keep_init", False):
                module.weight.normal_(0.0, STD)
            bias = getattr(module, "bias", None)
            if bias is not None and not getattr(bias, "keep_init", False):
                bias.zero_()
    for block in model.surface.blocks:
        for residual_output in block.residual_outputs:
            if not getattr(residual_output.weight, "keep_init", False):
                residual_output.weight.mul_(1 / math.sqrt(2 * len(model.surface.blocks)))
