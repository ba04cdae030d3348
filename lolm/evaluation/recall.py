"""Accuracy and loss at the positions that a synthetic task asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F

from lolm.data.synthetic import IGNORED, SyntheticSampler, SyntheticTask
from lolm.evaluation.held_out import ranked_first
from lolm.models.language_model import LanguageModel
from lolm.records import names

EVALUATION_BATCH = 64  # sequences


@torch.no_grad()
def score_recall(model: LanguageModel, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """Share of asked positions whose target ranks first, and mean nats there, in evaluation mode.

    Args:
        batches: inputs and targets (B, T); positions whose target is ``IGNORED`` don't count.
    """
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    nats, correct, asked = 0.0, 0, 0
    for x_BT, y_BT in batches:
        asked_BT = (y_BT != IGNORED).to(device)
        logits_NV = model(x_BT.to(device))[asked_BT].float()
        target_N = y_BT.to(device)[asked_BT]
        nats += float(F.cross_entropy(logits_NV, target_N, reduction="none").double().sum())
        correct += int((ranked_first(logits_NV) == target_N).sum())
        asked += len(target_N)
    model.train(was_training)
    return correct / asked, nats / asked


def recall_batches(
    task: SyntheticTask, sequences: int, seed: int, split: str = "test"
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``sequences`` sequences of a task with their targets, from their own random stream of the seed and split, whatever the
    batch size of training."""
    sizes = [min(EVALUATION_BATCH, sequences - first) for first in range(0, sequences, EVALUATION_BATCH)]
    return (SyntheticSampler(task, size, seed, split).batch(i) for i, size in enumerate(sizes))


def recall_evaluation(task: SyntheticTask, sequences: int, seed: int) -> Callable[[LanguageModel], dict[str, float]]:
    """Function that scores a model on the test sequences of :func:`recall_batches`, the same at every call."""
    batches = list(recall_batches(task, sequences, seed))

    def evaluate(model: LanguageModel) -> dict[str, float]:
        accuracy, nats = score_recall(model, batches)
        return {names.RECALL_ACCURACY: accuracy, names.RECALL_NATS: nats}

    return evaluate
