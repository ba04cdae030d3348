# lolm.models.experts of this project, with its imports made flat.
"""A sparse mixture of MLPs in place of one, as in Jamba (Lieber et al. 2024, arXiv 2403.19887)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .lolm_models_component import Component
from .lolm_models_mlp import MLP


class Routing(NamedTuple):
    """How a mixture spread its tokens; a stack's has one row for each of its mixtures.

    Attributes:
        loss: :func:`router_loss`, a scalar; of a stack the mean over its mixtures.
        load: share of the assignments that each expert got, (E,) or (mixtures, E); no gradient.
    """

    loss: torch.Tensor
    load: torch.Tensor


def router_loss(p_NE: torch.Tensor, load_E: torch.Tensor) -> torch.Tensor:
    """E · Σ_e f_e P_e (Fedus et al. 2021, arXiv 2101.03961, eq. 4): 1 when experts are used evenly, E when one does it all.

    f is the load, which has no gradient, and P the mean probability of each expert. With k experts a token f still sums to 1.
    """
    return p_NE.shape[-1] * (load_E * p_NE.mean(dim=0)).sum()


class Experts(Component):
    """y = Σ over the k likeliest experts e of p_e · MLP_e(x), p = softmax(W x) over all E experts.

    The k probabilities are not renormalised, so they keep saying how sure the router is. The router computes in float32. No
    token is ever dropped: each expert runs once, on all the tokens that chose it.
    """

    def __init__(self, kind: str, d_model: int, d_ff: int, dropout: float, bias: bool, experts: int, per_token: int) -> None:
        super().__init__()
        self.d_model, self.per_token = d_model, per_token
        self.router = nn.Linear(d_model, experts, bias=False)
        self.experts = nn.ModuleList(MLP(kind, d_model, d_ff, dropout, bias) for _ in range(experts))

    def forward(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, Routing]:
        x_ND = x_BTD.flatten(0, 1)
        with torch.autocast(x_ND.device.type, enabled=False):
            exact = torch.promote_types(x_ND.dtype, torch.float32)
            p_NE = F.softmax(F.linear(x_ND.to(exact), self.router.weight.to(exact)), dim=-1)
        # The choice itself has no gradient; the router learns through the weights p_e, and through its loss.
        weight_NK, chosen_NK = p_NE.topk(self.per_token, dim=-1)
        order = chosen_NK.flatten().argsort(stable=True)  # assignments grouped by expert
        ones = torch.ones_like(order)
        counts_E = ones.new_zeros(len(self.experts)).scatter_add(0, chosen_NK.flatten(), ones)
        by_expert = (self.grouped if x_ND.is_cuda else self.looped)(x_ND[order // self.per_token], counts_E)
        y_NKD = by_expert[order.argsort()].unflatten(0, chosen_NK.shape)  # back in the order of the tokens: no racing sums
        y_ND = (y_NKD * weight_NK.to(y_NKD.dtype)[..., None]).sum(dim=1)
        load_E = counts_E / chosen_NK.numel()
        return y_ND.view(x_BTD.shape), Routing(router_loss(p_NE, load_E), load_E)

    def looped(self, x_ND: torch.Tensor, counts_E: torch.Tensor) -> torch.Tensor:
        """The experts, one after the other, on tokens that are sorted by expert."""
        groups = x_ND.split(counts_E.tolist())
        return torch.cat([expert(group) for expert, group in zip(self.experts, groups, strict=True)])

    def grouped(self, x_ND: torch.Tensor, counts_E: torch.Tensor) -> torch.Tensor:
        """The same as one product a map, for which the host need not know how many tokens each expert has."""
        ends_E = counts_E.cumsum(0, dtype=torch.int32)
        half = torch.is_autocast_enabled(x_ND.device.type)
        dtype = torch.get_autocast_dtype(x_ND.device.type) if half else x_ND.dtype

        def apply(maps: list[nn.Linear], x: torch.Tensor) -> torch.Tensor:
            weight = torch.stack([m.weight for m in maps]).to(dtype)
            y = F.grouped_mm(x.to(dtype), weight.transpose(1, 2), offs=ends_E)
            if maps[0].bias is None:
                return y
            rows = torch.arange(len(y), device=y.device, dtype=torch.int32)
            return y + torch.stack([m.bias for m in maps]).to(dtype)[torch.searchsorted(ends_E, rows, right=True)]

        first = self.mlps[0]
        y_ND = apply([mlp.down for mlp in self.mlps], first.act(apply([mlp.up for mlp in self.mlps], x_ND)))
        return F.dropout(y_ND, first.dropout, self.training)

    @property
    def mlps(self) -> list[MLP]:
        return list(self.experts)  # type: ignore[arg-type]

    def _params(self, experts: int) -> int:
        return self.d_model * len(self.experts) + experts * self.mlps[0].num_params()

    def num_params(self) -> int:
        return self._params(len(self.experts))

    def active_params(self) -> int:
        return self._params(self.per_token)

    def flops_per_token(self, length: int) -> float:
        """The router, and the k experts that a token goes to."""
        return 2 * self.d_model * len(self.experts) + self.per_token * self.mlps[0].flops_per_token(length)
