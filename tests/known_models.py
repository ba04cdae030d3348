"""Models whose dependence on their branches is known, and what the tests of the laboratory share."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from builders import ArrayStream, make_model, random_tokens
from torch import nn

from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.interventions import Context, Intervention, intervene, measure, observe, streams_under
from lolm.models.language_model import LanguageModel

WIDTH = 32
CYCLE = 17  # of ArrayStream: token i is mostly followed by i + 1
TOKENS, OTHERS = random_tokens(3, 24), random_tokens(3, 24, seed=1)


class Unchanged(nn.Identity):
    """A latent stream that is its input."""

    sites: ClassVar[dict] = {}


def held_out(n_tokens: int = 320, vocab_size: int = WIDTH, seed: int = 0) -> EvaluationSet:
    return EvaluationSet(ArrayStream(1000, vocab_size, seed), n_tokens, 32)


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
    for block in model.stack.blocks:
        for layer in block.residual_outputs:
            layer.weight.zero_()
    model.latent = Unchanged()
    follower = torch.eye(WIDTH)
    follower[:, :CYCLE] = torch.eye(WIDTH)[:, [(i + 1) % CYCLE for i in range(CYCLE)]]
    assert model.head_norm.eps == model.fusion.surface_norm.eps == 1e-5  # too small to be seen in what follows by hand
    for read, layer in ((surface, model.fusion.surface), (latent, model.fusion.latent)):
        layer.weight.copy_(follower if read else torch.zeros_like(follower))
    return model


def followers(tokens: torch.Tensor) -> torch.Tensor:
    """The token that a reader bets on after each token."""
    return torch.where(tokens < CYCLE, (tokens + 1) % CYCLE, tokens)


def pairs_of(data: EvaluationSet) -> tuple[torch.Tensor, torch.Tensor]:
    """All inputs and targets of a set, each (N,)."""
    x, y = zip(*data.batches(4), strict=True)
    return torch.cat(x).flatten(), torch.cat(y).flatten()


def share_right(data: EvaluationSet) -> float:
    """How often the follower comes."""
    x, y = pairs_of(data)
    return float((followers(x) == y).double().mean())


MARGIN = WIDTH / math.sqrt(WIDTH - 1)  # by which a normalised one-hot vector stands out, which are a reader's logits


def loss_of_reader(data: EvaluationSet, right: float | None = None, scale: float = 1.0) -> float:
    """ln(1 + 31 e^−a) + (1 − ρ) a, nats a token, for logits that are a = ``scale`` · MARGIN above the others at one token.

    Args:
        right: ρ, how often that token comes; by default that is the follower.
    """
    a, right = scale * MARGIN, share_right(data) if right is None else right
    return math.log1p((WIDTH - 1) * math.exp(-a)) + (1 - right) * a


def loss_without_the_context(data: EvaluationSet) -> float:
    """Of a reader whose one branch is at its mean: the logits are the followers' frequencies, normalised."""
    x, y = pairs_of(data)
    frequency = torch.bincount(followers(x), minlength=WIDTH).double() / len(x)
    logits = (frequency - frequency.mean()) / frequency.std(unbiased=False)
    return float(logits.logsumexp(dim=0) - logits[y].mean())


def entropy_of_targets(data: EvaluationSet) -> float:
    """Nats a token. No prediction that is the same everywhere does better (Gibbs)."""
    frequency = torch.bincount(pairs_of(data)[1], minlength=WIDTH).double() / data.n_tokens
    return float(-(frequency * frequency.clamp(min=1e-300).log()).sum())


@torch.no_grad()
def context_of(model: LanguageModel, **changes) -> Context:
    """Statistics over TOKENS; OTHERS are the other documents."""
    return Context(measure(model, [TOKENS[:2], TOKENS[2:]]), lambda: observe(model, model.streams(OTHERS)), **changes)


@torch.no_grad()
def fused(model: LanguageModel, intervention: Intervention, context: Context | None = None) -> torch.Tensor:
    """o on TOKENS under an intervention."""
    context = context_of(model) if context is None else context
    return intervene(model, intervention, streams_under(model, intervention, TOKENS, context), context)


@torch.no_grad()
def seen(model: LanguageModel, tokens: torch.Tensor = TOKENS) -> dict[str, torch.Tensor]:
    return observe(model, model.streams(tokens))
