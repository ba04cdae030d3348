"""The latent stream: SSM layers over the surface's output in the two forms of facts A3, or their control."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lolm.config import BlockConfig, ConfigError, LatentConfig, LatentSize, MixerConfig, SizeConfig
from lolm.mixers.base import Mixer
from lolm.mixers.registry import build_mixer
from lolm.mixers.site import Site
from lolm.models.blocks import Block, build_norm, norm_params, run
from lolm.models.component import Component

MIXER_OF_FORM = {"mamba": "mamba1", "plain": "plain_ssm", "conv": "gated_conv"}


class Latent(Component):
    """z = layers(W_in x), x being the surface's output or the token embeddings; (B, T, D) in and out.

    Wiring of the layers:
        ``chain``     x ← f(x): SSM-M as published. A freshly made block returns about 1/50 of its input's scale or less, and
                      nothing restores it: four layers leave 3e-7, below what the branch norm's ε lets through.
        ``postnorm``  x ← LN(f(x) + x): SSM-P as published.
        ``prenorm``   x ← x + f(LN(x)), and a last LN: as stacks of Mamba blocks are usually built.

    ``form: transformer`` puts K pre-norm blocks of attention with RoPE and a GELU MLP in the place of the SSM layers, so that
    what the SSM contributes can be told from what the extra depth does; with ``conv`` they have the convolution of Mamba's block
    too. ``form: conv`` is Mamba's block without its recurrence.

    Raises:
        ConfigError: a transformer wired otherwise than ``prenorm``, or without ``latent.d_ff``.
    """

    def __init__(
        self,
        config: LatentConfig,
        size: LatentSize,
        d_model: int,
        n_heads: int = 1,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.form, self.wiring, self.d_model = config.form, config.wiring, d_model
        self.in_proj = nn.Linear(d_model, d_model, bias=False)
        if config.form == "transformer":
            layers: list[Mixer | Block] = [
                _transformer_block(config, size, d_model, n_heads, dropout) for _ in range(size.layers)
            ]
            norms = 1  # the last; blocks bring their own
        else:
            states = {} if config.form == "conv" else {"d_state": size.d_state}
            mixer = MixerConfig(MIXER_OF_FORM[config.form], {**states, "expand": size.expand})
            layers = [build_mixer(mixer, d_model, 1, 0.0) for _ in range(size.layers)]
            norms = {"chain": 0, "postnorm": size.layers, "prenorm": size.layers + 1}[config.wiring]
        self.layers = nn.ModuleList(layers)
        self.layer_sites = [Site(MIXER_OF_FORM.get(config.form, "attention")) for _ in layers]  # blocks bring their own
        self.norms = nn.ModuleList(build_norm("layernorm", d_model) for _ in range(norms))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        again = self.activation_checkpointing and self.training

        def layer(i: int, x: torch.Tensor) -> torch.Tensor:
            y = run(self.layers[i], x, again)
            return y if torch.is_tensor(y) else y[0]  # a block's routing is nobody's here

        return self._wired(x_BTD, layer)

    def advance(self, x_BTD: torch.Tensor, states: list[Any] | None) -> tuple[torch.Tensor, list[Any]]:
        """z_BTD and each layer's state; see :meth:`lolm.mixers.base.Mixer.advance`."""
        kept = [None] * len(self.layers) if states is None else states

        def layer(i: int, x: torch.Tensor) -> torch.Tensor:
            y, kept[i] = self.parts[i].advance(x, kept[i])
            return y

        return self._wired(x_BTD, layer), kept

    def _wired(self, x_BTD: torch.Tensor, layer: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        x = self.in_proj(x_BTD)
        for i, site in enumerate(self.layer_sites):
            if self.wiring == "chain":
                x = site(layer(i, x))
            elif self.wiring == "postnorm":
                x = self.norms[i](site(layer(i, x)) + x)
            elif self.form == "transformer":
                x = layer(i, x)
            else:
                x = x + site(layer(i, self.norms[i](x)))
        return self.norms[-1](x) if self.wiring == "prenorm" else x

    @property
    def sites(self) -> dict[str, Site]:
        """``<layer>.mixer``: what an SSM layer adds to its stream, or where layers are chained what it hands on, (B, T, D)."""
        if self.form == "transformer":
            blocks = [block for block in self.layers if isinstance(block, Block)]
            return {f"{layer}.{name}": site for layer, block in enumerate(blocks) for name, site in block.sites.items()}
        return {f"{layer}.mixer": site for layer, site in enumerate(self.layer_sites)}

    @property
    def parts(self) -> list[Mixer | Block]:
        return list(self.layers)  # type: ignore[arg-type]

    def num_params(self) -> int:
        layers = sum(layer.num_params() for layer in self.parts)
        return self.d_model**2 + layers + len(self.norms) * norm_params("layernorm", self.d_model)

    def flops_per_token(self, length: int) -> float:
        return 2 * self.d_model**2 + sum(layer.flops_per_token(length) for layer in self.parts)

    def state_size(self, length: int) -> int:
        return sum(layer.state_size(length) for layer in self.parts)

    def float_state(self, length: int) -> int:
        return sum(layer.float_state(length) for layer in self.parts)


def _transformer_block(config: LatentConfig, size: LatentSize, d_model: int, n_heads: int, dropout: float) -> Block:
    if config.wiring != "prenorm":
        raise ConfigError(f"latent.wiring: {config.wiring!r} with latent.form: transformer; its blocks are pre-norm, set prenorm")
    if not size.d_ff:
        raise ConfigError("sizes: latent.d_ff is missing, and latent.form: transformer has an MLP")
    options = {"conv": config.conv} if config.conv else {}
    block = BlockConfig(MixerConfig("attention", options), mlp="gelu", norm="layernorm")
    return Block(block, SizeConfig(d_model, size.layers, n_heads, learning_rate=0.0, d_ff=size.d_ff, dropout=dropout))
