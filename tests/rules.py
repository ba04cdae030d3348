"""Models whose answers are known: a rule from tokens to logits in the clothes of a language model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from lolm.models.language_model import State, Streams


class RuleModel(nn.Module):
    """``rule`` maps tokens (B, T) to logits (B, T, V); the rest is what evaluation asks of a model."""

    def __init__(self, vocab_size: int, rule: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.vocab_size, self.rule = vocab_size, rule
        self.embedding = nn.Embedding(vocab_size, 1)
        self.lengths: list[int] = []  # of the sequences it was given

    def streams(self, tokens_BT: torch.Tensor) -> Streams:
        self.lengths.append(tokens_BT.shape[1])
        return Streams(h=self.rule(tokens_BT))

    def prefill(self, tokens_BT: torch.Tensor) -> tuple[torch.Tensor, State]:
        streams = self.streams(tokens_BT)
        return streams.h[:, -1], State(tokens_BT.shape[1], {"tokens": tokens_BT}, streams)

    def step(self, tokens_B: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        tokens_BT = torch.cat((state.parts["tokens"], tokens_B[:, None]), dim=1)
        streams = Streams(h=self.rule(tokens_BT))
        return streams.h[:, -1], State(state.length + 1, {"tokens": tokens_BT}, streams)

    def fuse(self, streams: Streams) -> torch.Tensor:
        return streams.h

    def logits(self, o: torch.Tensor) -> torch.Tensor:
        return o

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        return self.logits(self.fuse(self.streams(tokens_BT)))


def certain(answer_BT: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Logits that put all but e⁻⁵⁰ of the mass on the answer."""
    return 50.0 * F.one_hot(answer_BT, vocab_size).float()


def uniform(vocab_size: int) -> RuleModel:
    return RuleModel(vocab_size, lambda tokens: torch.zeros(*tokens.shape, vocab_size))


def copier(vocab_size: int) -> RuleModel:
    """Says what followed the last earlier occurrence of the current token, or 0: solves both recall tasks."""

    def rule(tokens_BT: torch.Tensor) -> torch.Tensor:
        answer = torch.zeros_like(tokens_BT)
        for row, tokens in enumerate(tokens_BT.tolist()):
            follower: dict[int, int] = {}
            for t, token in enumerate(tokens):
                answer[row, t] = follower.get(token, 0)
                if t + 1 < len(tokens):
                    follower[token] = tokens[t + 1]
        return certain(answer, vocab_size)

    return RuleModel(vocab_size, rule)
