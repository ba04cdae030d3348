"""Where the layers of public models write into the residual stream, as data: a few lines for each class of the library.

A layer of the ``transformers`` library is a module with sub-modules whose outputs are added to the residual stream. A
:class:`Write` names one of them; :data:`KINDS` says what it is. To take in another class, add both, and a tiny configuration to
``tests/external/tiny.py``: its tests do the rest.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Write:
    """One addend of the residual stream.

    Attributes:
        module: path, from the layer, of the sub-module whose output is added; a layer without it has no such write.
        part: the last part of the site's name.
        times: the layer's attribute that multiplies the output on its way into the stream, if one does.
        owner: path of the mixer or MLP itself, where ``module`` is a norm or a map behind it.
    """

    module: str
    part: str = "mixer"
    times: str = ""
    owner: str = ""


def _pre_norm(*mixers: str, mlp: str) -> tuple[Write, ...]:
    return (*map(Write, mixers), Write(mlp, "mlp"))


# By the class of a layer, its writes in the order of computation.
LAYERS: dict[str, tuple[Write, ...]] = {
    "BambaDecoderLayer": _pre_norm("mamba", "self_attn", mlp="feed_forward"),
    "FalconH1DecoderLayer": (  # both mixers read the same input, and their sum is added
        Write("mamba", "recurrent", times="ssm_out_multiplier"),
        Write("self_attn", "attention", times="attn_out_multiplier"),
        Write("feed_forward", "mlp"),
    ),
    "GraniteMoeHybridDecoderLayer": (
        Write("mamba", times="residual_multiplier"),
        Write("self_attn", times="residual_multiplier"),
        Write("block_sparse_moe", "experts", times="residual_multiplier"),
        Write("shared_mlp", "mlp", times="residual_multiplier"),
    ),
    "JambaAttentionDecoderLayer": _pre_norm("self_attn", mlp="feed_forward"),
    "JambaMambaDecoderLayer": _pre_norm("mamba", mlp="feed_forward"),
    "KimiLinearDecoderLayer": _pre_norm("self_attn", mlp="mlp"),
    "Lfm2DecoderLayer": _pre_norm("conv", "self_attn", mlp="feed_forward"),
    "LlamaDecoderLayer": _pre_norm("self_attn", mlp="mlp"),
    "Mamba2Block": (Write("mixer"),),
    "MambaBlock": (Write("mixer"),),
    "NemotronHBlock": (Write("mixer"),),  # a layer is one mixer or one MLP
    "OlmoHybridAttentionDecoderLayer": (  # normalised after the mixer, so what is added is the norm's output
        Write("post_attention_layernorm", owner="self_attn"),
        Write("post_feedforward_layernorm", "mlp", owner="mlp"),
    ),
    "OlmoHybridLinearAttentionDecoderLayer": _pre_norm("linear_attn", mlp="mlp"),
    "Qwen2DecoderLayer": _pre_norm("self_attn", mlp="mlp"),
    "Qwen3NextDecoderLayer": _pre_norm("linear_attn", "self_attn", mlp="mlp"),
    "Qwen3_5DecoderLayer": _pre_norm("linear_attn", "self_attn", mlp="mlp"),
    "Qwen3_5MoeDecoderLayer": _pre_norm("linear_attn", "self_attn", mlp="mlp"),
    "RecurrentGemmaDecoderLayer": _pre_norm("temporal_block", mlp="mlp_block"),
    # One block of attention and MLP serves several layers; what it says goes through the layer's own map.
    "Zamba2HybridLayer": (Write("linear", "attention", owner="shared_transformer"), Write("mamba_decoder.mamba")),
    "Zamba2MambaDecoderLayer": (Write("mamba"),),
}

# By kind, see :data:`lolm.interventions.sites.TYPES`, the classes that are of it.
_CLASSES = {
    "mamba1": "JambaMambaMixer MambaMixer",
    "mamba2": "BambaMixer FalconH1Mixer GraniteMoeHybridMambaLayer Mamba2Mixer NemotronHMamba2Mixer Zamba2MambaMixer",
    "rglru": "RecurrentGemmaRecurrentBlock",
    "gated_deltanet": "OlmoHybridGatedDeltaNet Qwen3NextGatedDeltaNet Qwen3_5GatedDeltaNet Qwen3_5MoeGatedDeltaNet",
    "kda": "KimiLinearDeltaAttention",
    "gated_conv": "Lfm2ShortConv",
    "attention": "BambaAttention FalconH1Attention GraniteMoeHybridAttention JambaAttention KimiLinearAttention Lfm2Attention "
    "LlamaAttention NemotronHAttention OlmoHybridAttention Qwen2Attention Qwen3NextAttention Qwen3_5Attention "
    "Qwen3_5MoeAttention RecurrentGemmaAttention Zamba2AttentionDecoderLayer",
    "mlp": "BambaMLP FalconH1MLP GraniteMoeHybridMLP JambaMLP KimiLinearMLP Lfm2MLP LlamaMLP NemotronHMLP OlmoHybridMLP "
    "Qwen2MLP Qwen3NextMLP Qwen3_5MLP RecurrentGemmaMlp",
    "experts": "GraniteMoeHybridMoE JambaSparseMoeBlock KimiLinearMoE NemotronHMoE Qwen3NextSparseMoeBlock "
    "Qwen3_5MoeSparseMoeBlock",
}
KINDS = {name: kind for kind, names in _CLASSES.items() for name in names.split()}

# What a reader of the numbers has to know about a model's wiring.
CAVEATS = {
    "Zamba2HybridLayer": "The shared block of attention and MLP is added to the Mamba mixer's input and not to the residual "
    "stream: without the recurrent mixers it is mute as well, so removing them removes both.",
}
