"""Norms, the pre-norm residual block, and stacks built from a pattern of blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lolm.config import BlockConfig, ConfigError, MixerConfig, SizeConfig, StackConfig
from lolm.mixers.registry import build_mixer
from lolm.mixers.site import Site
from lolm.models.component import Component
from lolm.models.experts import Experts, Routing
from lolm.models.mlp import MLP
from lolm.ops.rms_norm import RMSNorm

EPSILON = 1e-5
OUTPUT_MAPS = ("out", "out_proj", "linear_out")  # what mixers call their last map


def build_norm(kind: str, width: int) -> nn.Module:
    """LayerNorm with affine and bias, RMSNorm with affine, or nothing; ε = 1e-5."""
    if kind == "layernorm":
        return nn.LayerNorm(width, eps=EPSILON)
    if kind == "rmsnorm":
        return RMSNorm(width, eps=EPSILON)
    return nn.Identity()


def norm_params(kind: str, width: int) -> int:
    return {"layernorm": 2 * width, "rmsnorm": width, "none": 0}[kind]


def run(unit: nn.Module, x_BTD: torch.Tensor, again: bool) -> Any:
    """unit(x); with ``again`` of all that is inside only x is kept, and the unit runs again in the backward pass."""
    # Compiled and hand-written kernels beside each other fail PyTorch's check that the second run kept the same tensors.
    return checkpoint(unit, x_BTD, use_reentrant=False, determinism_check="none") if again else unit(x_BTD)


class Block(Component):
    """x ← x + mixer(norm(x)); x ← x + mlp(norm(x)), the second part only where the block has an MLP or a mixture of them."""

    def __init__(self, config: BlockConfig, size: SizeConfig) -> None:
        super().__init__()
        self.norm_kind, self.d_model = config.norm, size.d_model
        name = config.mixer.name
        mixer = MixerConfig(name, config.mixer.options | size.mixers.get(name, {}))
        self.mixer_norm = build_norm(config.norm, size.d_model)
        self.mixer = build_mixer(mixer, size.d_model, size.n_heads, size.dropout)
        self.mixer_site, self.mlp_site = Site(name), Site("experts" if config.experts else "mlp")
        self.mlp: MLP | Experts | None = None
        if config.mlp != "none":
            self.mlp_norm = build_norm(config.norm, size.d_model)
            mlp = (config.mlp, size.d_model, size.d_ff, size.dropout, config.mlp_bias)
            self.mlp = Experts(*mlp, config.experts, config.experts_per_token) if config.experts else MLP(*mlp)

    def forward(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, Routing | None]:
        """Returns x_BTD, and how a mixture spread its tokens."""
        # Pre-norm: the residual stream itself is never normalised, so a write stays in it as it was written.
        return self._behind_mixer(x_BTD + self.mixer_site(self.mixer(self.mixer_norm(x_BTD))))

    def advance(self, x_BTD: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """x_BTD, and the mixer's state; see :meth:`lolm.mixers.base.Mixer.advance`."""
        y_BTD, state = self.mixer.advance(self.mixer_norm(x_BTD), state)
        return self._behind_mixer(x_BTD + self.mixer_site(y_BTD))[0], state

    def _behind_mixer(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, Routing | None]:
        routing = None
        if isinstance(self.mlp, Experts):
            y_BTD, routing = self.mlp(self.mlp_norm(x_BTD))
            x_BTD = x_BTD + self.mlp_site(y_BTD)
        elif self.mlp is not None:
            x_BTD = x_BTD + self.mlp_site(self.mlp(self.mlp_norm(x_BTD)))
        return x_BTD, routing

    @property
    def sites(self) -> dict[str, Site]:
        """``mixer`` and ``mlp``: what each adds to the residual stream, (B, T, D); the mixer's branches as ``mixer.<branch>``."""
        found = {f"mixer.{name}": site for name, site in self.mixer.sites.items()} | {"mixer": self.mixer_site}
        return found if self.mlp is None else found | {"mlp": self.mlp_site}

    @property
    def residual_outputs(self) -> list[nn.Linear]:
        """The maps that write into the residual stream: the mixer's, and the MLP's or every expert's."""
        maps = [module for name, module in self.mixer.named_children() if name in OUTPUT_MAPS and isinstance(module, nn.Linear)]
        mlps = self.mlp.mlps if isinstance(self.mlp, Experts) else [self.mlp] if self.mlp is not None else []
        return [*maps, *(mlp.down for mlp in mlps)]

    @property
    def residual_writes(self) -> int:
        """How often a token's residual stream is added to."""
        return 1 if self.mlp is None else 2

    def _params(self, mlp: int) -> int:
        return self.residual_writes * norm_params(self.norm_kind, self.d_model) + self.mixer.num_params() + mlp

    def num_params(self) -> int:
        return self._params(self.mlp.num_params() if self.mlp is not None else 0)

    def active_params(self) -> int:
        return self._params(self.mlp.active_params() if self.mlp is not None else 0)

    def flops_per_token(self, length: int) -> float:
        return self.mixer.flops_per_token(length) + (self.mlp.flops_per_token(length) if self.mlp is not None else 0)

    def state_size(self, length: int) -> int:
        return self.mixer.state_size(length)

    def float_state(self, length: int) -> int:
        return self.mixer.float_state(length)


class Stack(Component):
    """Blocks in the order of the pattern, repeated cyclically, then the final norm. (B, T, D) in and out.

    Raises:
        ConfigError: mixtures with different numbers of experts, whose loads would not fit into one table.
    """

    def __init__(self, config: StackConfig, size: SizeConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        names = [config.pattern[i % len(config.pattern)] for i in range(size.n_layers)]
        if len(counts := {config.blocks[name].experts for name in names} - {0}) > 1:
            raise ConfigError(f"blocks of one stack have {sorted(counts)} experts; give every mixture the same number")
        self.layers = nn.ModuleList(Block(config.blocks[name], size) for name in names)
        self.final_norm = build_norm(config.final_norm, size.d_model)
        self.final_norm_params = norm_params(config.final_norm, size.d_model)
        self.activation_checkpointing = activation_checkpointing

    def forward(self, x_BTD: torch.Tensor, skip_last: int = 0) -> tuple[torch.Tensor, Routing | None]:
        """Run the stack; ``skip_last`` leaves out that many blocks at the end (the serial control of an ablation).

        Returns the normalised stream, and the routing of the mixtures that ran, if any.
        """
        routings = []
        for layer in self.layers[: len(self.layers) - skip_last]:
            # What a block says of its routing is an output like any other, so a second run counts nothing twice.
            x_BTD, routing = run(layer, x_BTD, self.activation_checkpointing and self.training)
            routings += [routing] if routing is not None else []
        losses, loads = [routing.loss for routing in routings], [routing.load for routing in routings]
        spread = Routing(torch.stack(losses).mean(), torch.stack(loads)) if routings else None
        return self.final_norm(x_BTD), spread

    def advance(self, x_BTD: torch.Tensor, states: list[Any] | None) -> tuple[torch.Tensor, list[Any]]:
        """The normalised stream and each block's state; see :meth:`lolm.mixers.base.Mixer.advance`."""
        states = [None] * len(self.layers) if states is None else states
        for i, block in enumerate(self.blocks):
            x_BTD, states[i] = block.advance(x_BTD, states[i])
        return self.final_norm(x_BTD), states

    @property
    def sites(self) -> dict[str, Site]:
        """``<layer>.<part>``, see :class:`Block`."""
        return {f"{layer}.{name}": site for layer, block in enumerate(self.blocks) for name, site in block.sites.items()}

    @property
    def blocks(self) -> list[Block]:
        return list(self.layers)  # type: ignore[arg-type]

    def num_params(self) -> int:
        return sum(block.num_params() for block in self.blocks) + self.final_norm_params

    def active_params(self) -> int:
        return sum(block.active_params() for block in self.blocks) + self.final_norm_params

    def flops_per_token(self, length: int) -> float:
        return sum(block.flops_per_token(length) for block in self.blocks)

    def state_size(self, length: int) -> int:
        return sum(block.state_size(length) for block in self.blocks)

    def float_state(self, length: int) -> int:
        return sum(block.float_state(length) for block in self.blocks)
