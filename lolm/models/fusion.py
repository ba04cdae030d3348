"""Fusion of the streams under the gate (spec A7, the paper's eq. 1)."""

from __future__ import annotations

import torch
from torch import nn

from lolm.models.blocks import build_norm, norm_params
from lolm.models.component import Component


class Fusion(Component):
    """o = g ⊙ LN_h(W_h h) + (1 − g) ⊙ LN_z(W_z z) + W_m m + W_r r.

    Without a gate the branches are added, or with ``concat`` mapped together, P [u; v] with P: 2D → D. The branch norms are
    there to make two branches comparable, so a model without a latent stream has none. ``isolate`` detaches r here (only here:
    the token loss still reaches the codes through the gate), ``detach_latent`` z. Streams that a model lacks are left out.
    """

    def __init__(
        self,
        d_model: int,
        latent: bool,
        memory: bool,
        regime_width: int,
        branch_norm: bool,
        isolate: bool,
        concat: bool = False,
        detach_latent: bool = False,
    ) -> None:
        super().__init__()
        self.d_model, self.isolate, self.detach_latent = d_model, isolate, detach_latent
        self.surface = nn.Linear(d_model, d_model, bias=False)
        self.latent = nn.Linear(d_model, d_model, bias=False) if latent else None
        self.memory = nn.Linear(d_model, d_model, bias=False) if memory else None
        self.regime = nn.Linear(regime_width, d_model, bias=False) if regime_width else None
        self.branch_norm = "layernorm" if latent and branch_norm else "none"
        self.surface_norm = build_norm(self.branch_norm, d_model)
        self.latent_norm = build_norm(self.branch_norm, d_model)
        self.concat = nn.Linear(2 * d_model, d_model, bias=False) if concat else None

    def branches(self, h_BTD: torch.Tensor, z_BTD: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the gate weighs, u and v: the projected and normalised surface and latent branches."""
        surface = self.surface_norm(self.surface(h_BTD))
        if self.latent is None or z_BTD is None:
            return surface, None
        return surface, self.latent_norm(self.latent(z_BTD.detach() if self.detach_latent else z_BTD))

    def offset(self, m_BTD: torch.Tensor | None, r_BTE: torch.Tensor | None) -> torch.Tensor | float:
        """What is added beside the gate: W_m m + W_r r."""
        total: torch.Tensor | float = 0.0
        if self.memory is not None and m_BTD is not None:
            total = total + self.memory(m_BTD)
        if self.regime is not None and r_BTE is not None:
            total = total + self.regime(r_BTE.detach() if self.isolate else r_BTE)
        return total

    def forward(
        self,
        h_BTD: torch.Tensor,
        z_BTD: torch.Tensor | None,
        m_BTD: torch.Tensor | None,
        r_BTE: torch.Tensor | None,
        g_BTD: torch.Tensor | None,
    ) -> torch.Tensor:
        surface, latent = self.branches(h_BTD, z_BTD)
        if latent is None:
            mixed = surface
        elif self.concat is not None:
            mixed = self.concat(torch.cat((surface, latent), dim=-1))
        elif g_BTD is not None:
            mixed = latent + g_BTD * (surface - latent)
        else:
            mixed = surface + latent
        return mixed + self.offset(m_BTD, r_BTE)

    def num_params(self) -> int:
        maps = sum(layer is not None for layer in (self.surface, self.latent, self.memory)) + 2 * (self.concat is not None)
        regime = self.regime.in_features * self.d_model if self.regime is not None else 0
        return maps * self.d_model**2 + regime + 2 * norm_params(self.branch_norm, self.d_model)

    def flops_per_token(self, length: int) -> float:
        return 2 * (self.num_params() - 2 * norm_params(self.branch_norm, self.d_model))
