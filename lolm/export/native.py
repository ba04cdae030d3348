"""Decoders of this project as native classes of the ``transformers`` library: weight maps, tested for equal logits.

=======================  ====================================================================
``MambaForCausalLM``     Mamba-1 blocks without an MLP (arm ``mamba``)
``Mamba2ForCausalLM``    Mamba-2 blocks without an MLP (arm ``mamba2``), an inner width that is a multiple of D
``NemotronHForCausalLM`` the same with any inner width
``LlamaForCausalLM``     attention with RoPE on whole heads and SwiGLU (arm ``transformer_modern``)
``JambaForCausalLM``     Mamba-1 with inner norms and attention without positions, with SwiGLU or experts (arms ``jamba…``)
``BambaForCausalLM``     Mamba-2 and attention, interleaved at will, with SwiGLU everywhere
=======================  ====================================================================

Not native: Griffin and Hawk (RecurrentGemma has one activation for the recurrent block, tanh-GELU, and the MLP, exact GELU here,
and multiplies embeddings that are tied to the head by √D), Samba (no class has Mamba-1, windows and RoPE), the published form of
the Transformer (none has a map between the final norm and the head), convolved attention, Hymba and LOLM (no class).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from lolm.external.load import transformers
from lolm.external.model import ExternalError
from lolm.mixers.attention import Attention
from lolm.mixers.mamba1 import Mamba1
from lolm.mixers.mamba2 import Mamba2
from lolm.models.blocks import EPSILON, Block
from lolm.models.decoder import Decoder
from lolm.models.experts import Experts
from lolm.models.language_model import LanguageModel
from lolm.models.mlp import MLP
from lolm.ops.rms_norm import RMSNorm

Weights = Iterator[tuple[str, torch.Tensor]]
HEAD = "lm_head.weight"


def to_native(model: LanguageModel) -> Any:
    """The same model as a class of the library, float32, in evaluation mode, with the same logits.

    Raises:
        NotNativeError: no native class computes what this model does; the message says what it has that none has.
    """
    configuration, weights = _mapped(model)
    native = transformers().AutoModelForCausalLM.from_config(configuration(model)).float()
    native.load_state_dict({name: tensor.detach().clone() for name, tensor in weights}, strict=True)
    return native.eval()


def lacking(model: LanguageModel) -> str:
    """What the model has that no class of the library has; empty where one computes it. It may have shapes alone."""
    try:
        configuration, _ = _mapped(model)
        configuration(model)
    except NotNativeError as error:
        return error.has
    return ""


@torch.no_grad()
def from_native(model: LanguageModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill a model with the weights of its native form, by name: the inverse of the maps.

    The maps move single weights and scale some. Where each went, and by what it was multiplied, is seen on a copy whose weights
    are numbers: what was not scaled comes back bit for bit, the rest to one unit in the last place.

    Raises:
        NotNativeError: the head is no longer the embedding, where the library keeps the two apart.
    """
    probe = copy.deepcopy(model).double()
    numbered, total = list(probe.parameters()), 0
    for p in numbered:
        p.fill_(1)
    scales = {name: tensor.clone() for name, tensor in _mapped(probe)[1]}
    for p in numbered:
        p.copy_(torch.arange(total, total + p.numel()).view_as(p))
        total += p.numel()
    flat = torch.empty(total, dtype=torch.float64)
    for name, number in _mapped(probe)[1]:
        if name == HEAD and name not in tensors:
            continue  # tied, so it is stored once
        flat[(number / scales[name]).round().long()] = tensors[name].double().view_as(number) / scales[name]
    embedding, head = tensors[next(iter(scales))], tensors.get(HEAD)
    _demand(head is None or torch.equal(head, embedding), "a head that is no longer its embedding")
    for p, values in zip(model.parameters(), flat.split([p.numel() for p in numbered]), strict=True):
        p.copy_(values.view_as(p))


def _mapped(model: LanguageModel) -> tuple[Callable[[Any], Any], Weights]:
    """What makes the configuration of the native class, by the library, and its weights by name, which need none."""
    _demand(isinstance(model, Decoder), "the streams of LOLM")
    assert isinstance(model, Decoder)
    blocks = model.stack.blocks
    _demand(model.projection is None, "an output projection")
    _demand(isinstance(model.head_norm, torch.nn.Identity), "a norm before the head")
    _demand(
        all(isinstance(m, RMSNorm) for m in (model.stack.final_norm, *(b.mixer_norm for b in blocks))),
        "norms that are not RMSNorm",
    )
    mixers = {type(block.mixer) for block in blocks}
    if mixers <= {Mamba1, Mamba2} and len(mixers) == 1 and all(block.mlp is None for block in blocks):
        if mixers == {Mamba1}:
            return _mamba, _stack(model, "backbone", "norm_f", _mamba_block)
        return _mamba2, _stack(model, "backbone" if _whole_expansion(model) else "model", "norm_f", _mamba2_block)
    gated = all(mlp.kind == "swiglu" and not mlp.bias for block in blocks for mlp in _mlps(block))
    if gated and mixers <= {Attention, Mamba1} and Mamba1 in mixers and all(block.mlp is not None for block in blocks):
        return _jamba, _stack(model, "model", "final_layernorm", _jamba_block)
    if gated and mixers <= {Attention, Mamba2} and all(isinstance(block.mlp, MLP) for block in blocks):
        if mixers == {Attention}:
            return _llama, _stack(model, "model", "norm", _llama_block)
        return _bamba, _stack(model, "model", "final_layernorm", _bamba_block)
    _demand(False, f"blocks of {' and '.join(sorted(kind.__name__ for kind in mixers))} with its MLPs")
    raise AssertionError


def _mlps(block: Block) -> list[MLP]:
    """The block's MLP, or all of its mixture."""
    return block.mlp.mlps if isinstance(block.mlp, Experts) else [block.mlp] if block.mlp is not None else []


class NotNativeError(ExternalError):
    """No class of the library computes a model.

    Attributes:
        has: what it has that none has.
    """

    def __init__(self, has: str) -> None:
        super().__init__(f"no class of the transformers library computes this model: it has {has}")
        self.has = has


def _demand(holds: bool, has: str) -> None:
    if not holds:
        raise NotNativeError(has)


# ---------------------------------------------------------------------------------------------- configurations


def _common(model: Decoder) -> dict[str, Any]:
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": len(model.stack.blocks),
        "tie_word_embeddings": True,
        # SentencePiece's of this project: it has no token for padding and none that begins a text.
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": 1,
    }


def _one(blocks: list[Block], kind: type, *names: str) -> tuple[Any, ...]:
    """Options that all mixers of a kind have to share."""
    found = {tuple(getattr(block.mixer, name) for name in names) for block in blocks if isinstance(block.mixer, kind)}
    _demand(len(found) == 1, f"{kind.__name__} layers that differ in {', '.join(names)}")
    return found.pop()


def _whole_expansion(model: Decoder) -> bool:
    """Whether the inner width of its Mamba-2 mixers is a multiple of the model's."""
    return bool(_one(model.stack.blocks, Mamba2, "d_inner")[0] % model.d_model == 0)


def _attention(model: Decoder, partial: bool) -> dict[str, Any]:
    heads, kv_heads, width, rotated, base = _one(
        model.stack.blocks, Attention, "n_heads", "kv_heads", "head_width", "rotated", "rope_base"
    )
    _plain(model)
    _demand(
        rotated == width or (partial and rotated > 0), "RoPE on a part of each head" if rotated else "attention without positions"
    )
    rope = {"rope_type": "default", "rope_theta": float(base)} | ({"partial_rotary_factor": rotated / width} if partial else {})
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": width, "rope_parameters": rope}


def _plain(model: Decoder) -> None:
    attention = [block.mixer for block in model.stack.blocks if isinstance(block.mixer, Attention)]
    _demand(all(mixer.window is None for mixer in attention), "attention in windows")
    _demand(not any(mixer.out_bias for mixer in attention), "attention with an output bias")
    _demand(all(mixer.conv is None for mixer in attention), "attention with a convolution")


def _d_ff(model: Decoder) -> int:
    widths = {mlp.down.in_features for block in model.stack.blocks for mlp in _mlps(block)}
    _demand(len(widths) == 1, "MLPs of different widths")
    return widths.pop()


def _llama(model: Decoder) -> Any:
    return transformers().LlamaConfig(
        **_common(model),
        **_attention(model, partial=False),
        intermediate_size=_d_ff(model),
        hidden_act="silu",
        rms_norm_eps=EPSILON,
    )


def _mamba(model: Decoder) -> Any:
    inner, states, kernel, rank, norms = _one(
        model.stack.blocks, Mamba1, "d_inner", "d_state", "d_conv", "dt_rank", "inner_norms"
    )
    _demand(not norms, "norms inside its Mamba mixers")
    return transformers().MambaConfig(
        **_common(model),
        state_size=states,
        conv_kernel=kernel,
        time_step_rank=rank,
        intermediate_size=inner,  # any width, where `expand` is whole
        layer_norm_epsilon=EPSILON,
    )


def _mamba2(model: Decoder) -> Any:
    names = ("d_inner", "heads", "d_state", "d_conv", "groups", "chunk")
    inner, heads, states, kernel, groups, chunk = _one(model.stack.blocks, Mamba2, *names)
    shared = {"conv_kernel": kernel, "n_groups": groups, "chunk_size": chunk, "layer_norm_epsilon": EPSILON}
    library, common = transformers(), _common(model)
    if _whole_expansion(model):
        widths = {"state_size": states, "num_heads": heads, "head_dim": inner // heads, "expand": inner // model.d_model}
        return library.Mamba2Config(**common, **shared, **widths)
    widths = {"ssm_state_size": states, "mamba_num_heads": heads, "mamba_head_dim": inner // heads}
    kinds = ["linear_attention"] * common.pop("num_hidden_layers")  # its word for recurrent layers
    untied = common | {"tie_word_embeddings": False}  # it knows no other way: head and embedding are stored apart
    return library.NemotronHConfig(**untied, **shared, **widths, layers_block_type=kinds, time_step_min=1e-30)  # no least Δ


def _jamba(model: Decoder) -> Any:
    blocks = model.stack.blocks
    attention = [layer for layer, block in enumerate(blocks) if isinstance(block.mixer, Attention)]
    more: dict[str, Any] = {}
    if attention:
        heads, kv_heads, width, rotated = _one(blocks, Attention, "n_heads", "kv_heads", "head_width", "rotated")
        _plain(model)
        _demand(not rotated, "positions beside Mamba-1")
        _demand(heads * width == model.d_model, f"heads {width} wide, not {model.d_model} / {heads}")
        more = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    inner, states, kernel, rank, norms = _one(blocks, Mamba1, "d_inner", "d_state", "d_conv", "dt_rank", "inner_norms")
    _demand(norms, "Mamba-1 with MLPs and without norms inside")
    _demand(inner % model.d_model == 0, f"an inner width of {inner}, no multiple of {model.d_model}")
    mixtures = [layer for layer, block in enumerate(blocks) if isinstance(block.mlp, Experts)]
    chosen = {(len(b.mlp.experts), b.mlp.per_token) for b in blocks if isinstance(b.mlp, Experts)} or {(1, 1)}
    _demand(len(chosen) == 1, "mixtures that differ")
    ((experts, per_token),) = chosen
    return transformers().JambaConfig(
        **_common(model),
        **more,
        **_every("attn_layer", attention, len(blocks)),
        **_every("expert_layer", mixtures, len(blocks)),
        intermediate_size=_d_ff(model),
        rms_norm_eps=EPSILON,
        num_experts=experts,
        num_experts_per_tok=per_token,
        mamba_d_state=states,
        mamba_d_conv=kernel,
        mamba_expand=inner // model.d_model,
        mamba_dt_rank=rank,
    )


def _every(name: str, layers: list[int], count: int) -> dict[str, int]:
    """Layers as the first and every n-th after it."""
    period, offset = layers[1] - layers[0] if len(layers) > 1 else count + 1, layers[0] if layers else count
    _demand([i for i in range(count) if i % period == offset] == layers, f"{name}s {layers}, which are not evenly spaced")
    return {f"{name}_period": period, f"{name}_offset": offset}


def _bamba(model: Decoder) -> Any:
    blocks = model.stack.blocks
    attention = [layer for layer, block in enumerate(blocks) if isinstance(block.mixer, Attention)]
    inner, heads, states, kernel, groups, chunk = _one(blocks, Mamba2, "d_inner", "heads", "d_state", "d_conv", "groups", "chunk")
    _demand(inner % model.d_model == 0, f"an inner width of {inner}, no multiple of {model.d_model}")
    return transformers().BambaConfig(
        **_common(model),
        **(_attention(model, partial=True) if attention else {}),
        attn_layer_indices=attention,
        intermediate_size=_d_ff(model),
        rms_norm_eps=EPSILON,
        mamba_expand=inner // model.d_model,
        mamba_n_heads=heads,
        mamba_d_head=inner // heads,
        mamba_d_state=states,
        mamba_d_conv=kernel,
        mamba_n_groups=groups,
        mamba_chunk_size=chunk,
    )


# ---------------------------------------------------------------------------------------------- weights


def _stack(model: Decoder, core: str, norm: str, block_weights: Any) -> Weights:
    embeddings = "embeddings" if norm == "norm_f" else "embed_tokens"
    yield f"{core}.{embeddings}.weight", model.embedding.weight
    yield HEAD, model.embedding.weight
    yield f"{core}.{norm}.weight", model.stack.final_norm.weight  # type: ignore[misc]
    for layer, block in enumerate(model.stack.blocks):
        for name, tensor in block_weights(block):
            yield f"{core}.layers.{layer}.{name}", tensor


def _mamba_block(block: Any) -> Weights:
    yield "norm.weight", block.mixer_norm.weight
    yield from mamba_weights(block.mixer, "mixer")


def _mamba2_block(block: Any) -> Weights:
    yield "norm.weight", block.mixer_norm.weight
    yield from mamba2_weights(block.mixer, "mixer")


def _jamba_block(block: Any) -> Weights:
    yield "input_layernorm.weight", block.mixer_norm.weight
    yield "pre_ff_layernorm.weight", block.mlp_norm.weight
    if isinstance(block.mlp, Experts):
        yield "feed_forward.router.weight", block.mlp.router.weight
        yield "feed_forward.experts.gate_up_proj", torch.stack([mlp.up.weight for mlp in block.mlp.mlps])
        yield "feed_forward.experts.down_proj", torch.stack([mlp.down.weight for mlp in block.mlp.mlps])
    else:
        yield from mlp_weights(block.mlp, "feed_forward")
    yield from attention_weights(block.mixer) if isinstance(block.mixer, Attention) else mamba_weights(block.mixer, "mamba")


def _llama_block(block: Any) -> Weights:
    yield "input_layernorm.weight", block.mixer_norm.weight
    yield "post_attention_layernorm.weight", block.mlp_norm.weight
    yield from attention_weights(block.mixer)
    yield from mlp_weights(block.mlp, "mlp")


def _bamba_block(block: Any) -> Weights:
    yield "input_layernorm.weight", block.mixer_norm.weight
    yield "pre_ff_layernorm.weight", block.mlp_norm.weight
    yield from mlp_weights(block.mlp, "feed_forward")
    yield from attention_weights(block.mixer) if isinstance(block.mixer, Attention) else mamba2_weights(block.mixer)


def attention_weights(attention: Attention, name: str = "self_attn") -> Weights:
    """q, k, v and o: rotated dimensions are paired (2i, 2i + 1) here and (i, i + R/2) there, so rows of q and k change places."""
    width, rotated = attention.head_width, attention.rotated
    order = torch.cat((torch.arange(rotated).view(-1, 2).T.flatten(), torch.arange(rotated, width)))
    heads = attention.qkv.weight.unflatten(0, (-1, width))  # (H + 2K, P, D)
    q, k, v = heads.split([attention.n_heads, attention.kv_heads, attention.kv_heads])
    yield f"{name}.q_proj.weight", q[:, order].flatten(0, 1)
    yield f"{name}.k_proj.weight", k[:, order].flatten(0, 1)
    yield f"{name}.v_proj.weight", v.flatten(0, 1)
    yield f"{name}.o_proj.weight", attention.out.weight  # type: ignore[misc]


def mlp_weights(mlp: MLP, name: str) -> Weights:
    """Gate and up lie in one matrix here, in two there."""
    gate, up = mlp.up.weight.chunk(2)
    yield f"{name}.gate_proj.weight", gate
    yield f"{name}.up_proj.weight", up
    yield f"{name}.down_proj.weight", mlp.down.weight


def mamba_weights(mixer: Mamba1, name: str) -> Weights:
    """All as it is but what inner norms read, where their ε differs from that of the block's norms, of which the library knows
    one: RMSNorm of c·x with ε c² is that of x with ε."""
    scale = (EPSILON / mixer.dt_norm.eps) ** 0.5 if mixer.inner_norms else 1.0  # type: ignore[operator, arg-type]
    yield f"{name}.A_log", mixer.A_log
    yield f"{name}.D", mixer.skip
    yield from _conv(mixer, name)
    yield f"{name}.dt_proj.bias", mixer.dt_proj.bias
    yield f"{name}.x_proj.weight", mixer.x_proj.weight * scale
    for part in ("in_proj", "dt_proj", "out_proj"):
        yield f"{name}.{part}.weight", getattr(mixer, part).weight
    if mixer.inner_norms:
        for part, norm in (("dt", mixer.dt_norm), ("b", mixer.B_norm), ("c", mixer.C_norm)):
            yield f"{name}.{part}_layernorm.weight", norm.weight  # type: ignore[misc]


def mamba2_weights(mixer: Mamba2, name: str = "mamba") -> Weights:
    """Maps, convolution, scan and gated norm; all but the convolution's shape are the same."""
    yield f"{name}.A_log", mixer.A_log
    yield f"{name}.D", mixer.skip
    yield f"{name}.dt_bias", mixer.dt_bias
    yield f"{name}.norm.weight", mixer.norm_weight
    yield f"{name}.in_proj.weight", mixer.in_proj.weight
    yield f"{name}.out_proj.weight", mixer.out_proj.weight
    yield from _conv(mixer, name)


def _conv(mixer: Mamba1 | Mamba2, name: str) -> Weights:
    yield f"{name}.conv1d.weight", mixer.conv_weight[:, None]
    yield f"{name}.conv1d.bias", mixer.conv_bias
