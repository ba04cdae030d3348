"""AdamW with the recipe's decay groups, and the learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import torch
from torch import nn

from lolm.config import TrainingConfig
from lolm.mixers.base import decays


class AdamW(torch.optim.AdamW):
    """PyTorch's AdamW without the wrappers around its methods, whose first call imports all of ``torch.compile``: seconds at the
    start of every process that trains. No optimiser step is compiled here."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def decay_groups(modules: Sequence[nn.Module], rule: str, weight_decay: float) -> list[dict]:
    """Parameter groups for AdamW, in a fixed order.

    ``all``: decay on every parameter, as published. ``matrices``: decay on weight matrices and embeddings only; not on
    biases, norms, A_log, skips, step sizes, convolutions, memory slots and the codebook.
    """
    # Decay pulls a map towards 0, which is no map. Pulled to 0, a norm's gain silences it and A_log forgets at rate 1: those mean
    # something else there, so the sound rule leaves them free.
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in modules:
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if parameter.requires_grad:
                    (decayed if rule == "all" or decays(part, name) else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(modules: Sequence[nn.Module], rule: str, training: TrainingConfig, learning_rate: float) -> AdamW:
    """Fused AdamW over the groups of :func:`decay_groups`."""
    groups = decay_groups(modules, rule, training.weight_decay)
    return AdamW(groups, lr=learning_rate, betas=training.betas, eps=training.epsilon, fused=True)


def learning_rate_at(step: int, training: TrainingConfig, peak: float, end: int | None = None) -> float:
    """Learning rate of optimiser step ``step`` (0, 1, …) of a schedule that ends at step ``end`` (default: the run's)
    or at ``training.schedule_steps``.

    Linear warm-up, then ``cosine``: peak · max(floor, ½ (1 + cos π x)), the published form, with x the share of the rest done;
    or ``wsd`` (warm-up, stable, decay; Hägele et al. 2024, arXiv 2405.18392): constant, then linear to floor · peak over the last
    ``decay_fraction``. Schedules that end at different steps are the same until the shortest decays: one trunk serves all.
    """
    end = training.schedule_steps or (training.steps if end is None else end)
    if step < training.warmup_steps:
        return peak * (step + 1) / training.warmup_steps
    if training.schedule == "cosine":
        progress = (step - training.warmup_steps) / max(1, end - training.warmup_steps)
        return peak * max(training.lr_floor, 0.5 * (1 + math.cos(math.pi * progress)))
    start = max(training.decay_starts(end), training.warmup_steps)
    if step < start:
        return peak
    return peak * (1 - (1 - training.lr_floor) * (step - start + 1) / (end - start))
