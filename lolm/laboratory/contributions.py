"""What each addend of the fusion contributes, beside the mean gate, which is no share of anything (facts F5)."""

from __future__ import annotations

import torch
from torch import nn

from lolm.data.batches import EvaluationSet
from lolm.interventions import InterventionError, fusion_of
from lolm.laboratory.cached_activations import cached_activations
from lolm.models.language_model import LanguageModel
from lolm.records.names import BRANCHES
from lolm.records.schema import Addend, Contribution


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
def contributions(model: LanguageModel, held_out: EvaluationSet, batch_size: int, *, step: int = 0) -> Contribution:
    """What each addend of o contributes on held-out text, beside the mean gate (None without one).

    ``mean_norm``: mean length. ``variance_share``: Σ_d Cov(x_d, o_d) / Σ_d Var(o_d) over tokens, which sums to 1 and is negative
    for an addend that works against the others (None where o never changes). ``logit``: mean contribution to the correct token's
    logit. ``logit_centred``: the same less the mean over the vocabulary, which is all that the softmax sees. The head's norm is
    linearised, see :func:`linearised`; its bias makes up the difference to the model's own logits.

    Of the two branches x and y as they stand in o, weighted by the gate: ``share``, |x|² / (|x|² + |y|²) per position, averaged,
    the share of the gated signal; ``spread_share``, Σ_d Var(x_d) / Σ_d (Var(x_d) + Var(y_d)) over tokens, which leaves out what
    never changes.

    Args:
        step: of the weights, for the row.

    Raises:
        InterventionError: a model without a fusion has nothing to share among.
    """
    fusion = fusion_of(model)
    if fusion is None:
        raise InterventionError("contributions are those of a fusion's addends; this model is one stack")
    embedding_VD = model.embedding.weight
    mean_D = embedding_VD.mean(dim=0)
    sums: dict[str, dict[str, torch.Tensor]] = {}  # over tokens, in float64
    gate_sum, tokens = 0.0, 0

    def add(name: str, **values: torch.Tensor) -> None:
        of_name = sums.setdefault(name, {key: torch.zeros_like(value, dtype=torch.float64) for key, value in values.items()})
        for key, value in values.items():
            of_name[key] += value.double()

    for cached in cached_activations(model, held_out.batches(batch_size)):
        s = cached.streams
        o_ND, rows_ND = model.fuse(s).flatten(0, 1), embedding_VD[cached.targets_N]
        tokens += len(o_ND)
        add("o", total=o_ND.double().sum(dim=0), square=o_ND.double().square().sum(dim=0))
        if s.g is not None:
            gate_sum += float(s.g.double().mean()) * len(o_ND)
        weighed = fusion.addends(fusion.terms(s.h, s.z, s.m, s.r), s.g)
        powers = {name: weighed[name].double().square().sum(dim=-1) for name in BRANCHES if name in weighed}
        power = torch.stack([*powers.values()]).sum(dim=0)
        for name, part in powers.items():
            add(f"{name} share", share=torch.where(power > 0, part / power, 1 / len(powers)).sum())
        for name, x in weighed.items():
            x_ND = x.flatten(0, 1)
            read_ND = linearised(model.head_norm, x_ND, o_ND)
            add(
                name,
                norm=x_ND.norm(dim=-1).sum(),
                total=x_ND.double().sum(dim=0),
                square=x_ND.double().square().sum(dim=0),
                product=(x_ND.double() * o_ND.double()).sum(dim=0),
                logit=(read_ND * rows_ND).sum(),
                centred=(read_ND * (rows_ND - mean_D)).sum(),
            )
    o = sums.pop("o")

    def spread(of_name: dict[str, torch.Tensor]) -> float:
        return float((of_name["square"] / tokens - (of_name["total"] / tokens).square()).sum())

    variance, addends = spread(o), {}
    shares = {name: float(sums.pop(f"{name} share")["share"]) / tokens for name in BRANCHES if name in sums}
    spreads = {name: spread(sums[name]) for name in shares}
    for name, of_name in sums.items():
        covariance = float((of_name["product"] / tokens - of_name["total"] * o["total"] / tokens**2).sum())
        addends[name] = Addend(
            mean_norm=float(of_name["norm"]) / tokens,
            variance_share=covariance / variance if variance > 0 else None,
            logit=float(of_name["logit"]) / tokens,
            logit_centred=float(of_name["centred"]) / tokens,
            share=shares.get(name),
            spread_share=spreads[name] / sum(spreads.values()) if name in spreads and sum(spreads.values()) > 0 else None,
        )
    return Contribution(step, gate_sum / tokens if "gate" in model.components() else None, addends)
