"""Our layers and stacks against those of the transformers package: the same weights' shapes, the same work, both passes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from benchmarks.settings import Settings
from benchmarks.steps import measured
from benchmarks.timing import Part, Samples, Unavailable, ratios, summary
from lolm.config import RunConfig
from lolm.mixers.attention import Attention
from lolm.mixers.mamba1 import Mamba1
from lolm.mixers.mamba2 import Mamba2
from lolm.models.build import build_model

BATCH = 2
STATES = {"mamba": 16, "mamba2": 64}
HEAD_WIDTH = 32
STACK = "transformer_modern"  # the arm that is a Llama


def passes(forward: Callable[[torch.Tensor], torch.Tensor], module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """A forward pass, and a backward pass to the input and every parameter that the output depends on."""
    parameters = [x, *module.parameters()]
    gradient: list[torch.Tensor] = []

    def call() -> None:
        y = forward(x)
        if not gradient:
            gradient.append(torch.randn_like(y))
        torch.autograd.grad(y, parameters, gradient[0], allow_unused=True)

    return call


def mamba_pair(width: int) -> tuple[Mamba1, nn.Module]:
    """Our Mamba-1 layer and theirs, whose scan on a CPU is a loop over the tokens."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    own = Mamba1(width, d_state=STATES["mamba"])
    config = MambaConfig(
        hidden_size=width, state_size=own.d_state, conv_kernel=own.d_conv, expand=2, time_step_rank=own.dt_rank,
        num_hidden_layers=1,
    )  # fmt: skip
    return own, MambaMixer(config, layer_idx=0)


def mamba2_pair(width: int) -> tuple[Mamba2, nn.Module]:
    """Our Mamba-2 layer and theirs, both in chunks of the same length."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    own = Mamba2(width, d_state=STATES["mamba2"], head_width=HEAD_WIDTH)
    config = Mamba2Config(
        hidden_size=width, state_size=own.d_state, conv_kernel=own.d_conv, expand=2, head_dim=HEAD_WIDTH, num_heads=own.heads,
        n_groups=own.groups, chunk_size=own.chunk, num_hidden_layers=1, layer_norm_epsilon=1e-5,
    )  # fmt: skip
    return own, Mamba2Mixer(config, layer_idx=0)


def llama_of(run: RunConfig, layers: int) -> nn.Module:
    """Their Llama with the sizes of a run, on PyTorch's fused attention."""
    from transformers import LlamaConfig, LlamaModel

    size = run.size
    config = LlamaConfig(
        vocab_size=run.vocab_size, hidden_size=size.d_model, intermediate_size=size.d_ff, num_hidden_layers=layers,
        num_attention_heads=size.n_heads, rms_norm_eps=1e-5, use_cache=False,
        max_position_embeddings=max(2048, run.training.seq_len),
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return LlamaModel(config)


def mamba_of(run: RunConfig) -> Any:
    """The configuration of their Mamba with the sizes of a run."""
    from transformers import MambaConfig

    size, options = run.size, run.size.mixers.get("mamba1", {})
    inner = options.get("d_inner") or 2 * size.d_model
    config: Any = MambaConfig(
        vocab_size=run.vocab_size, hidden_size=size.d_model, state_size=options.get("d_state", 16),
        num_hidden_layers=size.n_layers, use_cache=False,
    )  # fmt: skip
    config.intermediate_size = inner  # `expand` of the constructor is whole
    return config


def peers(settings: Settings, stack: ExitStack) -> Part:
    """Time of their layers over ours, with the threads of one run."""
    if importlib.util.find_spec("transformers") is None:
        raise Unavailable("the package transformers is not installed; extra `test`")
    import transformers

    transformers.logging.set_verbosity_error()  # it names the kernels that a CPU does not have
    count, width = settings.threads, settings.layer_width
    run = settings.run(STACK)
    length = run.training.seq_len
    measures: dict[str, Callable[[], float]] = {}
    names: list[str] = []

    def add(name: str, own: Callable[[], None], theirs: Callable[[], None]) -> None:
        names.append(name)
        measures[f"{name}/own"] = measured(own, count, 3)
        measures[f"{name}/theirs"] = measured(theirs, count)

    def series(d: int) -> torch.Tensor:
        return torch.randn(BATCH, length, d, requires_grad=True)

    for name, pair in (("mamba layer", mamba_pair), ("mamba2 layer", mamba2_pair)):
        own, theirs = pair(width)
        x = series(width)
        add(name, passes(own, own, x), passes(theirs, theirs, x))

    attention, one = Attention(run.size.d_model, run.size.n_heads), llama_of(run, 1)
    x = series(run.size.d_model)
    tables = one.rotary_emb(x, torch.arange(length)[None])  # type: ignore[operator]
    layer = one.layers[0].self_attn  # type: ignore[union-attr, index]
    add("attention layer", passes(attention, attention, x), passes(lambda x: layer(x, tables, None)[0], layer, x))

    model, llama = build_model(run), llama_of(run, run.size.n_layers)
    x = series(run.size.d_model)
    add(
        "modern Transformer, stack",
        passes(lambda x: model.stack(x)[0], model.stack, x),
        passes(lambda x: llama(inputs_embeds=x).last_hidden_state, llama, x),
    )

    def result(samples: Samples) -> dict[str, Any]:
        pairs = {
            name: {
                "own_seconds": summary(samples[f"{name}/own"]),
                "their_seconds": summary(samples[f"{name}/theirs"]),
                "over_own": summary(ratios(samples[f"{name}/theirs"], samples[f"{name}/own"])),
            }
            for name in names
        }
        return {"threads": count, "batch_size": BATCH, "seq_len": length, "layer_width": width, "transformers": pairs}

    return Part(measures, result)
