"""Parameters, FLOPs and state of a model: the one place that adds up the parts and multiplies by three.

Forward FLOPs of each part come from the part itself (multiply-add = 2; causal-exact attention; scan, convolution and head
included; embedding look-up 0). Training costs three forward passes, auxiliary heads included; recomputation is never counted.
The PaLM convention (arXiv 2204.02311, App. B: 6 N + 12 L H Q T, no causal sparsity) stands beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lolm.config import ConfigError, RunConfig
from lolm.mixers.attention import Attention
from lolm.models.language_model import LanguageModel, build_model
from lolm.objectives import FutureHeads, build_heads

BACKWARD_FACTOR = 3  # forward once, backward twice


def account(model: LanguageModel, heads: FutureHeads | None, length: int) -> dict[str, Any]:
    """Exact size and cost of a model in sequences of ``length`` tokens.

    Returns:
        ``parameters`` {total, by_part}; ``flops_per_token`` {forward, training, palm, by_part}; ``state_elements`` that
        generation carries for one sequence. ``by_part`` holds forward FLOPs; heads of the objectives are not parameters of
        the model, but their cost is part of ``training``.
    """
    parts = model.components()
    embedding = model.embedding.weight.numel()
    parameters = {"embedding": embedding} | {name: part.num_params() for name, part in parts.items()}
    if model.head_norm_params:
        parameters["head_norm"] = model.head_norm_params
    flops = {name: part.flops_per_token(length) for name, part in parts.items()} | {"head": 2.0 * embedding}
    forward = sum(flops.values())
    auxiliary = heads.flops_per_token(length) if heads is not None else 0.0
    attention = sum(isinstance(module, Attention) for module in model.modules())
    total = sum(parameters.values())
    return {
        "parameters": {"total": total, "by_part": parameters},
        "flops_per_token": {
            "forward": forward,
            "training": BACKWARD_FACTOR * (forward + auxiliary),
            "palm": 6.0 * total + 12.0 * attention * model.d_model * length,
            "by_part": flops | ({"objective_heads": auxiliary} if auxiliary else {}),
        },
        "state_elements": sum(part.state_size(length) for part in parts.values()),
    }


def account_run(run: RunConfig) -> dict[str, Any]:
    """:func:`account` for a run, built on the meta device: no memory, any size."""
    with torch.device("meta"):
        model = build_model(run)
        heads = build_heads(run.architecture, run.size)
    return account(model, heads, run.training.seq_len)


def matching_d_ff(run: RunConfig, parameters: int) -> tuple[int, float]:
    """MLP width that brings a run closest to a parameter budget, and the relative mismatch that remains.

    The count is linear in the width, so two counts give the answer.
    """

    def count(d_ff: int) -> int:
        return account_run(replace(run, size=replace(run.size, d_ff=d_ff)))["parameters"]["total"]

    base = run.size.d_ff
    slope = count(base + 1) - count(base)
    if slope == 0:
        raise ConfigError(f"arm {run.arm!r} has no MLP, so d_ff cannot match it to {parameters:,} parameters")
    width = max(1, base + round((parameters - count(base)) / slope))
    return width, count(width) / parameters - 1
