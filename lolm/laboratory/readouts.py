"""Lost, or only a readout off its distribution? How much of an intervention's damage a refitted readout wins back (spec F4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from lolm.data.batches import EvaluationSet
from lolm.evaluation.held_out import ScoreSum
from lolm.interventions import EMPTY, Context, Intervention, InterventionError, fusion_of, intervene, seeded, streams_under
from lolm.laboratory.cached_activations import CachedActivations, cached_activations
from lolm.laboratory.temperature import fit_temperature
from lolm.models.language_model import LanguageModel
from lolm.records.names import AFFINE, FINE_TUNE, HEAD_SCRATCH, READOUTS, TEMPERATURE
from lolm.records.schema import Readout
from lolm.training.optimizer import AdamW

Logits = Callable[[CachedActivations], torch.Tensor]  # cached → (N, V)


@dataclass(frozen=True)
class Effort:
    """How long and how fast readouts learn: AdamW without decay, the rate falls linearly to 0.

    Attributes:
        steps, learning_rate: of ``affine``, ``head`` and ``head_scratch``.
        fine_tune_steps, fine_tune_rate: of ``fine_tune``.
    """

    steps: int = 200
    learning_rate: float = 1e-2
    fine_tune_steps: int = 100
    fine_tune_rate: float = 1e-3


def refit_readout(
    model: LanguageModel,
    intervention: Intervention,
    readout: str,
    train: Iterable[tuple[torch.Tensor, torch.Tensor]],
    held_out: EvaluationSet,
    batch_size: int,
    effort: Effort = Effort(),
    context: Context = EMPTY,
    *,
    step: int = 0,
) -> Readout:
    """Refit one readout of a damaged model on training text, and score it on held-out text. The model stays as it was.

    What the readout reads is computed once and kept, so ``train`` and ``held_out`` must fit into memory; a step takes one of the
    batches of ``train``, in a random order that starts anew when it is through. To tell what refitting alone brings, refit the
    learned model too (``Intervention(names.NONE)``).

    Args:
        readout: ``temperature``, one number; ``affine``, gains and biases of the branch norms and the head's; ``head``, an
            output map that starts from the embedding; ``head_scratch``, one that starts from zero; ``fine_tune``, all weights,
            with the intervention in place at every step: not what the damaged streams hold, but what the path that is left
            can learn to do. What the intervention knows (statistics, other documents) stays that of the learned model.
        train: inputs and targets, each (B, T), of the training split.
        step: of the weights, for the row.

    Raises:
        InterventionError: another readout, no training text, or ``affine`` for a model whose norms have none.
    """
    bench = _Bench.of(model, train, held_out, batch_size, context, step)
    return bench.refit(intervention, readout, effort, bench.damaged(intervention))


def refit_readouts(
    model: LanguageModel,
    interventions: Iterable[Intervention],
    train: Iterable[tuple[torch.Tensor, torch.Tensor]],
    held_out: EvaluationSet,
    batch_size: int,
    effort: Effort = Effort(),
    context: Context = EMPTY,
    readouts: Iterable[str] = READOUTS,
    *,
    step: int = 0,
) -> list[Readout]:
    """:func:`refit_readout` of every readout under every intervention, the streams computed once for all of them."""
    bench, rows, readouts = _Bench.of(model, train, held_out, batch_size, context, step), [], list(readouts)
    for intervention in interventions:
        damaged = bench.damaged(intervention)
        rows += [bench.refit(intervention, readout, effort, damaged) for readout in readouts]
    return rows


@dataclass(frozen=True)
class _Bench:
    """A model with the activations that readouts learn from, the held-out ones, and the learned model's loss on these."""

    model: LanguageModel
    train: list[CachedActivations]
    test: list[CachedActivations]
    full: float
    seed: int
    step: int

    @classmethod
    def of(cls, model: LanguageModel, train, held_out: EvaluationSet, batch_size: int, context: Context, step: int) -> _Bench:
        learned_from = list(cached_activations(model, train, context))
        if not learned_from:
            raise InterventionError("a readout is refitted on training text; give at least one batch")
        test = list(cached_activations(model, held_out.batches(batch_size), context))
        full = _nats(test, lambda cached: model.logits(_full(cached)))
        return cls(model, learned_from, test, full, context.seed, step)

    def damaged(self, intervention: Intervention) -> float:
        return _nats(self.test, lambda cached: self.model.logits(cached.fused(self.model, intervention)))

    def refit(self, intervention: Intervention, readout: str, effort: Effort, damaged: float) -> Readout:
        if readout not in READOUTS:
            raise InterventionError(f"no readout {readout!r}; the readouts are {', '.join(READOUTS)}")
        refitted, temperature = (
            self._temperature(intervention) if readout == TEMPERATURE else (self._trained(intervention, readout, effort), None)
        )
        damage = damaged - self.full
        return Readout(
            step=self.step,
            intervention=intervention.name,
            value=intervention.value,
            readout=readout,
            full=self.full,
            damaged=damaged,
            refitted=refitted,
            recovered=(damaged - refitted) / damage if damage else None,
            temperature=temperature,
        )

    def _temperature(self, intervention: Intervention) -> tuple[float, float]:
        """Held-out loss at the temperature fitted on training text, and that temperature."""
        model = self.model
        batches = [(_logits(model, intervention, cached), cached.targets_N) for cached in self.train]
        t = fit_temperature(lambda: batches)
        return _nats(self.test, lambda cached: model.logits(cached.fused(model, intervention)) / t), t

    def _trained(self, intervention: Intervention, readout: str, effort: Effort) -> float:
        """Held-out loss after gradient steps on training text."""
        make = {AFFINE: _affine, FINE_TUNE: _fine_tune}.get(readout, _head)
        parameters, train_logits, test_logits = make(self.model, intervention, self.train, self.test, readout == HEAD_SCRATCH)
        tuned = readout == FINE_TUNE
        steps = effort.fine_tune_steps if tuned else effort.steps
        rate = effort.fine_tune_rate if tuned else effort.learning_rate
        _train(parameters, self.train, train_logits, steps, rate, self.seed)
        return _nats(self.test, test_logits)


def _affine(model: LanguageModel, intervention: Intervention, train, test, scratch: bool):
    """A copy of the model of which the norms alone learn: streams are kept, the fusion is run with every step."""
    copy = deepcopy(model).requires_grad_(False)
    fusion = fusion_of(copy)
    norms = [copy.head_norm, *([] if fusion is None else [fusion.surface_norm, fusion.latent_norm])]
    parameters = [parameter.requires_grad_() for norm in norms for parameter in norm.parameters()]
    if not parameters:
        raise InterventionError("readout 'affine': this model's branches and head have no norm; refit another readout")

    def logits(cached: CachedActivations) -> torch.Tensor:
        return copy.logits(cached.fused(copy, intervention))

    return parameters, logits, logits


def _fine_tune(model: LanguageModel, intervention: Intervention, train, test, scratch: bool):
    """A copy of the model of which everything learns: its streams are computed anew with every step."""
    copy = deepcopy(model).requires_grad_()

    def logits(cached: CachedActivations) -> torch.Tensor:
        streams = streams_under(copy, intervention, cached.tokens_BT, cached.context)
        return copy.logits(intervene(copy, intervention, streams, cached.context))

    return list(copy.parameters()), logits, logits


def _head(model: LanguageModel, intervention: Intervention, train, test, scratch: bool):
    """An output map of its own over what the head reads, which is kept."""
    embedding = model.embedding.weight.detach()
    head = nn.Parameter(torch.zeros_like(embedding) if scratch else embedding.clone())

    def reader(batches: Sequence[CachedActivations]) -> Logits:
        read = {id(cached): _read(model, intervention, cached) for cached in batches}
        return lambda cached: F.linear(read[id(cached)], head)

    return [head], reader(train), reader(test)


def _train(
    parameters: list[nn.Parameter], batches: list[CachedActivations], logits: Logits, steps: int, learning_rate: float, seed: int
) -> None:
    optimizer = AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(steps, 1))
    order: list[int] = []
    generator = seeded(seed, "readout")
    for _ in range(steps):
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        cached = batches[order.pop()]
        with torch.enable_grad():
            loss = F.cross_entropy(logits(cached).float().flatten(0, 1), cached.targets_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _logits(model: LanguageModel, intervention: Intervention, cached: CachedActivations) -> torch.Tensor:
    return model.logits(cached.fused(model, intervention)).float().flatten(0, 1)


@torch.no_grad()
def _read(model: LanguageModel, intervention: Intervention, cached: CachedActivations) -> torch.Tensor:
    return model.head_norm(cached.fused(model, intervention))


def _full(cached: CachedActivations) -> torch.Tensor:
    assert cached.context.full is not None
    return cached.context.full


@torch.no_grad()
def _nats(batches: Iterable[CachedActivations], logits: Logits) -> float:
    total = ScoreSum()
    for cached in batches:
        total.add(F.log_softmax(logits(cached).float().flatten(0, 1), dim=-1), cached.targets_N)
    return total.nats / total.tokens
