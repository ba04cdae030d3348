"""Parameters, FLOPs and state of a model: the one place that adds up the parts and multiplies by three.

Forward FLOPs of each part come from the part itself (multiply-add = 2; causal-exact attention; scan, convolution and head
included; embedding look-up 0; of a mixture of experts only those that a token meets). Training costs three forward passes,
auxiliary heads included; recomputation is never counted. The PaLM convention (arXiv 2204.02311, App. B: 6 N + 12 L H Q T, no
causal sparsity) stands beside it; its N are the active parameters.
"""

from __future__ import annotations

from typing import Any

import torch

from lolm.config import RunConfig
from lolm.mixers.attention import Attention
from lolm.models.build import build_model
from lolm.models.language_model import LanguageModel
from lolm.objectives import FutureHeads, build_heads

BACKWARD_FACTOR = 3  # forward once, backward twice
BYTES = {"fp32": 4, "bf16": 2}


def account(
    model: LanguageModel, heads: FutureHeads | None, length: int, precision: str = "fp32", batch: int = 1
) -> dict[str, Any]:
    """Exact size and cost of a model in sequences of ``length`` tokens, trained ``batch`` at a time.

    Returns:
        ``parameters`` {total, active, by_part}; ``flops_per_token`` {forward, training, palm, by_part}; ``state_elements`` that
        generation carries for one sequence, and ``state_bytes`` of them in ``precision``. ``by_part`` holds forward FLOPs; heads
        of the objectives are not parameters of the model, but their cost is part of ``training``.
    """
    parts = model.components()
    embedding = model.embedding.weight.numel()
    parameters = {"embedding": embedding} | {name: part.num_params() for name, part in parts.items()}
    if model.head_norm_params:
        parameters["head_norm"] = model.head_norm_params
    flops = {name: part.flops_per_token(length) for name, part in parts.items()} | {"head": 2.0 * embedding}
    forward = sum(flops.values())
    auxiliary = heads.flops_per_token(length, batch) if heads is not None else 0.0
    total = sum(parameters.values())
    active = total - sum(part.num_params() - part.active_params() for part in parts.values())
    state = sum(part.state_size(length) for part in parts.values())
    return {
        "parameters": {"total": total, "active": active, "by_part": parameters},
        "flops_per_token": {
            "forward": forward,
            "training": BACKWARD_FACTOR * (forward + auxiliary),
            "palm": 6.0 * active + _palm_attention(model, length),
            "by_part": flops | ({"objective_heads": auxiliary} if auxiliary else {}),
        },
        "state_elements": state,
        "state_bytes": state * BYTES[precision],
    }


def _palm_attention(model: LanguageModel, length: int) -> float:
    """12 H Q T for each layer that has attention; a window bounds T, as the keys outside it are never met."""
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    return sum(12.0 * layer.n_heads * layer.head_width * min(length, layer.window or length) for layer in layers)


def account_run(run: RunConfig) -> dict[str, Any]:
    """:func:`account` for a run, built on the meta device: no memory, any size."""
    with torch.device("meta"):
        model = build_model(run)
        heads = build_heads(run.architecture, run.size)
    return account(model, heads, run.training.seq_len, run.training.precision, run.training.batch_size)
