"""What the streams of a trained LOLM look like on held-out text: gate, regime codes, auxiliary losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lolm.config import ObjectiveConfig
from lolm.data.batches import EvaluationSet, stream_seed
from lolm.models.fusion import Fusion
from lolm.models.language_model import LanguageModel
from lolm.models.regime import Regime, exponential_noise, gumbel_softmax
from lolm.objectives import FutureHeads, auxiliary_losses, competitive_target, entropy
from lolm.records.schema import ContrastiveSummary, GateSummary, Histogram, RegimeSummary

HISTOGRAM_BINS = 20
SATURATED = (0.05, 0.95)


class GateStatistics:
    """Level and spread of the gate, and the surface branch's share of the gated signal.

    share = |g ⊙ u|² / (|g ⊙ u|² + |(1 − g) ⊙ v|²) per position, averaged: unlike the mean gate it knows how large the
    branches u (surface) and v (latent) are.
    """

    def __init__(self) -> None:
        self.positions, self.share, self.target, self.targets = 0, 0.0, 0.0, 0
        self.sum_D: torch.Tensor = torch.zeros(())
        self.square_D: torch.Tensor = torch.zeros(())
        self.counts = torch.zeros(HISTOGRAM_BINS, dtype=torch.float64)
        self.low = self.high = 0

    def add(self, fusion: Fusion, h_BTD: torch.Tensor, z_BTD: torch.Tensor, g_BTD: torch.Tensor) -> None:
        g_ND = g_BTD.double().flatten(0, 1)
        u, v = fusion.branches(h_BTD, z_BTD)
        assert v is not None  # a gate has two branches to weigh
        surface = (g_BTD * u).double().square().sum(dim=-1)
        latent = ((1 - g_BTD) * v).double().square().sum(dim=-1)
        target = competitive_target(h_BTD, z_BTD)
        self.share += float((surface / (surface + latent)).sum())
        self.target += float(target.double().sum())
        self.targets += target.numel()
        self.positions += len(g_ND)
        self.sum_D = self.sum_D + g_ND.sum(dim=0).cpu()
        self.square_D = self.square_D + g_ND.square().sum(dim=0).cpu()
        self.counts += torch.histc(g_BTD.float(), HISTOGRAM_BINS, 0.0, 1.0).double().cpu()
        self.low += int((g_ND < SATURATED[0]).sum())
        self.high += int((g_ND > SATURATED[1]).sum())

    def summary(self) -> GateSummary:
        """``std_over_positions``: how much a dimension's gate varies over tokens, averaged over dimensions;
        ``std_over_dimensions``: spread of the per-dimension means."""
        mean_D = self.sum_D / self.positions
        variance_D = (self.square_D / self.positions - mean_D**2).clamp(min=0)
        values = self.positions * len(mean_D)
        edges = torch.linspace(0, 1, HISTOGRAM_BINS + 1).tolist()
        return GateSummary(
            mean=float(mean_D.mean()),
            std_over_positions=float(variance_D.sqrt().mean()),
            std_over_dimensions=float(mean_D.std(unbiased=False)),
            per_dimension=tuple(mean_D.tolist()),
            histogram=Histogram(tuple(edges), tuple(self.counts.tolist())),
            saturated_low=self.low / values,
            saturated_high=self.high / values,
            share=self.share / self.positions,
            target=self.target / self.targets if self.targets else None,
        )


class RegimeStatistics:
    """How many codes are in use: sampled with Gumbel noise as published, without noise, and for pure noise.

    With uniform logits every code appears among the argmaxes of Gumbel samples, so "all codes alive" says nothing unless it
    is compared with that (facts F7). Usage entropy is that of the shares of argmaxes, in nats; ln R at most.
    """

    def __init__(self, codes: int, seed: int) -> None:
        self.codes = codes
        self.counts = {name: torch.zeros(codes, dtype=torch.float64) for name in ("sampled", "noise", "eval")}
        self.generator = torch.Generator().manual_seed(stream_seed(seed, "evaluation/gumbel") % 2**63)

    def add(self, logits_BTR: torch.Tensor, p_BTR: torch.Tensor, tau: float) -> None:
        logits = logits_BTR.float().cpu()
        noise = [exponential_noise(logits.shape, logits.device, self.generator) for _ in range(2)]
        samples = {
            "sampled": gumbel_softmax(logits, tau, noise[0]),
            "noise": gumbel_softmax(torch.zeros_like(logits), tau, noise[1]),
            "eval": p_BTR.float().cpu(),
        }
        for name, p in samples.items():
            self.counts[name] += torch.bincount(p.argmax(dim=-1).flatten(), minlength=self.codes).double()

    def summary(self) -> RegimeSummary:
        alive = {name: int((counts > 0).sum()) for name, counts in self.counts.items()}
        usage = {name: float(entropy(counts / counts.sum())) for name, counts in self.counts.items()}
        return RegimeSummary(
            codes=self.codes,
            max_entropy=math.log(self.codes),
            alive_sampled=alive["sampled"],
            usage_entropy_sampled=usage["sampled"],
            alive_noise=alive["noise"],
            usage_entropy_noise=usage["noise"],
            alive_eval=alive["eval"],
            usage_entropy_eval=usage["eval"],
        )


@dataclass(frozen=True)
class StreamSummary:
    """What :func:`describe_streams` found; None for what a model lacks. The fields are those of the evaluation's record."""

    objectives: dict[str, float] | None
    cpc: ContrastiveSummary | None
    gate: GateSummary | None
    regime: RegimeSummary | None


@torch.no_grad()
def describe_streams(
    model: LanguageModel,
    heads: FutureHeads | None,
    objectives: ObjectiveConfig,
    held_out: EvaluationSet,
    batch_size: int,
    seed: int,
) -> StreamSummary:
    """Gate, regime, CPC and auxiliary-loss statistics of a model in evaluation mode; None for what a model lacks.

    Auxiliary losses are unweighted means over the set, with the noise-free regime probabilities. CPC is compared with its true
    chance level ln n, n being its candidates. Where negatives come from the other sequences of a batch, n grows with
    ``batch_size``, so it is not that of training, and the future loss is the mean over the batches of full size alone.
    """
    model.eval()
    if heads is not None:
        heads.to(model.embedding.weight.device)
    parts = model.components()
    fusion, codes = parts.get("fusion"), parts.get("regime")
    gate = GateStatistics() if "gate" in parts else None
    regime = RegimeStatistics(codes.size.codes, seed) if isinstance(codes, Regime) else None
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    full = min(batch_size, len(held_out))
    for x_BT, _ in held_out.batches(batch_size):
        streams = model.streams(x_BT.to(model.embedding.weight.device))
        if gate is not None and isinstance(fusion, Fusion) and streams.z is not None and streams.g is not None:
            gate.add(fusion, streams.h, streams.z, streams.g)
        if regime is not None and isinstance(codes, Regime) and streams.logits is not None and streams.p is not None:
            regime.add(streams.logits, streams.p, float(codes.tau))
        for name, term in auxiliary_losses(objectives, streams, heads).items():
            if name == "future" and heads is not None and heads.negatives != "sequence" and len(x_BT) < full:
                continue  # the smaller last batch has another chance level
            sums[name] = sums.get(name, 0.0) + float(term) * len(x_BT)
            counts[name] = counts.get(name, 0) + len(x_BT)
    terms = {name: value / counts[name] for name, value in sums.items()}
    cpc = None
    if heads is not None and heads.kind == "cpc" and "future" in terms:
        candidates = heads.candidates(held_out.seq_len, full)
        cpc = ContrastiveSummary(terms["future"], math.log(candidates), candidates)
    return StreamSummary(
        objectives=terms or None,
        cpc=cpc,
        gate=None if gate is None else gate.summary(),
        regime=None if regime is None else regime.summary(),
    )
