"""Interventions by layer and by type of layer: what mixers and MLPs write into the residual stream, replaced, on any model.

All that is asked of a model is that it is an ``nn.Module`` from tokens (B, T) to logits (B, T, V) with ``sites()``
(:class:`lolm.interventions.HasSites`), and, where parameters are to be told, ``site_params()``: a decoder, the stacks of LOLM,
the branches inside a Hymba layer, a model from outside. Everything after a replaced write is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from lolm.config import LayersConfig
from lolm.data.batches import IGNORED, EvaluationSet
from lolm.evaluation.held_out import ranked_first
from lolm.interventions import (
    EMPTY,
    Context,
    Statistics,
    inner_sites,
    inside,
    measure_writes,
    observe_writes,
    other_documents,
    replace_writes,
    seeded,
    type_of,
    writes,
)
from lolm.interventions.sites import TYPES
from lolm.models.decoder import Decoder
from lolm.models.language_model import Streams
from lolm.records import names
from lolm.records.schema import LayerRemovals, MatchedSet, Removal, TypeRecall, WriteSite, WrittenNorm

Pairs = Iterable[tuple[torch.Tensor, torch.Tensor]]  # inputs and targets, each (B, T)
SUBSETS = 4096  # sets of mixers among which those that are closest to a type are looked for


class Removed(NamedTuple):
    """Sites whose writes are replaced together, and by what."""

    sites: tuple[str, ...]
    by: str


INTACT = Removed((), names.NONE)


@dataclass(frozen=True)
class Scores:
    """Per target: nats, share right, and share whose first guess is not that of the intact model."""

    nats: float
    accuracy: float
    top1_change: float


# Any: an nn.Module that offers more than its class says, see the top of this file.
@torch.no_grad()
def score_removals(model: Any, removals: Sequence[Removed], pairs: Pairs, context: Context = EMPTY) -> list[Scores]:
    """Scores of a model under each removal, in their order, in evaluation mode. Nothing is clipped.

    Args:
        pairs: targets that are ``IGNORED`` don't count. A window's other document is the window half the set away.
        context: with statistics of the sites, see :func:`lolm.interventions.measure_writes`, for ``mean`` and ``gaussian``.

    Raises:
        InterventionError: the model has no such site, or ``context`` lacks what a removal needs.
    """
    model.eval()
    device = next(model.parameters()).device
    pairs = [(x_BT.to(device), y_BT.to(device)) for x_BT, y_BT in pairs]
    partners = other_documents([x_BT for x_BT, _ in pairs])
    elsewhere = sorted({site for removed in removals if removed.by == names.RESAMPLE for site in removed.sites})
    changes = [replace_writes(removed.sites, removed.by) if removed.sites else None for removed in removals]
    sums = torch.zeros(len(removals), 4, dtype=torch.float64)  # nats, right, changed, targets
    for number, ((x_BT, y_BT), partner_BT) in enumerate(zip(pairs, partners, strict=True)):
        asked_BT = y_BT != IGNORED
        target_N = y_BT[asked_BT]
        here = replace(context, batch=number)
        if partner_BT is not None:
            here = replace(here, other_writes=cache(partial(observe_writes, model, partner_BT, elsewhere)))
        run = _Resumed(model, x_BT)
        top_N = ranked_first(run.logits(INTACT)[asked_BT])
        for row, removed, change in zip(sums, removals, changes, strict=True):
            with inside(model, change, here) if change is not None else nullcontext():
                logits_NV = run.logits(removed)[asked_BT].float()
            first_N = ranked_first(logits_NV)
            nats = F.cross_entropy(logits_NV, target_N, reduction="none").double().sum()
            right, changed = (first_N == target_N).sum(), (first_N != top_N).sum()
            row += torch.tensor([float(nats), float(right), float(changed), len(target_N)], dtype=torch.float64)
    return [Scores(*(row[:3] / row[3]).tolist()) for row in sums]


class _Resumed:
    """Logits of one batch; of a plain decoder no layer before the first changed one is computed again."""

    def __init__(self, model: Any, tokens_BT: torch.Tensor) -> None:
        self.model, self.tokens_BT = model, tokens_BT
        self.inputs: list[torch.Tensor] = []  # of each block of a decoder, and last of its final norm
        if isinstance(model, Decoder):
            x_BTD = model._embed(tokens_BT)
            for block in model.stack.blocks:
                self.inputs.append(x_BTD)
                x_BTD, _ = block(x_BTD)
            self.inputs.append(x_BTD)

    def logits(self, removed: Removed) -> torch.Tensor:
        """(B, T, V), with the removal's changes in place."""
        if not self.inputs:
            return self.model(self.tokens_BT)
        first = min((int(site.split(".", 2)[1]) for site in removed.sites), default=len(self.inputs) - 1)
        x_BTD = self.inputs[first]
        for block in self.model.stack.blocks[first:]:
            x_BTD, _ = block(x_BTD)
        return self.model.logits(self.model.fuse(Streams(self.model.stack.final_norm(x_BTD))))


# ---------------------------------------------------------------------------------------------- what is measured of a model


def measure_layers(
    model: Any, held_out: EvaluationSet, others: EvaluationSet, config: LayersConfig, *, seed: int, step: int, last: bool = True
) -> LayerRemovals:
    """Removals by type at one set of weights; at the ``last`` each site, every labelling and the random sets as well.

    Args:
        others: text of another split, of which the statistics are that stand for what is removed.
        seed: of the random sets and of the noise.
        step: of the weights, for the rows.

    Raises:
        InterventionError: as of :func:`score_removals`.
    """
    device = next(model.parameters()).device
    model.eval()
    batches = [x_BT.to(device) for x_BT, _ in others.batches(config.batch_size)]
    statistics = measure_writes(model, batches)
    params = site_params(model)
    found = LayerRemovals(
        held_out.n_tokens,
        held_out.n_bytes,
        tuple(WriteSite(s.name, s.kind, type_of(s.kind), params.get(s.name)) for s in inner_sites(model)),
        tuple(WrittenNorm(step, site, norm) for site, norm in written_norms(model, batches, statistics).items()),
        (),
    )
    controls = matched_sets(found, config, seed) if last else ()
    removals = [INTACT, *type_removals(model)]
    if last:
        alone = [Removed((site.site,), by) for site in found.sites for by in names.REPLACEMENTS]
        sets = [*labellings(found, config.labellings), *(control.sites for control in controls)]
        removals += [*alone, *(Removed(sites, names.MEAN) for sites in sets)]
    distinct = list({(frozenset(removed.sites), removed.by): removed for removed in reversed(removals)}.values())[::-1]
    scores = score_removals(model, distinct, held_out.batches(config.batch_size), Context(statistics, seed=seed))
    per_byte = held_out.n_tokens / (held_out.n_bytes * math.log(2))
    rows = tuple(
        Removal(step, removed.sites, removed.by, score.nats, score.nats * per_byte, score.accuracy, score.top1_change)
        for removed, score in zip(distinct, scores, strict=True)
    )
    return replace(found, removals=rows, controls=controls)


def joined(checkpoints: Sequence[LayerRemovals]) -> LayerRemovals:
    """The checkpoints of one model in one; sites and controls are those of the last."""
    norms = tuple(row for one in checkpoints for row in one.norms)
    return replace(checkpoints[-1], norms=norms, removals=tuple(row for one in checkpoints for row in one.removals))


def recall_by_type(model: Any, pairs: Pairs, others: Iterable[torch.Tensor], seed: int) -> tuple[TypeRecall, ...]:
    """Accuracy and nats at the asked positions of a recall task without each type of layer.

    Args:
        pairs: of held-out sequences.
        others: tokens of other sequences of the task, of which the statistics are.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    context = Context(measure_writes(model, (x_BT.to(device) for x_BT in others)), seed=seed)
    removals = type_removals(model)
    scores = score_removals(model, removals, pairs, context)
    model.train(was_training)
    kinds = {writes_of: kind for kind, writes_of in sites_by_type(model).items()}
    return tuple(
        TypeRecall(kinds[removed.sites], removed.by, score.accuracy, score.nats)
        for removed, score in zip(removals, scores, strict=True)
    )


def sites_by_type(model: Any) -> dict[str, tuple[str, ...]]:
    """By type all of a model's sites of it, of the types it has; where all MLPs are experts, these are not named twice."""
    found = {kind: tuple(writes(model, kind)) for kind in TYPES}
    if found[names.EXPERT_MLP] == found[names.MLP]:
        del found[names.EXPERT_MLP]
    return {kind: sites for kind, sites in found.items() if sites}


def type_removals(model: Any) -> list[Removed]:
    """Each type of layer, replaced in every way."""
    return [Removed(sites, by) for sites in sites_by_type(model).values() for by in names.REPLACEMENTS]


def site_params(model: Any) -> Mapping[str, int]:
    """Parameters of what writes at each site, without its norm; none where a model of another make does not say."""
    if hasattr(model, "site_params"):
        return model.site_params()
    found = {}
    for name in model.sites():
        stack, layer, part = name.split(".", 2)
        try:
            block = model.get_submodule(f"{stack}.layers.{layer}")
        except AttributeError:
            continue
        writer: nn.Module = block
        for step in part.split("."):
            writer = getattr(writer, step, writer)  # a layer of the latent stream is itself the mixer
        found[name] = sum(parameter.numel() for parameter in writer.parameters())
    return found


@torch.no_grad()
def written_norms(model: Any, batches: Iterable[torch.Tensor], statistics: Statistics) -> dict[str, float]:
    """RMS length over tokens of what the mean in a write's place takes away from the residual stream, by site.

    At most sites that is the write's own deviation, √Σ_d Var(x_d). A branch of a mixer has a width of its own; there it is what
    its mean does to the mixer's write: copies of each batch run side by side, one for each branch, differ between the branch and
    the mixer's site, and are made equal again there.
    """
    sites = model.sites()
    branches: dict[str, list[str]] = {}
    for name in sites:
        if (above := name.rpartition(".")[0]) in sites:
            branches.setdefault(above, []).append(name)
    inner = {name for of_mixer in branches.values() for name in of_mixer}
    norms = {name: float(std.double().square().sum().sqrt()) for name, std in statistics.std.items() if name not in inner}
    if not branches:
        return {name: norms[name] for name in sites}
    copies = 1 + max(map(len, branches.values()))
    sums, tokens = dict.fromkeys(inner, 0.0), 0

    def at_branch(copy: int, name: str, x: torch.Tensor) -> torch.Tensor:
        split = x.clone().unflatten(0, (copies, -1))
        split[copy] = statistics.mean[name].to(x)
        return split.flatten(0, 1)

    def at_mixer(of_mixer: list[str], x: torch.Tensor) -> torch.Tensor:
        split = x.unflatten(0, (copies, -1))
        for copy, name in enumerate(of_mixer, 1):
            sums[name] += float((split[copy] - split[0]).double().square().sum())
        return split[:1].expand_as(split).flatten(0, 1)

    before = {name: sites[name].change for name in (*branches, *inner)}
    try:
        for above, of_mixer in branches.items():
            sites[above].change = partial(at_mixer, of_mixer)
            for copy, name in enumerate(of_mixer, 1):
                sites[name].change = partial(at_branch, copy, name)
        for x_BT in batches:
            tokens += x_BT.numel()
            getattr(model, "streams", model)(x_BT.repeat(copies, 1))
    finally:
        for name, change in before.items():
            sites[name].change = change
    norms |= {name: math.sqrt(total / tokens) for name, total in sums.items()}
    return {name: norms[name] for name in sites}


# ---------------------------------------------------------------------------------------------- controls


def labellings(found: LayerRemovals, most: int) -> list[tuple[str, ...]]:
    """The sets that either type could be, were the types of the mixers dealt out anew; none if there are more than ``most``."""
    mixers, counts = found.mixers, {len(found.of_type.get(kind, ())) for kind in names.MIXER_TYPES}
    if 0 in counts or math.comb(len(mixers), min(counts)) > most:
        return []
    return [chosen for count in counts for chosen in combinations(mixers, count)]


def matched_sets(found: LayerRemovals, config: LayersConfig, seed: int) -> tuple[MatchedSet, ...]:
    """``config.draws`` random sets of mixers beside each type: of as many, and those whose parameters and removed norm are the
    closest among all sets, or among SUBSETS of them where there are more; never the type itself."""
    mixers, sets = found.mixers, []
    if len({kind for kind in names.MIXER_TYPES if kind in found.of_type}) < 2:
        return ()
    for kind in names.MIXER_TYPES:
        own, generator = found.of_type[kind], seeded(seed, f"matched sets/{kind}")
        for match in (names.NUMBER, names.PARAMETERS, names.NORM):
            if match == names.PARAMETERS and found.parameters(mixers) is None:
                continue
            pool = _subsets(mixers, len(own) if match == names.NUMBER else None, generator)
            pool = [chosen for chosen in pool if set(chosen) != set(own)]
            if match != names.NUMBER:
                weigh = found.parameters if match == names.PARAMETERS else found.norm
                target: float = weigh(own)  # type: ignore[assignment]
                pool.sort(key=lambda chosen: abs(weigh(chosen) - target))  # type: ignore[operator]
            sets += [MatchedSet(kind, match, chosen) for chosen in pool[: config.draws]]
    return tuple(sets)


def _subsets(mixers: Sequence[str], count: int | None, generator: torch.Generator) -> list[tuple[str, ...]]:
    """Proper subsets in random order, of ``count`` mixers or of any number, all of them where they are no more than SUBSETS."""
    counts = range(1, len(mixers)) if count is None else (count,)
    if sum(math.comb(len(mixers), n) for n in counts) <= SUBSETS:
        pool = [chosen for n in counts for chosen in combinations(mixers, n)]
        return [pool[i] for i in torch.randperm(len(pool), generator=generator)]
    drawn: dict[tuple[str, ...], None] = {}
    for _ in range(SUBSETS):
        n = counts[int(torch.randint(len(counts), (), generator=generator))]
        drawn[tuple(mixers[i] for i in sorted(torch.randperm(len(mixers), generator=generator)[:n].tolist()))] = None
    return list(drawn)
