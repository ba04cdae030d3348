"""What is done to a trained model beside its two branches: constant gates, gate controls, streams removed."""

from __future__ import annotations

import math

from lolm.analysis.statistics import Estimate, paired_difference, t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import Quantity
from lolm.claims.measures.common import again, nats, on_training_stream, removed
from lolm.claims.numbers import show
from lolm.claims.published import NUMBERS
from lolm.records import names

ALL_REMOVED = names.joined(names.GATE, names.replaced(names.MEMORY, names.ZERO), names.replaced(names.REGIME, names.ZERO))


def constant_gate(value: float, capped: bool = False):
    """Damage at a constant gate; as published the change of perplexity, or the ratio of capped ones."""

    def measure(context: Context) -> Reading:
        runs, confidence = context.subject(), context.confidence
        found = removed(runs, names.GATE, value)
        if found is None:
            raise NotRun(f"these runs hold no LOLM whose gate was forced to {value:g}")
        damage = t_interval(found, confidence)
        ours: Estimate | None = damage.map(math.expm1)
        note = None
        if capped:
            ours, note = on_training_stream(runs, context.results, lambda whole, one, zero: (one if value else zero) / whole)
        return Reading(damage, ours, runs, values={"gate": value}, published_note=note)

    return measure


def everything_removed(context: Context) -> Reading:
    """Damage with the gate forced to 1, memory and regime zeroed."""
    runs, confidence = context.subject(), context.confidence
    found = removed(runs, ALL_REMOVED, 1.0)
    if found is None:
        raise NotRun(f"the three removals together ({ALL_REMOVED}) were not measured; {again(context.results)}")
    damage = t_interval(found, confidence)
    return Reading(damage, damage.map(math.expm1), runs)


def half_against_one(context: Context) -> Reading:
    """Loss at g = 0.5 minus loss at g = 1."""
    runs = context.subject()
    half, one = removed(runs, names.GATE, 0.5), removed(runs, names.GATE, 1.0)
    if half is None or one is None:
        raise NotRun("these runs hold no LOLM whose gate was forced to 0.5 and to 1")
    excess = paired_difference(half, one, context.confidence)
    return Reading(excess, excess.map(math.exp), runs)


def frozen_gate(context: Context) -> Reading:
    """Damage with the gate frozen at its mean over tokens in each dimension."""
    runs = context.subject()
    frozen = removed(runs, names.GATE_MEAN_DIMENSION)
    if frozen is None:
        raise NotRun(f"the gate was not frozen at its mean; {again(context.results)}")
    return Reading(t_interval(frozen, context.confidence), runs=runs)


def without_last_blocks(context: Context) -> Reading:
    """Loss of the baseline without as many last blocks as LOLM has latent layers, minus a bigram model's."""
    pairs, losses, bigrams = context.pairs(), [], []
    for subject, base in pairs:
        latent = subject.header.run.size.latent
        depth = latent.layers if latent else 1
        losses.append(nats(base, names.SKIP_LAST_BLOCKS, float(depth)))
        bigrams.append(base.ablation.references.bigram)  # type: ignore[union-attr]
    damage = removed([base for _, base in pairs], names.SKIP_LAST_BLOCKS, float(depth))
    details = {"damage": Quantity.of(t_interval(damage or (), context.confidence), "nats", "loss minus that of the whole model")}
    runs = [run for pair in pairs for run in pair]
    return Reading(paired_difference(losses, bigrams, context.confidence), runs=runs, values={"depth": depth}, details=details)


def stream(name: str, published: str):
    """Damage when the memory's or the regime's output is replaced by its mean; as published when it is zeroed."""

    def measure(context: Context) -> Reading:
        runs, confidence = context.subject(), context.confidence
        zero, mean = (removed(runs, names.replaced(name, by)) for by in (names.ZERO, names.MEAN))
        if zero is None or mean is None:
            raise NotRun(f"these runs hold no LOLM whose {name} was removed")
        zeroed = t_interval(zero, confidence)
        change = zeroed.map(math.expm1)
        more = (
            f"Zeroing costs {show(zeroed.value, 'nats')} ({show(change.value, 'share')} of perplexity; published "
            f"{show(NUMBERS[published].value, 'share')}); zeroing also removes a constant that the head has learned to expect."
        )
        details = {"damage by zeroing": Quantity.of(zeroed, "nats", "test split, final weights")}
        return Reading(t_interval(mean, confidence), change, runs, more=more, details=details)

    return measure
