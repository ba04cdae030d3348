"""Tiny configurations of every class that is described: built without a network, a few thousand random weights each."""

from __future__ import annotations

from functools import cache

import torch
import transformers as t

from lolm.external.model import ExternalModel

V = 64
BASE = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
DELTA = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_conv_kernel_dim": 4,
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
GRANITE = BASE | MAMBA2 | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32, "residual_multiplier": 0.3}

# By name: the configuration, and the kinds of each layer's writes that it asks for.
CASES = {
    "bamba": (t.BambaConfig, BASE | MAMBA2 | {"attn_layer_indices": [1]}, ["mamba2 mlp", "attention mlp"]),
    "falcon_h1": (
        t.FalconH1Config,
        BASE | MAMBA2 | {"mamba_d_ssm": 64, "head_dim": 8, "ssm_out_multiplier": 0.5, "attention_out_multiplier": 0.25},
        ["mamba2 attention mlp"] * 2,
    ),
    "granite": (
        t.GraniteMoeHybridConfig,
        GRANITE | {"num_local_experts": 2, "num_experts_per_tok": 1},
        ["mamba2 experts mlp", "attention experts mlp"],
    ),
    "granite_dense": (t.GraniteMoeHybridConfig, GRANITE | {"num_local_experts": 0}, ["mamba2 mlp", "attention mlp"]),
    "jamba": (
        t.JambaConfig,
        BASE
        | {
            "num_hidden_layers": 4,
            "attn_layer_period": 4,
            "attn_layer_offset": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        ["mamba1 mlp", "mamba1 experts", "attention mlp", "mamba1 experts"],
    ),
    "kimi_linear": (
        t.KimiLinearConfig,
        BASE
        | {
            "num_key_value_heads": 4,
            "head_dim": 8,
            "linear_num_heads": 4,
            "linear_head_dim": 8,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
            "mlp_layer_types": ["dense", "sparse"],
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
        ["kda mlp", "attention experts"],
    ),
    "lfm2": (
        t.Lfm2Config,
        BASE | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
        ["gated_conv mlp", "attention mlp"],
    ),
    "llama": (t.LlamaConfig, BASE, ["attention mlp"] * 2),
    "mamba": (t.MambaConfig, {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, ["mamba1"] * 2),
    "mamba2": (
        t.Mamba2Config,
        {
            "vocab_size": V,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 8,
        },
        ["mamba2"] * 2,
    ),
    "nemotron_h": (
        t.NemotronHConfig,
        {key: value for key, value in BASE.items() if key != "num_hidden_layers"}
        | {
            "layers_block_type": ["mamba", "moe", "attention", "mlp"],
            "head_dim": 8,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
            "n_group": 1,
            "topk_group": 1,
        },
        ["mamba2", "experts", "attention", "mlp"],
    ),
    "olmo_hybrid": (
        t.OlmoHybridConfig,
        BASE
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        ["gated_deltanet mlp", "attention mlp"],
    ),
    "qwen2": (t.Qwen2Config, BASE, ["attention mlp"] * 2),
    "qwen3_5": (t.Qwen3_5TextConfig, BASE | DELTA, ["gated_deltanet mlp", "attention mlp"]),
    "qwen3_5_moe": (t.Qwen3_5MoeTextConfig, BASE | DELTA | MOE, ["gated_deltanet experts", "attention experts"]),
    "qwen3_next": (t.Qwen3NextConfig, BASE | DELTA | MOE | {"mlp_only_layers": [1]}, ["gated_deltanet experts", "attention mlp"]),
    "recurrent_gemma": (
        t.RecurrentGemmaConfig,
        BASE
        | {
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "lru_width": 32,
            "attention_window_size": 8,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
        ["rglru mlp", "rglru mlp", "attention mlp"],
    ),
    "zamba2": (
        t.Zamba2Config,
        BASE
        | {
            "num_hidden_layers": 4,
            "num_key_value_heads": 4,
            "mamba_d_state": 8,
            "mamba_headdim": 8,
            "n_mamba_heads": 8,
            "mamba_ngroups": 1,
            "mamba_expand": 2,
            "chunk_size": 8,
            "hybrid_layer_ids": [1, 3],
            "num_mem_blocks": 1,
            "adapter_rank": 4,
            "use_mem_rope": True,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        },
        ["mamba2", "attention mamba2", "mamba2", "attention mamba2"],
    ),
}


def make_native(case: str, seed: int = 0):
    """The library's own model with random weights, large enough that no write is lost in rounding."""
    kind, options, _ = CASES[case]
    torch.manual_seed(seed)
    model = t.AutoModelForCausalLM.from_config(kind(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model


@cache
def make(case: str) -> ExternalModel:
    return ExternalModel(make_native(case)).eval()
