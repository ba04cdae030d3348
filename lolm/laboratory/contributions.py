"""What each addend of the fusion contributes, beside the mean gate, which is no share of anything (spec F5)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lolm.data.batches import EvaluationSet
from lolm.interventions import InterventionError, fusion_of
from lolm.laboratory.cached_activations import cached_activations
from lolm.models.fusion import Fusion
from lolm.models.language_model import LanguageModel, Streams


def addends(fusion: Fusion, streams: Streams) -> dict[str, torch.Tensor]:
    """The terms of o, each (B, T, D), whatever the form of the fusion: ``surface latent memory regime``, where there are such.

    Of P [u; v] the halves of P make the first two. Their sum is o.
    """
    u, v = fusion.branches(streams.h, streams.z)
    terms = {"surface": u}
    if v is not None:
        if fusion.concat is not None:
            of_surface, of_latent = fusion.concat.weight.split(fusion.d_model, dim=1)
            terms = {"surface": F.linear(u, of_surface), "latent": F.linear(v, of_latent)}
        elif streams.g is not None:
            terms = {"surface": streams.g * u, "latent": (1 - streams.g) * v}
        else:
            terms["latent"] = v
    if fusion.memory is not None and streams.m is not None:
        terms["memory"] = fusion.memory(streams.m)
    if fusion.regime is not None and streams.r is not None:
        terms["regime"] = fusion.regime(streams.r)
    return terms


def linearised(norm: nn.Module, x: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
    """What the head's norm makes of one addend x when mean and scale are those of o: linear in x, without the bias.

    The addends' values sum to norm(o) less its bias.
    """
    if isinstance(norm, nn.LayerNorm):
        scale = (o.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return (x - x.mean(dim=-1, keepdim=True)) / scale * norm.weight
    if isinstance(norm, nn.RMSNorm):
        epsilon = torch.finfo(o.dtype).eps if norm.eps is None else norm.eps
        return x / (o.square().mean(dim=-1, keepdim=True) + epsilon).sqrt() * norm.weight
    return x


@torch.no_grad()
def contributions(model: LanguageModel, held_out: EvaluationSet, batch_size: int) -> dict[str, Any]:
    """Contribution of each addend of o on held-out text.

    Returns:
        ``gate``: mean gate, None without one.
        ``addends``: for each, ``mean_norm``: mean length; ``variance_share``: Σ_d Cov(x_d, o_d) / Σ_d Var(o_d) over tokens,
        which sums to 1 and is negative for an addend that works against the others (None where o never changes); ``logit``:
        mean contribution to the correct token's logit; ``logit_centred``: the same less the mean over the vocabulary, which
        is all that the softmax sees. The head's norm is linearised, see :func:`linearised`; its bias makes up the difference
        to the model's own logits.

    Raises:
        InterventionError: a model without a fusion has nothing to share among.
    """
    fusion = fusion_of(model)
    if fusion is None:
        raise InterventionError("contributions are those of a fusion's addends; this model is one stack")
    embedding_VD = model.embedding.weight
    mean_D = embedding_VD.mean(dim=0)
    totals: dict[str, dict[str, Any]] = {}
    gate, tokens = 0.0, 0

    def add(name: str, **values: torch.Tensor) -> None:
        kept = totals.setdefault(name, dict.fromkeys(values, 0.0))
        for key, value in values.items():
            kept[key] = kept[key] + value.double()

    for cached in cached_activations(model, held_out.batches(batch_size)):
        o_ND, rows_ND = model.fuse(cached.streams).flatten(0, 1), embedding_VD[cached.targets_N]
        tokens += len(o_ND)
        add("o", total=o_ND.double().sum(dim=0), square=o_ND.double().square().sum(dim=0))
        if cached.streams.g is not None:
            gate += float(cached.streams.g.double().mean()) * len(o_ND)
        for name, x in addends(fusion, cached.streams).items():
            x_ND = x.flatten(0, 1)
            read_ND = linearised(model.head_norm, x_ND, o_ND)
            add(
                name,
                norm=x_ND.norm(dim=-1).sum(),
                total=x_ND.double().sum(dim=0),
                product=(x_ND.double() * o_ND.double()).sum(dim=0),
                logit=(read_ND * rows_ND).sum(),
                centred=(read_ND * (rows_ND - mean_D)).sum(),
            )
    whole = totals.pop("o")
    variance = float((whole["square"] / tokens - (whole["total"] / tokens).square()).sum())
    shares = {}
    for name, kept in totals.items():
        covariance = float((kept["product"] / tokens - kept["total"] * whole["total"] / tokens**2).sum())
        shares[name] = {
            "mean_norm": float(kept["norm"]) / tokens,
            "variance_share": covariance / variance if variance > 0 else None,
            "logit": float(kept["logit"]) / tokens,
            "logit_centred": float(kept["centred"]) / tokens,
        }
    return {"gate": gate / tokens if "gate" in model.components() else None, "addends": shares}
