"""Held-out loss: nats per token, bits per byte and top-1 accuracy on a fixed set of tokens. Never clipped."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from lolm.data.batches import EvaluationSet
from lolm.models.language_model import LanguageModel
from lolm.records import names
from lolm.records.schema import Score


def ranked_first(scores: torch.Tensor) -> torch.Tensor:
    """Which entry of each row is the largest, the first of equals: (…,) for (…, V). On CPUs by NumPy, which is faster there."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.detach().numpy().argmax(axis=-1))
    return scores.argmax(dim=-1)


class ScoreSum:
    """Adds up token losses over batches in float64."""

    def __init__(self) -> None:
        self.nats, self.correct, self.tokens = 0.0, 0, 0

    def add(self, log_probs_NV: torch.Tensor, targets_N: torch.Tensor) -> None:
        """Add N tokens, given the log-probabilities over the vocabulary."""
        self.nats -= float(log_probs_NV.gather(1, targets_N[:, None]).double().sum())
        self.correct += int((ranked_first(log_probs_NV) == targets_N).sum())
        self.tokens += len(targets_N)

    def score(self, n_bytes: int) -> Score:
        """``n_bytes``: UTF-8 bytes of all added targets."""
        return Score(self.nats / self.tokens, self.nats / (n_bytes * math.log(2)), self.correct / self.tokens)


@torch.no_grad()
def score_model(model: LanguageModel, held_out: EvaluationSet, batch_size: int) -> tuple[Score, float | None]:
    """Score a model on a set, in evaluation mode.

    Returns:
        the score, and the mean gate over all positions and dimensions (None for a model without a gate).
    """
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    total, gate_sum, gated = ScoreSum(), 0.0, 0  # gated: sequences with a gate
    for x_BT, y_BT in held_out.batches(batch_size):
        streams = model.streams(x_BT.to(device))  # kept apart from the logits, for the gate
        logits = model.logits(model.fuse(streams)).float().flatten(0, 1)
        total.add(F.log_softmax(logits, dim=-1), y_BT.to(device).flatten())
        if streams.g is not None:
            gate_sum += float(streams.g.double().mean()) * len(x_BT)
            gated += len(x_BT)
    model.train(was_training)
    return total.score(held_out.n_bytes), gate_sum / gated if gated else None


def set_losses(model: LanguageModel, held_out: EvaluationSet, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """:func:`token_losses` of the N windows of a set, (N, T) each."""
    return token_losses(model, np.stack(list(held_out.windows())), batch_size)


def score_of(nats_NT: np.ndarray, correct_NT: np.ndarray, n_bytes: int) -> Score:
    """The score of a set from its token losses; ``n_bytes``: UTF-8 bytes of all targets."""
    nats = float(nats_NT.sum())
    return Score(nats / nats_NT.size, nats / (n_bytes * math.log(2)), float(correct_NT.mean()))


def validation_metrics(model: LanguageModel, held_out: EvaluationSet, batch_size: int) -> dict[str, float]:
    """:func:`score_model` under the names that a run's series has for them: what training is given as its ``evaluate``."""
    score, gate = score_model(model, held_out, batch_size)
    metrics = {names.VAL_NATS: score.nats, names.VAL_BITS_PER_BYTE: score.bits_per_byte, names.VAL_ACCURACY: score.accuracy}
    return metrics if gate is None else metrics | {names.VAL_GATE_MEAN: gate}


@torch.no_grad()
def token_losses(model: LanguageModel, windows_NL: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Loss of every single target, in evaluation mode, for whoever wants to group them.

    Args:
        windows_NL: N windows of L ids, of which L − 1 are inputs and L − 1 targets.

    Returns:
        nats (N, L − 1) float64, and whether the target ranked first (N, L − 1).
    """
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    nats, correct = [], []
    for first in range(0, len(windows_NL), batch_size):
        tokens_BL = torch.from_numpy(windows_NL[first : first + batch_size]).to(device)
        logits_BTV, targets_BT = model(tokens_BL[:, :-1]).float(), tokens_BL[:, 1:]
        nats.append(F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT, reduction="none").double().cpu().numpy())
        correct.append((ranked_first(logits_BTV) == targets_BT).cpu().numpy())
    model.train(was_training)
    return np.concatenate(nats), np.concatenate(correct)
