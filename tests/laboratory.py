"""Models whose dependence on their branches is known, and what the tests of the laboratory share."""

from __future__ import annotations

import torch
from builders import ArrayStream, make_model, random_tokens
from torch import nn

from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.interventions import Context, Intervention, intervene, measure, observe
from lolm.models.language_model import LanguageModel

WIDTH = 32
CYCLE = 17  # of ArrayStream: token i is mostly followed by i + 1
TOKENS, OTHERS = random_tokens(3, 24), random_tokens(3, 24, seed=1)


def held_out(n_tokens: int = 320, vocab_size: int = WIDTH) -> EvaluationSet:
    return EvaluationSet(ArrayStream(1000, vocab_size), n_tokens, 32)


def training(batches: int = 4, vocab_size: int = WIDTH) -> list[tuple[torch.Tensor, torch.Tensor]]:
    sampler = BatchSampler(ArrayStream(4000, vocab_size, seed=1), 8, 32, 1)
    return [sampler.batch(step) for step in range(batches)]


@torch.no_grad()
def reader(surface: bool, latent: bool) -> LanguageModel:
    """A LOLM that knows the cycle, and knows it by the given branches alone.

    Embedding and surface are the identity, z = h, the gate is 0.5, and a branch that is read maps each token to its follower;
    the map of the other one is zero.
    """
    model = make_model(
        "lolm", vocab_size=WIDTH, gate={"form": "fixed", "value": 0.5}, memory={"enabled": False}, regime={"enabled": False}
    )
    assert model.d_model == WIDTH
    model.embedding.weight.copy_(torch.eye(WIDTH))
    for block in model.surface.blocks:
        for layer in block.residual_outputs:
            layer.weight.zero_()
    model.latent = nn.Identity()
    follower = torch.eye(WIDTH)
    follower[:, :CYCLE] = torch.eye(WIDTH)[:, [(i + 1) % CYCLE for i in range(CYCLE)]]
    for read, layer in ((surface, model.fusion.surface), (latent, model.fusion.latent)):
        layer.weight.copy_(follower if read else torch.zeros_like(follower))
    return model


@torch.no_grad()
def context_of(model: LanguageModel, **changes) -> Context:
    """Statistics over TOKENS; OTHERS are the other documents."""
    return Context(measure(model, [TOKENS[:2], TOKENS[2:]]), lambda: observe(model, model.streams(OTHERS)), **changes)


@torch.no_grad()
def fused(model: LanguageModel, intervention: Intervention, context: Context | None = None) -> torch.Tensor:
    """o on TOKENS under an intervention."""
    return intervene(model, intervention, model.streams(TOKENS), context_of(model) if context is None else context)


@torch.no_grad()
def seen(model: LanguageModel, tokens: torch.Tensor = TOKENS) -> dict[str, torch.Tensor]:
    return observe(model, model.streams(tokens))
