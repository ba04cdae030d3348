"""Norms, MLPs, the pre-norm residual block, and stacks built from a pattern of blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lolm.config import BlockConfig, SizeConfig, StackConfig
from lolm.mixers.registry import build_mixer
from lolm.models.component import Component

EPSILON = 1e-5


def build_norm(kind: str, width: int) -> nn.Module:
    """LayerNorm with affine and bias, RMSNorm with affine, or nothing; ε = 1e-5."""
    if kind == "layernorm":
        return nn.LayerNorm(width, eps=EPSILON)
    if kind == "rmsnorm":
        return nn.RMSNorm(width, eps=EPSILON)
    return nn.Identity()


def norm_params(kind: str, width: int) -> int:
    return {"layernorm": 2 * width, "rmsnorm": width, "none": 0}[kind]


class MLP(Component):
    """Bias-free D → F → D with exact GELU, or gated: SwiGLU / GeGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, kind: str, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.kind, self.d_model, self.d_ff, self.dropout = kind, d_model, d_ff, dropout
        self.gated = kind in ("swiglu", "geglu")
        self.up = nn.Linear(d_model, (2 if self.gated else 1) * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x = self.up(x_BTD)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = x * (F.silu(gate) if self.kind == "swiglu" else F.gelu(gate))
        else:
            x = F.gelu(x)
        return F.dropout(self.down(x), self.dropout, self.training)

    def num_params(self) -> int:
        return (3 if self.gated else 2) * self.d_model * self.d_ff

    def flops_per_token(self, length: int) -> float:
        return 2 * self.num_params()


class Block(Component):
    """x ← x + mixer(norm(x)); x ← x + mlp(norm(x)), the second part only where the block has an MLP."""

    def __init__(self, config: BlockConfig, size: SizeConfig) -> None:
        super().__init__()
        self.norm_kind, self.d_model = config.norm, size.d_model
        self.mixer_norm = build_norm(config.norm, size.d_model)
        self.mixer = build_mixer(config.mixer, size.d_model, size.n_heads, size.dropout)
        self.mlp: MLP | None = None
        if config.mlp != "none":
            self.mlp_norm = build_norm(config.norm, size.d_model)
            self.mlp = MLP(config.mlp, size.d_model, size.d_ff, size.dropout)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD + self.mixer(self.mixer_norm(x_BTD))
        if self.mlp is not None:
            x_BTD = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return x_BTD

    @property
    def residual_outputs(self) -> list[nn.Linear]:
        """The maps that write into the residual stream; a scaled initialisation divides them by √(2 · layers)."""
        children = self.mixer.named_children()
        maps = [module for name, module in children if name in ("out", "out_proj") and isinstance(module, nn.Linear)]
        return [*maps, *([self.mlp.down] if self.mlp is not None else [])]

    def num_params(self) -> int:
        norms = norm_params(self.norm_kind, self.d_model) * (1 if self.mlp is None else 2)
        return norms + self.mixer.num_params() + (self.mlp.num_params() if self.mlp is not None else 0)

    def flops_per_token(self, length: int) -> float:
        return self.mixer.flops_per_token(length) + (self.mlp.flops_per_token(length) if self.mlp is not None else 0)

    def state_size(self, length: int) -> int:
        return self.mixer.state_size(length)


class Stack(Component):
    """Blocks in the order of the pattern, repeated cyclically, then the final norm. (B, T, D) in and out."""

    def __init__(self, config: StackConfig, size: SizeConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        names = [config.pattern[i % len(config.pattern)] for i in range(size.n_layers)]
        self.layers = nn.ModuleList(Block(config.blocks[name], size) for name in names)
        self.final_norm = build_norm(config.final_norm, size.d_model)
        self.final_norm_params = norm_params(config.final_norm, size.d_model)
        self.activation_checkpointing = activation_checkpointing

    def forward(self, x_BTD: torch.Tensor, skip_last: int = 0) -> torch.Tensor:
        """Run the stack; ``skip_last`` leaves out that many blocks at the end (the serial control of an ablation)."""
        for layer in self.layers[: len(self.layers) - skip_last]:
            if self.activation_checkpointing and self.training:
                x_BTD = checkpoint(layer, x_BTD, use_reentrant=False)
            else:
                x_BTD = layer(x_BTD)
        return self.final_norm(x_BTD)

    @property
    def blocks(self) -> list[Block]:
        return list(self.layers)  # type: ignore[arg-type]

    def num_params(self) -> int:
        return sum(block.num_params() for block in self.blocks) + self.final_norm_params

    def flops_per_token(self, length: int) -> float:
        return sum(block.flops_per_token(length) for block in self.blocks)

    def state_size(self, length: int) -> int:
        return sum(block.state_size(length) for block in self.blocks)
