"""What could explain a claim away, by name: an entry of the registry lists the names of its controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from lolm.analysis import dependency as dep
from lolm.analysis.effects import arm_effect
from lolm.analysis.statistics import t_interval
from lolm.claims.entry import NotRun
from lolm.claims.ledger import Control, Quantity
from lolm.claims.measures.common import addend, again, another_baseline, difference, nats, quantity, removed, values
from lolm.claims.measures.gate import gate_paths, latent_share
from lolm.claims.measures.inversion import control_depth
from lolm.claims.measures.readouts import refitted_statistics
from lolm.claims.measures.streams import above_chance
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults

Controls = Callable[[ScaleResults], Sequence[Control]]

GATES = {
    names.GATE_MEAN_DIMENSION: (
        "frozen at its mean in each dimension",
        "Takes the context away and keeps the pattern over dimensions.",
    ),
    names.GATE_MEAN_GLOBAL: (
        "frozen at its overall mean",
        "Keeps the level alone: what is left of g = 0.5 once its level is right.",
    ),
    names.GATE_SHUFFLED_POSITIONS: ("shuffled over positions", "Keeps every value, and takes away only which token gets which."),
    names.GATE_PERMUTED_DIMENSIONS: ("permuted over dimensions", "Keeps level and spread, not which dimension has which."),
}


def gate_changes(*names: str) -> Controls:
    """Damage when only a part of what the gate says is taken away."""

    def make(results: ScaleResults) -> list[Control]:
        runs = results.subjects
        return [
            Control(f"gate {text}", quantity(removed(runs, name), results, "nats", f"damage with the gate {text}"), sentence)
            for name, (text, sentence) in GATES.items()
            if name in names
        ]

    return make


def refits(results: ScaleResults) -> list[Control]:
    """S after refits of the readout."""
    return refitted_statistics(results, results.subjects)


def fitted_temperature(value: float) -> Controls:
    """Damage at a constant gate with one temperature fitted to either loss."""

    def make(results: ScaleResults) -> list[Control]:
        runs = results.subjects

        def fitted(run: RunRecord, intervention: str, at: float | None) -> float | None:
            found = run.condition(intervention, at)
            return None if found is None else found.nats_fitted

        changed, intact = (
            values(runs, lambda r: fitted(r, names.GATE, value)),
            values(runs, lambda r: fitted(r, names.NONE, None)),
        )
        text = f"damage at g = {value:g} with one fitted temperature each"
        sentence = (
            "A loss of many nats can come from overconfident logits alone; with a fitted temperature it cannot exceed ln V."
        )
        return [Control("temperature fitted", difference(changed, intact, results, "nats", text), sentence)]

    return make


def arm(name: str, outcome: str, sentence: str) -> Controls:
    """The same outcome in another arm of the study, minus the subject's."""

    def make(results: ScaleResults) -> list[Control]:
        found = arm_effect(results, name, outcome) if results.subject else None
        unit = "gate" if outcome == "gate" else "nats"
        text = f"{'mean gate' if outcome == 'gate' else 'test loss'} of arm {name} minus the subject's"
        missing = f"arm {name} is not in study {results.study}"
        return [Control(f"arm {name}", Quantity.known(found, unit, text, missing), sentence)]

    return make


def deeper(results: ScaleResults) -> Sequence[Control]:
    """A Transformer of the depth that LOLM's two stacks have in series."""
    sentence = "LOLM is deeper than it says, L + K layers in series; a Transformer of that depth may have the same loss."
    return arm("transformer_deep", "nats", sentence)(results)


def learning_rates(results: ScaleResults) -> list[Control]:
    """Which peak learning rates the two arms were given."""
    arms = [name for name in (results.subject, results.baseline) if name and name in results.sweeps]
    definition = "peak learning rate of LOLM over the baseline's"
    if len(arms) < 2:
        found = Quantity.missing("x", definition, "no sweep of both arms is part of these runs")
    else:
        rates = [results.sweeps[name].chosen for name in arms]
        edge = [results.label(name) for name in arms if not results.sweeps[name].inside]
        note = f"At the edge of its grid: {', '.join(edge)}." if edge else "Both lie inside their grids."
        found = Quantity(rates[0] / rates[1], "x", f"{definition}, each by its own sweep", note=note)
    sentence = "A rate that suits one arm makes the other look slow; published with one rate for both."
    return [Control("learning rates", found, sentence)]


def conditioning(results: ScaleResults) -> Sequence[Control]:
    """What a norm before the head and smaller initial weights do to the baseline alone, where it is the published one's form."""
    if results.baseline not in ("transformer", "transformer_published"):
        return ()
    sentence = (
        "Only LOLM's branches were normalised, before a head with N(0, 1) rows; that alone could make a lead. Where the number "
        "is negative, the sound recipe is the worse one for the baseline. " + _recipes(results)
    )
    name, text = (
        "initialisation and norm of the baseline",
        "test loss of the Transformer as published minus that with norm and small init",
    )
    found = arm_effect(results, "transformer_published", "nats", "transformer")
    missing = "needs arm transformer_published beside transformer"
    return [Control(name, Quantity.known(found, "nats", text, missing), sentence)]


def _recipes(results: ScaleResults) -> str:
    """What stands before the head of either compared arm, and how it was initialised, by the recipes that they ran with."""
    inits = {"scaled": "small initial weights", "framework": "the framework's initial weights"}
    said = {}
    for name in (results.subject, results.baseline):
        if name is not None:
            recipe = results.of(name)[0].header.run.architecture.recipe
            norm = "no norm" if recipe.head_norm == names.NONE else "a norm"
            said[results.label(name)] = f"{norm} before the head and {inits[recipe.init]}"
    if len(said) == 2 and len(set(said.values())) == 1:
        return f"Here both arms have {next(iter(said.values()))}."
    return " ".join(f"Here “{label}” has {text}." for label, text in said.items())


def addends(results: ScaleResults) -> list[Control]:
    """What the latent addend of the fusion contributes, beside the gate's value."""
    runs = results.subjects
    sentence = "The gate multiplies branches whose length and direction are free; what an addend contributes is another number."

    return [
        Control(name, quantity(values(runs, lambda r, k=key: addend(r, names.LATENT, k)), results, unit, text), sentence)  # type: ignore[misc]
        for key, unit, name, text in (
            (
                "variance_share",
                "share",
                "latent addend's share of the variance of o",
                "latent addend's share of the variance of o",
            ),
            (
                "logit_centred",
                "logits",
                "latent addend's contribution to the true token's centred logit",
                "latent addend's contribution to the true token's centred logit",
            ),
            ("mean_norm", "length", "mean length", "mean length of the latent addend"),
        )
    ]


def minority(results: ScaleResults) -> list[Control]:
    """Whether the latent branch is the smaller one at all, which an inversion presupposes."""
    text = "latent branch's share of the power of the gated signal, test split"
    sentence = "An inversion says that the smaller branch is missed more; S grows with a branch's share whatever that is."
    return [Control("share of the latent branch", quantity(latent_share(results.subjects), results, "share", text), sentence)]


def permuted(stream: str) -> Controls:
    """Damage when a stream's positions are shuffled."""

    def make(results: ScaleResults) -> list[Control]:
        text = f"damage when the {stream}'s output is permuted over positions"
        found = quantity(removed(results.subjects, names.permuted(stream)), results, "nats", text)
        return [Control(f"{stream} permuted", found, "Keeps every value and takes away only which position gets which.")]

    return make


def trained_without(stream: str) -> Controls:
    """Loss of the arm that never had the stream."""
    sentence = (
        f"What the {stream} buys in training, at equal parameters; the damage says what a trained model has come to expect."
    )
    return arm(f"lolm_no_{stream}", "nats", sentence)


def random_halves(results: ScaleResults) -> list[Control]:
    """S among random halves of the fused dimensions."""
    sentence = "Any two halves of the fused dimensions differ in what they carry; so much comes from splitting at random."
    text, runs = "largest S in size among random halves, mean ablation", results.subjects
    nulls = [null for null in map(dep.null, runs) if null is not None]
    if not nulls or len(nulls) < len(runs):
        return [Control("random halves", Quantity.missing("nats", text, again(results)), sentence)]
    largest = t_interval([max(abs(d) for d in n.draws) for n in nulls], results.analysis.confidence)
    place = ", ".join(f"{n.rank:.2f}" for n in nulls)
    found = Quantity.of(
        largest,
        "nats",
        f"largest S in size among {len(nulls[0].draws)} random halves, mean ablation",
        f"Share of the draws, with both signs, below the observed S of mean ablation, by seed: {place}.",
    )
    return [Control("random halves", found, sentence)]


def serial(results: ScaleResults) -> list[Control]:
    """The baseline without as many last blocks as LOLM has latent layers."""
    depth, pairs = control_depth(results, results.subjects)
    other = another_baseline(results) is not None
    if depth is None or (other and not pairs):
        return []
    stack = results.label(results.params.selected.baseline) if other else "a Transformer"
    name = f"{stack} without its last {'block' if depth == 1 else f'{depth} blocks'}"
    sentence = (
        "z is computed from h, so without latent the last layers of a serial stack are skipped; any stack suffers from that."
    )
    if not pairs:
        missing = "no baseline with the same seeds had its last blocks skipped"
        return [Control(name, Quantity.missing("nats", "damage", missing), sentence)]
    found = [nats(base, names.SKIP_LAST_BLOCKS, depth) - nats(base, names.NONE) for _, base in pairs]
    return [Control(name, quantity(found, results, "nats", "damage, baseline, same test tokens"), sentence)]


def measured_on(
    name: str, measure: Callable[[Sequence[RunRecord]], list[float]], unit: str, text: str, sentence: str
) -> Controls:
    """What a claim measures on the subject, on another arm of the study."""

    def make(results: ScaleResults) -> list[Control]:
        found = None
        with suppress(NotRun):
            found = measure(results.of(name))
        missing = f"arm {name} is not in study {results.study}, or this was not measured there"
        return [Control(f"arm {name}", quantity(found, results, unit, f"{text} of arm {name}", missing), sentence)]

    return make


def dips(runs: Sequence[RunRecord]) -> list[float]:
    """How deep the mean gate goes below where it begins, for each seed."""
    curves, steps, lowest = gate_paths(runs)
    return [curve[steps[0]] - dip for curve, dip in zip(curves, lowest, strict=True)]


FREE = "Without the losses that give the gate a target; a level or path set by them goes."
CONTROLS: dict[str, Controls] = {
    "conditioning": conditioning,
    "depth": deeper,
    "learning_rates": learning_rates,
    "gate_all": gate_changes(*GATES),
    "gate_means": gate_changes(names.GATE_MEAN_DIMENSION, names.GATE_MEAN_GLOBAL),
    "gate_but_dimension_mean": gate_changes(
        names.GATE_MEAN_GLOBAL, names.GATE_SHUFFLED_POSITIONS, names.GATE_PERMUTED_DIMENSIONS
    ),
    "refits": refits,
    "temperature_half": fitted_temperature(0.5),
    "temperature_one": fitted_temperature(1.0),
    "addends": addends,
    "minority": minority,
    "random_halves": random_halves,
    "serial": serial,
    "free_gate": arm("lolm_free_gate", "gate", FREE),
    "free_path": measured_on("lolm_free_gate", dips, "gate", "depth of the dip", FREE),
    "memory_permuted": permuted("memory"),
    "memory_trained_without": trained_without("memory"),
    "regime_permuted": permuted("regime"),
    "regime_trained_without": trained_without("regime"),
    "other_negatives": measured_on(
        "lolm_cpc_positions",
        above_chance,
        "nats",
        "contrastive loss minus ln n of its candidates, test split,",
        "With negatives at the same position of other texts, position tells nothing; their number is another.",
    ),
}

# Controls on an arm that another study may have; whether they are against the subject, which must then be the same there.
ON_ARMS = {
    "conditioning": False,
    "depth": True,
    "free_gate": True,
    "free_path": False,
    "memory_trained_without": True,
    "regime_trained_without": True,
    "other_negatives": False,
}
