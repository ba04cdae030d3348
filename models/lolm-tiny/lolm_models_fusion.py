# lolm.models.fusion of this project, with its imports made flat.
"""Fusion of the streams under the gate (facts A7, the paper's eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from .lolm_models_blocks import build_norm
from .lolm_models_blocks import norm_params
from .lolm_models_component import Component

Terms = dict[str, torch.Tensor]


class Fusion(Component):
    """o = g ⊙ u + (1 − g) ⊙ v + W_m m + W_r r, with the branches u = LN_h(W_h h) and v = LN_z(W_z z).

    Without a gate the branches are added, or with ``concat`` mapped together, P [u; v] with P: 2D → D. The branch norms are
    there to make two branches comparable, so a model without a latent stream has none. ``isolate`` detaches r here (only here:
    the token loss still reaches the codes through the gate), ``detach_latent`` z. Streams that a model lacks are left out.

    The sum has names: :meth:`terms` are what it joins, ``surface`` (u), ``latent`` (v), ``memory`` and ``regime``;
    :meth:`join` is how it joins them; :meth:`addends` are the same terms as they stand in o, weighted by the gate.
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

    def terms(
        self,
        h_BTD: torch.Tensor,
        z_BTD: torch.Tensor | None,
        m_BTD: torch.Tensor | None,
        r_BTE: torch.Tensor | None,
    ) -> Terms:
        """What is joined, each (B, T, D): the branches ``surface`` and ``latent``, and W_m m and W_r r, where there are such."""
        u, v = self.branches(h_BTD, z_BTD)
        return {"surface": u} | ({} if v is None else {"latent": v}) | self.beside(m_BTD, r_BTE)

    def beside(self, m_BTD: torch.Tensor | None, r_BTE: torch.Tensor | None) -> Terms:
        """What the gate doesn't weigh: ``memory`` and ``regime``."""
        terms = {}
        if self.memory is not None and m_BTD is not None:
            terms["memory"] = self.memory(m_BTD)
        if self.regime is not None and r_BTE is not None:
            # Isolated codes are taught by the auxiliary losses and by the gate alone, not by what they add here.
            terms["regime"] = self.regime(r_BTE.detach() if self.isolate else r_BTE)
        return terms

    def join(self, terms: Mapping[str, torch.Tensor], g_BTD: torch.Tensor | None) -> torch.Tensor:
        """o_BTD of the terms."""
        u, v = terms["surface"], terms.get("latent")
        if v is None:
            o = u
        elif self.concat is not None:
            o = self.concat(torch.cat((u, v), dim=-1))
        elif g_BTD is not None:
            o = v + g_BTD * (u - v)  # g u + (1 − g) v with one product
        else:
            o = u + v
        beside = [terms[name] for name in ("memory", "regime") if name in terms]
        return o + sum(beside[1:], beside[0]) if beside else o

    def addends(self, terms: Mapping[str, torch.Tensor], g_BTD: torch.Tensor | None) -> Terms:
        """The terms as they stand in o, each (B, T, D): they sum to :meth:`join`. P [u; v] is the sum of P's halves."""
        u, v = terms["surface"], terms.get("latent")
        if v is None:
            return dict(terms)
        if self.concat is not None:
            of_surface, of_latent = self.concat.weight.split(self.d_model, dim=1)
            return {**terms, "surface": F.linear(u, of_surface), "latent": F.linear(v, of_latent)}
        if g_BTD is not None:
            return {**terms, "surface": g_BTD * u, "latent": (1 - g_BTD) * v}
        return dict(terms)

    def forward(
        self,
        h_BTD: torch.Tensor,
        z_BTD: torch.Tensor | None,
        m_BTD: torch.Tensor | None,
        r_BTE: torch.Tensor | None,
        g_BTD: torch.Tensor | None,
    ) -> torch.Tensor:
        return self.join(self.terms(h_BTD, z_BTD, m_BTD, r_BTE), g_BTD)

    def num_params(self) -> int:
        maps = sum(layer is not None for layer in (self.surface, self.latent, self.memory)) + 2 * (self.concat is not None)
        regime = self.regime.in_features * self.d_model if self.regime is not None else 0
        return maps * self.d_model**2 + regime + 2 * norm_params(self.branch_norm, self.d_model)

    def flops_per_token(self, length: int) -> float:
        return 2 * (self.num_params() - 2 * norm_params(self.branch_norm, self.d_model))
