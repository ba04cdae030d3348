"""The pre-registered claim of dependency inversion, with what could explain it away; and how dependency goes with training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lolm.analysis import dependency as dep
from lolm.analysis.statistics import Estimate, paired_difference, t_interval
from lolm.claims.inversion import PUBLISHED, control_depth, nats
from lolm.claims.ledger import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    Claim,
    Control,
    Quantity,
    above,
    runs_of,
    show,
    unmeasured,
    untestable,
    why_of,
)
from lolm.records.results import RunRecord, ScaleResults

VERDICT_OF = {dep.INVERTED: HOLDS, dep.NOT_INVERTED: FAILS, dep.UNDECIDED: INCONCLUSIVE}
GROWS = "The dependency on the latent stream grows with training."
TRACKS = "The dependency on a stream follows the mean gate: S falls where the gate rises."
CHANCE = "Control: the two branches differ by more than two random halves of their dimensions do, whichever is missed more."
READOUT = "The damage at g = 1 is information lost, not a readout off its distribution."
WORDS = "Function words go through the surface stream, content words through the latent stream."
DEFINITION = "loss without latent minus loss without surface"


def claims(results: ScaleResults) -> list[Claim]:
    """The declared statistic, the random halves, the readout, dependency over training and against the gate, token classes."""
    runs = results.of(results.subject) if results.subject else ()
    return [
        _declared(results, runs),
        _chance(results, runs),
        _readout(results, runs),
        _grows(results, runs),
        _tracks(results, runs),
        _words(results, runs),
    ]


def again(results: ScaleResults) -> str:
    """Which command makes what older ablation records lack."""
    return f"measured by `make repro SCALE={results.scale} STUDY={results.study}` with this code"


def statement(pair: dep.RemovalMethod) -> str:
    how = {
        "gate": "forcing the gate to 1 damages LOLM more than forcing it to 0",
        "zero": "zeroing the latent branch damages LOLM more than zeroing the surface branch",
        "mean": "replacing the latent branch by its mean damages LOLM more than replacing the surface branch by its own",
        "resample": "the latent branch of another text damages LOLM more than the surface branch of another text",
        "gaussian": "noise in the latent branch's place damages LOLM more than noise in the surface branch's",
    }[pair.way]
    return f"Dependency inversion, pre-registered: {how}."


def _declared(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    pair, confidence, margin = dep.primary(results), results.analysis.confidence, results.analysis.inversion_margin
    keys = ("ratio_inversion", *PUBLISHED)
    found = dep.over_seeds(runs, pair, confidence)
    if found is None:
        why = (
            f"The ablation records lack {' or '.join(pair.removal(b)[0] for b in ('latent', 'surface'))}; {again(results)}."
            if any(run.condition("gate", 1.0) for run in runs)
            else "these runs hold no LOLM with a surface and a latent branch"
        )
        return untestable("inversion_preregistered", "inversion", statement(pair), keys, why)
    called = dep.call(found, margin)
    why = f"S, {DEFINITION} ({pair.label}): {why_of(found, margin, 'nats')}, so by the declared rule: {called}."
    others = [(p, e) for p in dep.REMOVAL_METHODS if p != pair and (e := dep.over_seeds(runs, p, confidence)) is not None]
    calls = [dep.call(estimate, margin) for _, estimate in others]
    if others:
        counted = ", ".join(f"{calls.count(kind)} {kind}" for kind in (dep.INVERTED, dep.NOT_INVERTED, dep.UNDECIDED))
        why += f" Of {len(others)} other ways of removing the branches, not corrected for their number: {counted}."
    full = [nats(run, "none") for run in runs]
    each = {b: [dep.loss(run, pair, b) for run in runs] for b in ("latent", "surface")}
    details = {
        f"damage without {branch}": Quantity.of(
            paired_difference(values, full, confidence),  # type: ignore[arg-type]
            "nats",
            f"{pair.label} in the {branch} branch's place",
        )
        for branch, values in each.items()
    }
    return Claim(
        "inversion_preregistered",
        "inversion",
        statement(pair),
        keys,
        None,
        Quantity.of(found, "nats", f"{DEFINITION}, {pair.label}, final weights, test split"),
        VERDICT_OF[called],
        why,
        f"holds if the interval over seeds lies above {margin:g} nats, fails if none of it does "
        f"(analysis.inversion_statistic and "
        "inversion_margin, fixed before the runs)",
        runs_of(runs),
        details,
        (
            *_ways(others),
            *_null_control(results, runs),
            *_serial(results, tuple(runs), confidence),
            *readout_controls(results, runs),
        ),
        "inversion_statistic",
    )


def _ways(others: Sequence[tuple[dep.RemovalMethod, Estimate]]) -> list[Control]:
    sentences = {
        "gate": "The published way; the head has never seen a constant gate, and the two constants lie unequally far from it.",
        "zero": "Zero is a value the head has never seen in a branch's place.",
        "resample": "A branch of another text has the right distribution and the wrong information.",
        "gaussian": "Noise keeps each dimension's mean and variance, and no correlation between them.",
        "mean": "The mean keeps what is constant and removes what depends on the text.",
    }
    return [
        Control(
            f"S, {p.label}",
            Quantity.of(e, "nats", DEFINITION),
            sentences[p.way]
            + (" Keeping the length of o takes away what only its size does." if p.matched else "")
            + (" One fitted temperature takes away what only the logits' scale does." if p.fitted else ""),
        )
        for p, e in others
    ]


def _null_control(results: ScaleResults, runs: Sequence[RunRecord]) -> list[Control]:
    sentence = "Any two halves of the fused dimensions differ in what they carry; so much comes from splitting at random."
    nulls = [dep.null(run) for run in runs]
    if None in nulls:
        missing = unmeasured("nats", "largest S in size among random halves, mean ablation", again(results))
        return [Control("random halves", missing, sentence)]
    largest = t_interval([max(abs(d) for d in n.draws) for n in nulls], results.analysis.confidence)  # type: ignore[union-attr]
    place = ", ".join(f"{n.rank:.2f}" for n in nulls)  # type: ignore[union-attr]
    return [
        Control(
            "random halves",
            Quantity.of(
                largest,
                "nats",
                f"largest S in size among {len(nulls[0].draws)} random halves, mean ablation",  # type: ignore[union-attr]
                f"Share of the draws, with both signs, below the observed S of mean ablation, by seed: {place}.",
            ),
            sentence,
        )
    ]


def _serial(results: ScaleResults, runs: tuple[RunRecord, ...], confidence: float) -> list[Control]:
    depth, pairs = control_depth(results, runs)
    if depth is None:
        return []
    name = f"a Transformer without its last {'block' if depth == 1 else f'{depth} blocks'}"
    sentence = (
        "z is computed from h, so without latent the last layers of a serial stack are skipped; any stack suffers from that."
    )
    if not pairs:
        quantity = unmeasured("nats", "damage", "no baseline with the same seeds had its last blocks skipped")
    else:
        values = [nats(base, "skip_last_blocks", depth) - nats(base, "none") for _, base in pairs]
        quantity = Quantity.of(t_interval(values, confidence), "nats", "damage, baseline, same test tokens")
    return [Control(name, quantity, sentence)]


def readouts(runs: Sequence[RunRecord], intervention: str, value: float | None, readout: str) -> list[dict] | None:
    """One row of the readout refits from each run; None unless all have it."""
    names = {intervention, intervention if value is None else f"{intervention}={value:g}"}

    def of(run: RunRecord) -> dict | None:
        for row in run.laboratory("readouts"):
            if row["readout"] == readout and row["intervention"] in names and row.get("value") in (None, value):
                return row
        return None

    found = [of(run) for run in runs]
    return None if not found or None in found else found  # type: ignore[return-value]


READOUT_NAMES = {
    "temperature": "one temperature",
    "affine": "gains and biases of the norms",
    "head": "the head",
    "head_scratch": "a head from scratch",
    "fine_tune": "all weights, briefly",
}


def readout_controls(results: ScaleResults, runs: Sequence[RunRecord]) -> list[Control]:
    """S after each refit of mean ablation, where it was measured."""
    made = []
    for readout, name in READOUT_NAMES.items():
        latent, surface = (readouts(runs, f"{branch}_mean", None, readout) for branch in ("latent", "surface"))
        if latent is None or surface is None:
            continue
        s = paired_difference([r["refitted"] for r in latent], [r["refitted"] for r in surface], results.analysis.confidence)
        made.append(
            Control(
                f"S, branch's mean, refitted: {name}",
                Quantity.of(s, "nats", f"{DEFINITION}, each after refitting {name} on training text"),
                "Not what the branch holds, but what the path that is left can learn to do."
                if readout == "fine_tune"
                else "Damage that a refitted readout wins back was never information lost.",
            )
        )
    return made


def _chance(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    nulls = [dep.null(run) for run in runs]
    if not nulls or None in nulls:
        why = f"The ablation records hold no random halves (split_<draw>_first, split_<draw>_second); {again(results)}."
        return untestable("inversion_null", "inversion", CHANCE, (), why if runs else "these runs hold no LOLM")
    known = [n for n in nulls if n is not None]
    confidence = results.analysis.confidence
    excess = t_interval([abs(n.observed) - max(abs(d) for d in n.draws) for n in known], confidence)
    least = math.prod(1 / (1 + len(n.draws)) for n in known)
    verdict = INCONCLUSIVE
    if len(known) > 1 and all(n.beyond for n in known) and least < 1 - confidence:
        verdict = HOLDS
    elif above(excess, 0.0) == FAILS:
        verdict = FAILS
    parts = [
        f"seed {run.seed}: S {show(n.observed, 'nats')}, two-sided p {n.p_value:.2f}" for run, n in zip(runs, known, strict=True)
    ]
    draws = min(len(n.draws) for n in known)
    why = (
        f"|S| of mean ablation minus the largest of {draws} random halves in size: {why_of(excess, 0.0, 'nats')}. By seed, "
        f"{'; '.join(parts)}. With {draws} draws no seed's p is below {1 / (1 + draws):.2f}; by chance every one of "
        f"{len(known)} would exceed all its draws with probability {least:.2g}. A random half has about half of either, so "
        "branches that are unequal in any way exceed it; that says nothing of why."
    )
    return Claim(
        "inversion_null",
        "inversion",
        CHANCE,
        (),
        None,
        Quantity.of(excess, "nats", "|S| of mean ablation minus the largest |S| of the random halves of the same run"),
        verdict,
        why,
        "holds if in every seed, two or more, |S| exceeds that of all its draws, and by chance that is rarer than "
        f"{1 - confidence:.2g}; fails if none of the interval of the difference lies above 0",
        runs_of(runs),
        figure="inversion_statistic",
    )


def left_after(damaged: Sequence[dict], intact: Sequence[dict], confidence: float) -> Estimate:
    """Damage left after a refit: refitted with the intervention minus the intact model with the same refit, nats."""
    return paired_difference([r["refitted"] for r in damaged], [r["refitted"] for r in intact], confidence)


def _readout(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    rows = {name: (readouts(runs, "gate", 1.0, name), readouts(runs, "none", None, name)) for name in READOUT_NAMES}
    head, intact = rows["head"]
    id = "damage_is_information"
    if head is None or intact is None:
        why = "these runs hold no LOLM"
        if runs:
            why = f"No head was refitted both under g = 1 and in the intact model; {again(results)}."
        return untestable(id, "inversion", READOUT, (), why)
    confidence = results.analysis.confidence
    damage = t_interval([r["damaged"] - r["full"] for r in head], confidence)
    if damage.value <= 0 or (damage.interval is not None and damage.interval[0] <= 0):
        why = f"There is no damage to divide: at g = 1, {why_of(damage, 0.0, 'nats')}."
        return untestable(id, "inversion", READOUT, (), why)
    left = left_after(head, intact, confidence)
    half = paired_difference(left.per_seed, [0.5 * d for d in damage.per_seed], confidence)
    brings = t_interval([r["refitted"] - r["full"] for r in intact], confidence)
    controls = (
        Control(
            "refitting the head of the intact model",
            Quantity.of(brings, "nats", "loss after the same refit minus full loss, no branch removed"),
            "What the refit brings where nothing is to be won back; it is taken off.",
        ),
        *(
            Control(
                f"left after refitting {READOUT_NAMES[name]}",
                Quantity.of(
                    left_after(found, same, confidence), "nats", "loss at g = 1 minus that of the intact model, both refitted"
                ),
                "The more is refitted, the less of the damage can be the readout's.",
            )
            for name, (found, same) in rows.items()
            if found is not None and same is not None and name != "head"
        ),
    )
    why = (
        f"Refitting the head on training text leaves {show(left.value, 'nats')} of {show(damage.value, 'nats')}, against the "
        f"intact model with its head refitted alike. Left minus half of the damage: {why_of(half, 0.0, 'nats')}."
    )
    return Claim(
        id,
        "inversion",
        READOUT,
        (),
        None,
        Quantity.of(
            left, "nats", "loss at g = 1 minus that of the intact model, heads of both refitted on training text, test split"
        ),
        above(half, 0.0),
        why,
        "holds if more than half of the damage is left (interval of left minus half above 0), fails if none of the interval is; "
        "not testable where the damage is not above 0",
        runs_of(runs),
        {
            "damage at g = 1": Quantity.of(damage, "nats", "readout as learned, minus the intact model's loss"),
            "left minus half of the damage": Quantity.of(half, "nats", "paired by seed"),
        },
        controls,
        "readout_recovery",
    )


def _grows(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    pair, confidence = dep.primary(results), results.analysis.confidence
    steps = dep.checkpoints(runs, pair)
    if len(steps) < 2:
        why = f"S was measured at fewer than two checkpoints; {again(results)}." if runs else "these runs hold no LOLM"
        return untestable("dependency_grows", "inversion", GROWS, (), why)
    damage = {s: [dep.loss(r, pair, "latent", s) - nats(r, "none", None, s) for r in runs] for s in steps}  # type: ignore[operator]
    growth = paired_difference(damage[steps[-1]], damage[steps[0]], confidence)
    details = {
        f"damage without latent, step {s}": Quantity.of(t_interval(damage[s], confidence), "nats", pair.label) for s in steps
    }
    for s in steps:
        estimate = dep.over_seeds(runs, pair, confidence, s)
        assert estimate is not None
        details[f"S, step {s}"] = Quantity.of(estimate, "nats", DEFINITION)
    return Claim(
        "dependency_grows",
        "inversion",
        GROWS,
        (),
        None,
        Quantity.of(growth, "nats", f"damage without latent ({pair.label}) at step {steps[-1]} minus that at step {steps[0]}"),
        above(growth, 0.0),
        f"Damage at the last minus the first checkpoint: {why_of(growth, 0.0, 'nats')}. The better a model, the more there "
        f"is to lose: "
        "the damage of any part may grow.",
        "holds if the interval lies above 0, fails if none of it does",
        runs_of(runs),
        details,
        figure="trajectory",
    )


def _tracks(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    pair, confidence = dep.primary(results), results.analysis.confidence
    points = [p for p in dep.trajectory(runs, pair) if p.gate is not None]
    per_seed = []
    for run in runs:
        mine = [p for p in points if p.seed == run.seed]
        per_seed.append(dep.correlation([p.gate for p in mine], [p.statistic for p in mine]))  # type: ignore[misc]
    if not per_seed or None in per_seed:
        why = "these runs hold no LOLM"
        if runs:
            why = f"S and the mean gate were not both measured at three checkpoints; {again(results)}."
        return untestable("dependency_follows_gate", "inversion", TRACKS, (), why)
    r = t_interval(per_seed, confidence)  # type: ignore[arg-type]
    found = [dep.follows(run) for run in runs]
    details = {}
    if None not in found:
        gaps = t_interval([f.rms_gap for f in found], confidence)  # type: ignore[union-attr]
        details["gate minus its target, RMS over log windows"] = Quantity.of(gaps, "gate", "training batches")
        tracks = [f.correlation for f in found]  # type: ignore[union-attr]
        if None not in tracks:
            estimate = t_interval(tracks, confidence)  # type: ignore[arg-type]
            details["correlation of gate and target"] = Quantity.of(estimate, "r", "Pearson, over log windows")
    negative = r.map(lambda value: -value)
    return Claim(
        "dependency_follows_gate",
        "inversion",
        TRACKS,
        (),
        None,
        Quantity.of(r, "r", f"Pearson correlation of the mean gate and S over {len(points) // len(runs)} checkpoints of a run"),
        above(negative, 0.0),
        f"Correlation over checkpoints: {why_of(r, 0.0, 'r')}. Both move with training, so a correlation is no effect of "
        f"one on the "
        "other; arms with another gate level say more.",
        "holds if the interval of the correlation lies below 0, fails if none of it does; not transformed",
        runs_of(runs),
        details,
        figure="trajectory",
    )


def _words(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    stated = ("explorer",)
    tables = [{row["class"]: row for row in run.laboratory("token_classes")} for run in runs]
    function, content = (_class(tables, kind) for kind in ("function", "content"))
    if function is None or content is None:
        why = f"The gate was not measured by token class; {again(results)}." if runs else "these runs hold no LOLM"
        return untestable("function_words", "inversion", WORDS, (), why, stated=stated)
    confidence, margin = results.analysis.confidence, results.analysis.gate_margin
    gap = paired_difference([r["gate_mean"] for r in function], [r["gate_mean"] for r in content], confidence)
    details = {
        f"{kind} words, {what}": Quantity.of(t_interval([r[key] for r in rows], confidence), unit, text)
        for kind, rows in (("function", function), ("content", content))
        for what, key, unit, text in (
            ("gate", "gate_mean", "gate", "mean gate at input tokens of the class"),
            ("damage without latent", "damage_latent_mean", "nats", "branch's mean"),
            ("damage without surface", "damage_surface_mean", "nats", "branch's mean"),
        )
        if None not in [r[key] for r in rows]
    }
    sentence = "The gate is a coefficient; which stream a class depends on shows in what its removal costs there."
    damages = [
        [r["damage_latent_mean"] - r["damage_surface_mean"] for r in rows]
        for rows in (function, content)
        if None not in [r[key] for r in rows for key in ("damage_latent_mean", "damage_surface_mean")]
    ]
    controls: tuple[Control, ...] = ()
    if len(damages) == 2:
        s = paired_difference(damages[1], damages[0], confidence)
        controls = (Control("S at content minus S at function words", Quantity.of(s, "nats", "mean ablation"), sentence),)
    return Claim(
        "function_words",
        "inversion",
        WORDS,
        (),
        None,
        Quantity.of(gap, "gate", "mean gate at function words minus mean gate at content words, test split"),
        above(gap, margin),
        f"Gate at function minus content words: {why_of(gap, margin, 'gate')}. The values of the authors' page are "
        f"illustrations, "
        "not measurements.",
        f"holds if the interval lies above {margin:g}, fails if none of it does",
        runs_of(runs),
        details,
        controls,
        "token_classes",
        stated=stated,
    )


def _class(tables: Sequence[dict], kind: str) -> list[dict] | None:
    """The rows of a token class, whatever its exact name begins with; None unless every run has it, with a gate."""
    rows = [next((row for name, row in table.items() if name.startswith(kind)), None) for table in tables]
    if not rows or any(row is None or row["gate_mean"] is None for row in rows):
        return None
    return rows  # type: ignore[return-value]
