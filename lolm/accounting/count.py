"""Parameters, FLOPs and state of a model: the one place that adds up the parts and multiplies by three.

Forward FLOPs of each part come from the part itself (multiply-add = 2; causal-exact attention; scan, convolution and head
included; embedding look-up 0; of a mixture of experts only those that a token meets). Training costs three forward passes,
auxiliary heads included; recomputation is never counted. The PaLM convention (arXiv 2204.02311, App. B: 6 N + 12 L H Q T, no
causal sparsity) stands beside it; its N are the active parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lolm.config import RunConfig
from lolm.mixers.attention import Attention
from lolm.models.build import build_model, without_values
from lolm.models.language_model import LanguageModel
from lolm.objectives import FutureHeads, build_heads
from lolm.records.schema import Flops, Parameters

BACKWARD_FACTOR = 3  # forward once, backward twice
BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Costs:
    """Exact size and cost of a model.

    Attributes:
        parameters: of the model; heads of the objectives are not among them.
        flops_per_token: ``by_part`` holds forward FLOPs; those of the objectives' heads are part of ``training``.
        state_elements: what generation carries for one sequence of the given length.
        state_bytes: of them, in the run's precision; what a recurrence or a memory adds up stays float32.
    """

    parameters: Parameters
    flops_per_token: Flops
    state_elements: int
    state_bytes: int


def account(model: LanguageModel, heads: FutureHeads | None, length: int, precision: str = "fp32", batch: int = 1) -> Costs:
    """Exact size and cost of a model in sequences of ``length`` tokens, trained ``batch`` at a time."""
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
    state, wide = model.state_size(length), model.float_state(length)
    return Costs(
        parameters=Parameters(total, active, parameters),
        flops_per_token=Flops(
            forward=forward,
            training=BACKWARD_FACTOR * (forward + auxiliary),
            palm=6.0 * active + _palm_attention(model, length),
            by_part=flops | ({"objective_heads": auxiliary} if auxiliary else {}),
        ),
        state_elements=state,
        state_bytes=(state - wide) * BYTES[precision] + wide * BYTES["fp32"],
    )


def _palm_attention(model: LanguageModel, length: int) -> float:
    """12 H Q T for each layer that has attention; a window bounds T, as the keys outside it are never met."""
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    return sum(12.0 * layer.n_heads * layer.head_width * min(length, layer.window or length) for layer in layers)


def account_run(run: RunConfig) -> Costs:
    """:func:`account` for a run, built on the meta device: no memory, any size."""
    with without_values():
        model = build_model(run)
        heads = build_heads(run.architecture, run.size)
    return account(model, heads, run.training.seq_len, run.training.precision, run.training.batch_size)


def count_parameters(run: RunConfig) -> tuple[int, int]:
    """Total and active parameters of a run, as :func:`account_run` has them, from one block of each place in the pattern."""
    layers, period = run.size.n_layers, len(run.architecture.surface.pattern)
    with without_values():
        model = build_model(replace(run, size=replace(run.size, n_layers=min(layers, period))))
    costs = account(model, None, run.training.seq_len)
    blocks = model.stack.blocks
    rest = [blocks[i % period] for i in range(len(blocks), layers)]
    total, active = sum(block.num_params() for block in rest), sum(block.active_params() for block in rest)
    return costs.parameters.total + total, costs.parameters.active + active
