"""Every loss term, one function each, and their weighted sum (facts B).

L = L_tok + λ_future L_future + λ_chg L_chg + λ_regime L_reg + λ_comp L_comp + λ_mem L_mem + λ_man L_man,
and λ_router L_router for models with mixtures of experts (:func:`lolm.models.experts.router_loss`).

Shape suffixes: B batch, T time, D model width, R regime codes, S memory slots, V vocabulary, n contrastive candidates.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lolm.config import ArchitectureConfig, FutureSize, ObjectiveConfig, SizeConfig
from lolm.data.batches import IGNORED
from lolm.mixers.base import reset_children
from lolm.models.language_model import LanguageModel, Streams
from lolm.ops.cross_entropy import cross_entropy

COMPETITIVE_HORIZON = 8
COMPETITIVE_SLOPE = 5.0
LOSS_BLOCK = 4096  # positions whose logits exist at once


def token_loss(model: LanguageModel, o_BTD: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats over the positions whose target is not ``IGNORED``.

    No (B·T, V) tensor is kept: on CUDA by :meth:`LanguageModel.nats`; elsewhere more than 4,096 positions are scored block by
    block and their logits recomputed in the backward pass.
    """
    o, targets = o_BTD.flatten(0, 1), targets_BT.flatten()

    def block_loss(o_block: torch.Tensor, target_block: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model.logits(o_block).float(), target_block, IGNORED, model.kernels)

    scored = (targets != IGNORED).sum().clamp(min=1)
    if o.is_cuda:
        return model.nats(o, targets, IGNORED) / scored
    if len(targets) <= LOSS_BLOCK:
        return block_loss(o, targets) / scored
    blocks = zip(o.split(LOSS_BLOCK), targets.split(LOSS_BLOCK), strict=True)
    return torch.stack([checkpoint(block_loss, *block, use_reentrant=False) for block in blocks]).sum() / scored


class FutureHeads(nn.Module):
    """Projections that only the future loss uses; trained with the model, not counted in its size.

    ``cpc``: two MLPs D → hidden → width with GELU and biases, for z and for h. ``cosine``: one D × D map with bias.

    Args:
        negatives: of ``cpc``, as in :func:`future_cpc`.

    Attributes:
        kernels: backend (``training.kernels``).
    """

    kernels: str = "auto"

    def __init__(self, kind: str, size: FutureSize, d_model: int, trained: bool = True, negatives: str = "sequence") -> None:
        super().__init__()
        self.kind, self.size, self.d_model, self.negatives = kind, size, d_model, negatives
        self.z: nn.Module
        if kind == "cpc":
            self.z = self._mlp(d_model)
            self.h = self._mlp(d_model)
        else:
            self.z = nn.Linear(d_model, d_model)
        self.requires_grad_(trained)

    def reset_parameters(self) -> None:
        """The framework's initial values, drawn in the order of construction."""
        reset_children(self)

    def _mlp(self, d_model: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(d_model, self.size.hidden), nn.GELU(), nn.Linear(self.size.hidden, self.size.width))

    def flops_per_token(self, length: int, batch: int = 1) -> float:
        """Forward FLOPs per token of a batch of ``batch`` sequences: heads on the positions, and the similarities."""
        if self.kind == "cosine":
            return 2 * self.d_model**2
        positions = len(cpc_positions(length, self.size))
        heads = 2 * 2 * (self.d_model * self.size.hidden + self.size.hidden * self.size.width)
        keys = {"sequence": positions, "batch": batch * positions, "position": batch}[self.negatives]
        return positions / length * (heads + 2 * keys * self.size.width)

    def candidates(self, length: int, batch: int) -> int:
        """n: how many keys, the right one among them, the contrastive loss chooses between. Its chance level is ln n."""
        positions = len(cpc_positions(length, self.size))
        return {"sequence": positions, "batch": 1 + (batch - 1) * positions, "position": batch}[self.negatives]

    def applies(self, length: int, batch: int) -> bool:
        """Whether the future loss has anything to predict, and to choose between, in ``batch`` sequences of ``length``."""
        return length > self.size.horizon + 1 and (self.negatives == "sequence" or batch > 1)


def build_heads(architecture: ArchitectureConfig, size: SizeConfig, kernels: str = "auto") -> FutureHeads | None:
    """The heads an architecture's objectives need, with their backend (``training.kernels``); None for none."""
    objectives = architecture.objectives
    if architecture.predicts == "none" or size.future is None:
        return None
    heads = FutureHeads(objectives.future, size.future, size.d_model, objectives.future_trained, objectives.negatives)
    heads.kernels = kernels
    return heads


def cpc_positions(length: int, size: FutureSize) -> range:
    """Positions t whose future t + k is a candidate: every s-th, s = max(1, ⌊(T − k) / positions⌋).

    Their number n sets the chance level ln n of the published contrastive loss; n may exceed ``positions`` (292 for T = 2048).
    """
    usable = length - size.horizon
    return range(0, max(usable, 0), max(1, usable // size.positions))


def future_cpc(z_BTD: torch.Tensor, h_BTD: torch.Tensor, heads: FutureHeads) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) between z_t and h_{t+k}, h detached.

    Similarities are cosines over τ, clamped to ±30. Negatives by ``heads.negatives``, where n positions of B sequences are
    candidates:

    ``sequence``  the other n − 1 positions of the *same* sequence, as published; knowing the position is enough to tell them.
    ``batch``     all n positions of the B − 1 other sequences; knowing the position still rules out all but B − 1 of them.
    ``position``  the *same* position of the B − 1 other sequences; the position says nothing.
    """
    positions = cpc_positions(z_BTD.shape[1], heads.size)
    here, there = (slice(positions.start + ahead, positions.stop + ahead, positions.step) for ahead in (0, heads.size.horizon))
    query_BnW = heads.z(z_BTD[:, here]).float()
    # The future is a target, not a partner: with a gradient h could agree with z by saying nothing.
    key_BnW = heads.h(h_BTD.detach()[:, there]).float()
    with torch.autocast(z_BTD.device.type, enabled=False):  # in half precision a similarity over τ is wrong by 0.04 nats
        return info_nce(query_BnW, key_BnW, heads)


def info_nce(query_BnW: torch.Tensor, key_BnW: torch.Tensor, heads: FutureHeads) -> torch.Tensor:
    """The contrastive loss of :func:`future_cpc` from the projections of n positions of B sequences, in nats."""
    temperature, (sequences, positions) = heads.size.temperature, query_BnW.shape[:2]
    query_BnW = F.normalize(query_BnW, dim=-1) / temperature
    key_BnW = F.normalize(key_BnW, dim=-1)

    def clamped(similarity: torch.Tensor) -> torch.Tensor:
        # No cosine over τ comes near 30 unless τ is near 1/30, and the gradient of a clamp is dear.
        return similarity if 29 * temperature > 1 else similarity.clamp(-30, 30)

    def mean_nats(similarity: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return cross_entropy(similarity, truth, backend=heads.kernels) / len(truth)

    if heads.negatives == "position":
        similarity_nBB = clamped(query_BnW.transpose(0, 1) @ key_BnW.permute(1, 2, 0))
        truth_nB = torch.arange(sequences, device=query_BnW.device).expand(positions, -1)
        return mean_nats(similarity_nBB.flatten(0, 1), truth_nB.flatten())
    if heads.negatives == "batch":
        similarity_NN = clamped(query_BnW.flatten(0, 1) @ key_BnW.flatten(0, 1).T)
        truth_N = torch.arange(len(similarity_NN), device=query_BnW.device)
        sequence_N = truth_N // positions
        own_NN = (sequence_N[:, None] == sequence_N) & (truth_N[:, None] != truth_N)
        return mean_nats(similarity_NN.masked_fill(own_NN, -math.inf), truth_N)
    similarity_Bnn = clamped(query_BnW @ key_BnW.transpose(1, 2))
    truth_Bn = torch.arange(positions, device=query_BnW.device).expand(sequences, -1)
    return mean_nats(similarity_Bnn.flatten(0, 1), truth_Bn.flatten())


def future_cosine(z_BTD: torch.Tensor, h_BTD: torch.Tensor, heads: FutureHeads) -> torch.Tensor:
    """−mean cos(P z_t, mean(h_{t+1} … h_{t+k})), target detached (v0)."""
    horizon = heads.size.horizon
    sums = F.pad(h_BTD.detach().float().cumsum(dim=1), (0, 0, 1, 0))  # sums[t] = h_0 + … + h_{t-1}
    target_BTD = (sums[:, horizon + 1 :] - sums[:, 1:-horizon]) / horizon
    return -F.cosine_similarity(heads.z(z_BTD[:, :-horizon]).float(), target_BTD, dim=-1).mean()


def change(h_BTD: torch.Tensor, p_BTR: torch.Tensor) -> torch.Tensor:
    """−Pearson correlation over time of the change of h (detached) and of p, each 1 − cos of neighbours.

    Averaged over the sequences in which both vary; 0 when none does.
    """
    h = h_BTD.detach().float()  # the codes follow the surface; the surface isn't to change so as to be easy to follow
    p = p_BTR.float()
    h_change = 1 - F.cosine_similarity(h[:, 1:], h[:, :-1], dim=-1)  # (B, T − 1)
    p_change = 1 - F.cosine_similarity(p[:, 1:], p[:, :-1], dim=-1)
    h_change = h_change - h_change.mean(dim=1, keepdim=True)
    p_change = p_change - p_change.mean(dim=1, keepdim=True)
    scale = h_change.square().sum(dim=1) * p_change.square().sum(dim=1)
    varies = scale > 1e-16
    correlation = (h_change * p_change).sum(dim=1) * torch.where(varies, scale, 1.0).rsqrt()
    return -(correlation * varies).sum() / varies.sum().clamp(min=1)


def entropy(p: torch.Tensor) -> torch.Tensor:
    """Entropy in nats over the last dimension; 0 ln 0 = 0."""
    return -torch.special.xlogy(p, p.clamp(min=1e-30)).sum(dim=-1)


def regime_balance(p_BTR: torch.Tensor, balance_weight: float = 0.5, entropy_weight: float = -1.0) -> torch.Tensor:
    """w_bal · L_bal + w_H · mean entropy of p + 0.2 · L_sticky; in v3 w_bal = 0.5 and w_H = −1, which maximises the entropy.

    L_bal = R Σ_c f_c a_c with f the mean probability of a code and a its share of argmaxes (no gradient), 1 at best;
    L_sticky = −mean cos(p_t, p_{t−1}).
    """
    p = p_BTR.float()
    codes = p.shape[-1]
    # As in Switch Transformers: the share has no gradient, so it is the price of a code that the probabilities are led by.
    chosen_BTR = p.argmax(dim=-1, keepdim=True) == torch.arange(codes, device=p.device)  # F.one_hot would look at the values
    share = chosen_BTR.float().mean(dim=(0, 1))
    balance = codes * (p.mean(dim=(0, 1)) * share).sum()
    sticky = -F.cosine_similarity(p[:, 1:], p[:, :-1], dim=-1).mean()
    return balance_weight * balance + entropy_weight * entropy(p).mean() + 0.2 * sticky


def regime_entropy(p_BTR: torch.Tensor) -> torch.Tensor:
    """Mean entropy of p, which is minimised, + 0.1 · rate of argmax switches (no gradient) (v0)."""
    p = p_BTR.float()
    codes = p.argmax(dim=-1)
    return entropy(p).mean() + 0.1 * (codes[:, 1:] != codes[:, :-1]).float().mean()


def competitive_target(h_BTD: torch.Tensor, z_BTD: torch.Tensor, horizon: int = COMPETITIVE_HORIZON) -> torch.Tensor:
    """What the mean gate is pulled towards, (B, T − k): σ(5 · clip(u_h − u_z, ±5)), all detached.

    u_h = cos(h_t, h_{t+k}) and u_z = cos(z_t, h_{t+k}): which stream already looks like the future surface.
    """
    # Detached: the term teaches the gate alone. Else the streams would learn to look like a future that is easy to look like.
    h, z = h_BTD.detach().float(), z_BTD.detach().float()
    future = h[:, horizon:]
    u_h = F.cosine_similarity(h[:, :-horizon], future, dim=-1)
    u_z = F.cosine_similarity(z[:, :-horizon], future, dim=-1)
    return torch.sigmoid(COMPETITIVE_SLOPE * (u_h - u_z).clamp(-5, 5))


def competitive(g_BTD: torch.Tensor, target_BT: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the gate's mean over dimensions from the target."""
    return F.mse_loss(g_BTD.float().mean(dim=-1)[:, : target_BT.shape[1]], target_BT)


def memory_attention(attention_BTS: torch.Tensor) -> torch.Tensor:
    """Entropy of the attention over slots, over ln S: 0 when one slot is read, 1 when all are (v3.2 on)."""
    return entropy(attention_BTS.float()).mean() / math.log(attention_BTS.shape[-1])


def memory_variance(m_BTD: torch.Tensor) -> torch.Tensor:
    """−mean over positions of the variance of m over its features (v0)."""
    return -m_BTD.float().var(dim=-1).mean()


def manifest(g_BTD: torch.Tensor) -> torch.Tensor:
    """Mean of the gate."""
    return g_BTD.float().mean()


def auxiliary_losses(objectives: ObjectiveConfig, streams: Streams, heads: FutureHeads | None) -> dict[str, torch.Tensor]:
    """The unweighted terms that apply to the streams a model has; sequences shorter than a horizon skip its term,
    and so does a batch of one where negatives come from other sequences."""
    s, terms = streams, {}
    length = s.h.shape[1]
    if heads is not None and s.z is not None and heads.applies(length, len(s.h)):
        terms["future"] = (future_cpc if heads.kind == "cpc" else future_cosine)(s.z, s.h, heads)
    if s.p is not None and length > 2:
        if objectives.change_weight:
            terms["change"] = change(s.h, s.p)
        if objectives.regime != "none":
            weights = objectives.regime_balance_weight, objectives.regime_entropy_weight
            terms["regime"] = regime_balance(s.p, *weights) if objectives.regime == "balance" else regime_entropy(s.p)
    if s.g is not None and s.z is not None:
        if objectives.competitive_weight and length > COMPETITIVE_HORIZON:
            terms["competitive"] = competitive(s.g, competitive_target(s.h, s.z))
        terms["manifest"] = manifest(s.g)
    if s.m is not None and s.attention is not None and objectives.memory != "none":
        terms["memory"] = memory_attention(s.attention) if objectives.memory == "attention" else memory_variance(s.m)
    if s.router is not None:
        terms["router"] = s.router
    return terms


def total_loss(objectives: ObjectiveConfig, token: torch.Tensor, auxiliary: dict[str, torch.Tensor]) -> torch.Tensor:
    """L_tok plus the weighted auxiliary terms, each clamped to ± ``auxiliary_clamp`` (v3) except L_man."""
    total = token
    for name, term in auxiliary.items():
        # A clamp: beyond it a term is a constant and has no gradient.
        if objectives.auxiliary_clamp is not None and name != "manifest":
            term = term.clamp(-objectives.auxiliary_clamp, objectives.auxiliary_clamp)
        total = total + getattr(objectives, f"{name}_weight") * term
    return total
