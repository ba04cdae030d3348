# lolm.models.init of this project, with its imports made flat.
"""Initial values, in one place."""

from __future__ import annotations

import math

import torch
from torch import nn

from .lolm_config_architecture import RecipeConfig
from .lolm_mixers_base import keeps_init
from .lolm_models_language_model import LanguageModel

STD = 0.02


def initialise(model: LanguageModel, recipe: RecipeConfig, seed: int | None = None) -> None:
    """Set every weight and buffer of a model to its initial value, also of one that has none yet.

    Whatever a model was before, it has afterwards what :func:`lolm.models.build.build_model` gives with the same random
    state. To build one that is sharded before it is filled::

        with torch.device("meta"):
            model = build_model(run)
        model.to_empty(device="cpu")
        initialise(model, run.architecture.recipe, seed)

    Args:
        seed: for torch's random state, which is left behind as the draws left it; None takes the state as it is.
    """
    if seed is not None:
        torch.manual_seed(seed)
    model.reset_parameters()
    apply_recipe(model, recipe)


@torch.no_grad()
def apply_recipe(model: LanguageModel, recipe: RecipeConfig) -> None:
    """Turn the framework's initial values (``reset_parameters``) into those of the recipe.

    ============================  ==========================  =======================================
    parameter                     ``framework`` (published)   ``scaled`` (sound)
    ============================  ==========================  =======================================
    token embedding = head        N(0, 1)                     N(0, 0.02)
    linear maps                   U(±1/√fan_in)               N(0, 0.02)
    surface's residual outputs    U(±1/√fan_in)               N(0, 0.02) / √writes
    biases                        U(±1/√fan_in)               0
    norms                         1 and 0                     1 and 0
    inside SSM layers             as constructed: A = −(1 … N), skip 1, Δ in [0.001, 0.1] (Mamba-1); in the surface the map
                                  that writes into the residual stream is also divided by √writes in ``scaled``
    memory slots                  N(0, 0.02)                  the same
    regime codebook               N(0, 1)                     the same
    gate bias, when configured    its value                   the same
    logits of a static gate       its bias, also when 0       the same
    ============================  ==========================  =======================================

    *writes* counts the additions to the surface's residual stream: two for a block with an MLP, one for a block without, so that
    √writes is √(2L) for a Transformer and √L for a stack of Mamba blocks, as upstream. Parameters marked by
    :func:`lolm.mixers.base.keep_init` keep their values but for that division.
    """
    if recipe.init == "framework":
        return
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            if not keeps_init(module, "weight"):
                module.weight.normal_(0.0, STD)
            bias = getattr(module, "bias", None)
            if bias is not None and not keeps_init(module, "bias"):
                bias.zero_()
    # A sum of `writes` independent additions has a variance of that many of them: the stream ends as large as one write.
    writes = sum(block.residual_writes for block in model.stack.blocks)
    for block in model.stack.blocks:
        for residual_output in block.residual_outputs:
            residual_output.weight.mul_(1 / math.sqrt(writes))
