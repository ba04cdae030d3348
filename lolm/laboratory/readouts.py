"""Lost, or only a readout off its distribution? How much of an intervention's damage a refitted readout wins back (facts F4).

Readouts learn from training text; text of the validation split says at which step they stop, the start included, so that a refit
that only overfits changes nothing; text of the test split is scored once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from lolm.records.names import AFFINE, FINE_TUNE, HEAD_SCRATCH, NONE, READOUTS, TEMPERATURE
from lolm.records.schema import Readout
from lolm.training.optimizer import AdamW

Logits = Callable[[CachedActivations], torch.Tensor]  # cached → (N, V)


@dataclass(frozen=True)
class Effort:
    """How long and how fast readouts learn: AdamW without decay, the rate falls linearly to 0.

    Attributes:
        steps, learning_rate: of ``affine``, ``head`` and ``head_scratch``.
        fine_tune_steps, fine_tune_rate: of ``fine_tune``.
        checks: how often the loss on validation text is looked at, evenly over the steps, beside the start.
    """

    steps: int = 200
    learning_rate: float = 1e-2
    fine_tune_steps: int = 100
    fine_tune_rate: float = 1e-3
    checks: int = 10


def refit_readouts(
    model: LanguageModel,
    interventions: Iterable[Intervention],
    train: Iterable[tuple[torch.Tensor, torch.Tensor]],
    validation: EvaluationSet,
    held_out: EvaluationSet,
    batch_size: int,
    effort: Effort = Effort(),
    context: Context = EMPTY,
    readouts: Iterable[str] = READOUTS,
    *,
    step: int = 0,
) -> list[Readout]:
    """Refit readouts of a model under each intervention, and of the intact one beside it, and score both. The model stays as it
    was.

    What the readouts read is computed once and kept, so all text must fit into memory; a step takes one of the batches of
    ``train``, in a random order that starts anew when it is through.

    Args:
        train: inputs and targets, each (B, T), of the training split.
        validation, held_out: on which a refit stops, and which is scored at the end.
        readouts: ``temperature``, one number; ``affine``, gains and biases of the branch norms and the head's; ``head``, an
            output map that starts from the embedding; ``head_scratch``, one that starts from zero; ``fine_tune``, all weights,
            with the intervention in place at every step: not what the damaged streams hold, but what the path that is left
            can learn to do. What the intervention knows (statistics, other documents) stays that of the learned model.
        step: of the weights, for the rows.

    Returns:
        a row for each readout under each intervention, in this order.

    Raises:
        InterventionError: another readout, no training text, or ``affine`` for a model whose norms have none.
    """
    readouts = list(readouts)
    for readout in readouts:
        if readout not in READOUTS:
            raise InterventionError(f"no readout {readout!r}; the readouts are {', '.join(READOUTS)}")
    learned_from, stopped_by, scored = (
        list(cached_activations(model, batches, context))
        for batches in (train, validation.batches(batch_size), held_out.batches(batch_size))
    )
    if not learned_from:
        raise InterventionError("a readout is refitted on training text; give at least one batch")
    bench, learned = _Bench(model, learned_from, stopped_by, scored, effort, context.seed), Intervention(NONE)
    intact = {readout: bench.refit(learned, readout) for readout in readouts}
    full, rows = bench.loss(learned), []
    for intervention in interventions:
        damaged = bench.loss(intervention)
        for readout in readouts:
            same = intervention.label == learned.label
            found = intact[readout] if same else bench.refit(intervention, readout)
            left, damage = found.nats - intact[readout].nats, damaged - full
            rows.append(
                Readout(
                    step=step,
                    intervention=intervention.name,
                    value=intervention.value,
                    readout=readout,
                    full=full,
                    damaged=damaged,
                    refitted=found.nats,
                    recovered=1 - left / damage if damage else None,
                    temperature=found.temperature,
                    intact=intact[readout].nats,
                    kept=found.kept,
                )
            )
    return rows


@dataclass(frozen=True)
class _Refit:
    """Test loss after a refit, and where it stopped."""

    nats: float
    temperature: float | None = None
    kept: int | None = None


@dataclass(frozen=True)
class _Bench:
    """A model with the activations that readouts learn from, stop by and are scored on."""

    model: LanguageModel
    train: list[CachedActivations]
    validation: list[CachedActivations]
    test: list[CachedActivations]
    effort: Effort
    seed: int

    def loss(self, intervention: Intervention, temperature: float = 1.0, text: list[CachedActivations] | None = None) -> float:
        """Loss with the readout as it was learned, by default on the test text."""
        model, text = self.model, self.test if text is None else text
        return _nats(text, lambda cached: model.logits(cached.fused(model, intervention)) / temperature)

    def refit(self, intervention: Intervention, readout: str) -> _Refit:
        return self._temperature(intervention) if readout == TEMPERATURE else self._trained(intervention, readout)

    def _temperature(self, intervention: Intervention) -> _Refit:
        """At the temperature fitted on training text, or at 1 where that does better on validation text."""
        batches = [(_logits(self.model, intervention, cached), cached.targets_N) for cached in self.train]
        t = min((1.0, fit_temperature(lambda: batches)), key=lambda t: self.loss(intervention, t, self.validation))
        return _Refit(self.loss(intervention, t), temperature=t)

    def _trained(self, intervention: Intervention, readout: str) -> _Refit:
        """After the number of gradient steps on training text that is best on validation text."""
        effort, tuned = self.effort, readout == FINE_TUNE
        make = {AFFINE: _affine, FINE_TUNE: _fine_tune}.get(readout, _head)
        texts = (self.train, self.validation, self.test)
        parameters, train_logits, validation_logits, test_logits = make(self.model, intervention, texts, readout == HEAD_SCRATCH)
        steps = effort.fine_tune_steps if tuned else effort.steps
        rate = effort.fine_tune_rate if tuned else effort.learning_rate
        checked = {round(steps * check / effort.checks) for check in range(effort.checks + 1)}
        best, kept, state = math.inf, 0, [parameter.detach().clone() for parameter in parameters]
        for step in _steps(parameters, self.train, train_logits, steps, rate, self.seed):
            if step in checked and (nats := _nats(self.validation, validation_logits)) < best:
                best, kept, state = nats, step, [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter, value in zip(parameters, state, strict=True):
                parameter.copy_(value)
        return _Refit(_nats(self.test, test_logits), kept=kept)


def readouts_of(model: LanguageModel) -> tuple[str, ...]:
    """The readouts that a model has: ``affine`` if its branches or head have norms, which v0's do not, and all others."""
    return tuple(readout for readout in READOUTS if readout != AFFINE or _of_norms(model))


def _of_norms(model: LanguageModel) -> list[nn.Parameter]:
    """Gains and biases of the branches and the head."""
    fusion = fusion_of(model)
    norms = [model.head_norm, *([] if fusion is None else [fusion.surface_norm, fusion.latent_norm])]
    return [parameter for norm in norms for parameter in norm.parameters()]


def _affine(model: LanguageModel, intervention: Intervention, texts, scratch: bool):
    """A copy of the model of which the norms alone learn: streams are kept, the fusion is run with every step."""
    copy = deepcopy(model).requires_grad_(False)
    parameters = [parameter.requires_grad_() for parameter in _of_norms(copy)]
    if not parameters:
        raise InterventionError("readout 'affine': this model's branches and head have no norm; refit another readout")

    def logits(cached: CachedActivations) -> torch.Tensor:
        return copy.logits(cached.fused(copy, intervention))

    return parameters, logits, logits, logits


def _fine_tune(model: LanguageModel, intervention: Intervention, texts, scratch: bool):
    """A copy of the model of which everything learns: its streams are computed anew with every step."""
    copy = deepcopy(model).requires_grad_()

    def logits(cached: CachedActivations) -> torch.Tensor:
        streams = streams_under(copy, intervention, cached.tokens_BT, cached.context)
        return copy.logits(intervene(copy, intervention, streams, cached.context))

    return list(copy.parameters()), logits, logits, logits


def _head(model: LanguageModel, intervention: Intervention, texts, scratch: bool):
    """An output map of its own over what the head reads, which is kept."""
    embedding = model.embedding.weight.detach()
    head = nn.Parameter(torch.zeros_like(embedding) if scratch else embedding.clone())

    def reader(batches: Sequence[CachedActivations]) -> Logits:
        read = {id(cached): _read(model, intervention, cached) for cached in batches}
        return lambda cached: F.linear(read[id(cached)], head)

    return [head], *map(reader, texts)


def _steps(
    parameters: list[nn.Parameter], batches: list[CachedActivations], logits: Logits, steps: int, learning_rate: float, seed: int
) -> Iterator[int]:
    """Train; gives the number of steps taken, from 0 on."""
    optimizer = AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(steps, 1))
    order: list[int] = []
    generator = seeded(seed, "readout")
    for taken in range(steps):
        yield taken
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        cached = batches[order.pop()]
        with torch.enable_grad():
            loss = F.cross_entropy(logits(cached).float().flatten(0, 1), cached.targets_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    yield steps


@torch.no_grad()
def _logits(model: LanguageModel, intervention: Intervention, cached: CachedActivations) -> torch.Tensor:
    return model.logits(cached.fused(model, intervention)).float().flatten(0, 1)


@torch.no_grad()
def _read(model: LanguageModel, intervention: Intervention, cached: CachedActivations) -> torch.Tensor:
    return model.head_norm(cached.fused(model, intervention))


@torch.no_grad()
def _nats(batches: Iterable[CachedActivations], logits: Logits) -> float:
    total = ScoreSum()
    for cached in batches:
        total.add(F.log_softmax(logits(cached).float().flatten(0, 1), dim=-1), cached.targets_N)
    return total.nats / total.tokens
