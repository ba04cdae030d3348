"""Dependency: what forcing the gate does, the declared statistic with its controls, and how both go with training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lolm.analysis import dependency as dep
from lolm.analysis.statistics import Estimate, paired_difference, t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import FAILS, HOLDS, INCONCLUSIVE, Control, Quantity
from lolm.claims.measures.common import again, nats, on_training_stream, removed, t_value
from lolm.claims.numbers import show
from lolm.claims.rules import Above, above, below, every, why_of
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults

VERDICT_OF = {
    dep.INVERTED: HOLDS, dep.MAJORITY: FAILS, dep.NO_INVERSION: FAILS, dep.NOT_INVERTED: FAILS, dep.UNDECIDED: INCONCLUSIVE,
}  # fmt: skip
DEFINITION = "loss without latent minus loss without surface"
SHARE = "|(1 − g) v|² / (|g u|² + |(1 − g) v|²), mean over test tokens"
METHODS = {  # how a sentence names the declared removal, and what each is worth as a control
    names.GATE: (
        "forcing the gate to 1 damages LOLM more than forcing it to 0",
        "The published way; the head has never seen a constant gate, and the two constants lie unequally far from it.",
    ),
    names.ZERO: (
        "zeroing the latent branch damages LOLM more than zeroing the surface branch",
        "Zero is a value the head has never seen in a branch's place.",
    ),
    names.MEAN: (
        "replacing the latent branch by its mean damages LOLM more than replacing the surface branch by its own",
        "The mean keeps what is constant and removes what depends on the text.",
    ),
    names.RESAMPLE: (
        "the latent branch of another text damages LOLM more than the surface branch of another text",
        "A branch of another text has the right distribution and the wrong information.",
    ),
    names.GAUSSIAN: (
        "noise in the latent branch's place damages LOLM more than noise in the surface branch's",
        "Noise keeps each dimension's mean and variance, and no correlation between them.",
    ),
}


def forced(context: Context) -> tuple[RunRecord, ...]:
    """Runs of the subject whose gate was forced to 1 and to 0.

    Raises:
        NotRun: there are none.
    """
    runs = tuple(
        r for r in context.subject() if r.condition(names.GATE, 1.0) and r.condition(names.GATE, 0.0) and r.condition(names.NONE)
    )
    if not runs:
        raise NotRun("these runs hold no LOLM whose gate was forced to 1 and to 0")
    return runs


def forced_gate(context: Context) -> Reading:
    """Loss at g = 1 minus loss at g = 0; as published the ratio of capped perplexities."""
    runs, confidence = forced(context), context.confidence
    ratio, note = on_training_stream(runs, context.results, lambda whole, one, zero: one / zero)
    references = [r.ablation.references for r in runs if r.ablation is not None]
    measured = {
        "loss, learned gate": [nats(r, names.NONE) for r in runs],
        "loss at g = 1": [nats(r, names.GATE, 1.0) for r in runs],
        "loss at g = 0": [nats(r, names.GATE, 0.0) for r in runs],
        "uniform": [reference.uniform for reference in references],
        "unigram": [reference.unigram for reference in references],
        "bigram": [reference.bigram for reference in references],
    }
    details = {
        name: Quantity.of(t_interval(values, confidence), "nats", "test split, uncapped") for name, values in measured.items()
    }
    gates, more = [r.gate_mean for r in runs if r.gate_mean is not None], ""
    if gates:
        nearer, further = ("1", "0") if sum(gates) / len(gates) > 0.5 else ("0", "1")
        more = (
            f"The learned gate averages {sum(gates) / len(gates):.2f}, nearer to {nearer}, so forcing it to {further} moves it "
            "further."
        )
    found = dep.over_seeds(runs, dep.RemovalMethod(names.GATE), context.analysis)
    return Reading(found, ratio, runs, more=more, published_note=note, details=details)


def over_training(context: Context) -> Reading:
    """The same at every checkpoint; the smallest is shown."""
    runs, method, margin = forced(context), dep.RemovalMethod(names.GATE), context.analysis.inversion_margin
    steps = dep.checkpoints(runs, method)
    if len(steps) < 2:
        raise NotRun("the gate was forced at one checkpoint only")
    found = {step: s for step in steps if (s := _at(runs, method, context, step, steps)) is not None}
    verdicts = [above(estimate, margin) for estimate in found.values()]
    listed = ", ".join(f"step {step}: {verdict}" for step, verdict in zip(steps, verdicts, strict=True))
    return Reading(
        sound=min(found.values(), key=lambda estimate: estimate.value),
        runs=runs,
        verdict=every(verdicts),
        why=f"The sign against {margin:g} nats by checkpoint: {listed}.",
        values={"count": len(steps)},
        details={f"step {step}": Quantity.of(e, "nats", "loss at g = 1 minus loss at g = 0") for step, e in found.items()},
    )


def control_depth(results: ScaleResults, runs: Sequence[RunRecord]) -> tuple[int | None, tuple[tuple[RunRecord, RunRecord], ...]]:
    """How many last blocks the control skips (as many as LOLM has latent layers), and the pairs in which that was measured."""
    latent = runs[0].header.run.size.latent if runs else None
    if latent is None:
        return None, ()
    pairs = results.pairs(results.subject, results.baseline)
    return latent.layers, tuple(p for p in pairs if p[0] in runs and p[1].condition(names.SKIP_LAST_BLOCKS, latent.layers))


def serial_control(context: Context) -> Reading:
    """Damage of g = 1 minus damage of skipping as many last blocks of the baseline as LOLM has latent layers."""
    runs, confidence, margin = forced(context), context.confidence, context.analysis.inversion_margin
    depth, pairs = control_depth(context.results, runs)
    if not pairs:
        raise NotRun("no baseline among these runs had its last blocks skipped")
    ours = [nats(subject, names.GATE, 1.0) - nats(subject, names.NONE) for subject, _ in pairs]
    control = [nats(base, names.SKIP_LAST_BLOCKS, depth) - nats(base, names.NONE) for _, base in pairs]
    excess = paired_difference(ours, control, confidence)
    serial, last = runs[0].header.run.architecture.latent.input == "surface", "block" if depth == 1 else f"{depth} blocks"
    why = (
        (f"z is computed from h, so g = 1 skips the last {last} of a serial stack. " if serial else "")
        + f"Skipping the plain Transformer's last {last} costs {show(t_value(control), 'nats')}, "
        f"g = 1 costs LOLM {show(t_value(ours), 'nats')}. Their difference: {why_of(excess, margin, 'nats')}."
    )
    halves = removed([subject for subject, _ in pairs], names.GATE, 0.5)
    details = {}
    if halves is not None:
        half = t_interval(halves, confidence)
        details["damage of g = 0.5"] = Quantity.of(half, "nats", "both branches kept, the gate's pattern removed")
        why += (
            " The head never saw a constant gate: g = 0.5, which removes no branch, already costs "
            f"{show(half.value, 'nats')}, damage that no missing branch explains."
        )
    details |= {
        "damage of g = 1": Quantity.of(t_interval(ours, confidence), "nats", "LOLM, test split"),
        f"damage of skipping the last {last}": Quantity.of(t_interval(control, confidence), "nats", "baseline, same tokens"),
    }
    both = [run for pair in pairs for run in pair]
    rule = Above("inversion_margin")
    verdict = rule.verdict(excess, context.analysis)
    return Reading(excess, runs=both, verdict=verdict, why=why, rule=rule, values={"last": last}, details=details)


def one_stream(gate: float):
    """Loss with the gate forced to 0 or 1, minus the unigram model's: the latent stream alone is claimed to work, the surface
    stream alone to collapse. To work takes more than a bigram model, the bar that every arm is held to."""

    def measure(context: Context) -> Reading:
        runs, confidence = forced(context), context.confidence
        losses = [nats(run, names.GATE, gate) for run in runs]
        references = [run.ablation.references for run in runs if run.ablation is not None]
        excess, over, bigram = (
            paired_difference(losses, [getattr(reference, name) for reference in references], confidence)
            for name in ("unigram", "uniform", "bigram")
        )
        state = (
            "non-functional: worse than a uniform guess"
            if above(over, 0.0) == HOLDS
            else "non-functional: worse than the unigram model"
            if above(excess, 0.0) == HOLDS
            else "functional: better than the unigram model"
            if below(excess, 0.0) == HOLDS
            else "not settled against the unigram model"
        )
        if below(excess, 0.0) == HOLDS and above(bigram, 0.0) == HOLDS:
            state += ", but worse than a bigram model"
        ours, note = on_training_stream(runs, context.results, lambda whole, one, zero: one if gate else zero)
        details = {
            "over uniform": Quantity.of(over, "nats", "loss minus ln V"),
            "over bigram": Quantity.of(bigram, "nats", "loss minus the interpolated bigram model's"),
        }
        why = f"Loss minus that of the unigram model: {why_of(excess, 0.0, 'nats')}. This model is {state}."
        verdict = above(excess, 0.0) if gate else every((below(excess, 0.0), below(bigram, 0.0)))
        return Reading(excess, ours, runs, verdict=verdict, why=why, published_note=note, details=details)

    return measure


# ---------------------------------------------------------------------------------------------- the declared statistic


def declared(context: Context) -> Reading:
    """S by the removal that ``analysis.inversion_statistic`` declares beside the branch's share, the other ways as controls."""
    results, confidence, margin = context.results, context.confidence, context.analysis.inversion_margin
    runs, method = context.subject(), dep.primary(context.results)
    found = dep.over_seeds(runs, method, context.analysis)
    if found is None:
        lack = " or ".join(method.removal(branch)[0] for branch in (names.LATENT, names.SURFACE))
        forced_once = any(run.condition(names.GATE, 1.0) for run in runs)
        raise NotRun(
            f"the ablation records lack {lack}; {again(results)}"
            if forced_once
            else "these runs hold no LOLM with a surface and a latent branch"
        )
    share = dep.share_over_seeds(runs, confidence)
    called = dep.call(found, share, margin, context.analysis.inversion_band)
    why = f"S, {DEFINITION} ({method.label}): {why_of(found, margin, 'nats')}; the latent branch's share of the gated signal: "
    why += "not measured" if share is None else why_of(share, dep.HALF, "share")
    why += f"; so by the declared rule: {called}."
    if called == dep.NO_INVERSION and found.interval is not None and found.interval[1] > margin:
        band = context.analysis.inversion_band
        why += f" The band counts an S of up to {band:g} nats as none; one above {margin:g} is not ruled out."
    together = dep.calls(results)
    mine = next((one for one in together if one.arm == results.subject), None)
    if mine is not None and len(together) > 1:
        why += f" Corrected together with the calls of {len(together) - 1} other arms (Holm): {mine.corrected}."
    others = [(m, e) for m in dep.ways(runs[0]) if m != method and (e := dep.over_seeds(runs, m, context.analysis)) is not None]
    full = [nats(run, names.NONE) for run in runs]
    details = {} if share is None else {"share of the latent branch": Quantity.of(share, "share", SHARE)}
    contrasts = [c for c in dep.way_contrasts(runs, confidence) if method in (c.first, c.second)]
    for contrast in contrasts:
        name = f"S, {contrast.first.way} minus {contrast.second.way}"
        p = None if contrast.adjusted is None else f"Holm's p over all pairs of ways {contrast.adjusted:.2g}"
        details[name] = Quantity.of(contrast.difference, "nats", "the two ways of removal, paired by seed", p)
    for branch in (names.LATENT, names.SURFACE):
        losses = [loss for run in runs if (loss := dep.loss(run, method, branch)) is not None]
        damage = paired_difference(losses, full, confidence)
        details[f"damage without {branch}"] = Quantity.of(damage, "nats", f"{method.label} in the {branch} branch's place")
    return Reading(
        found,
        runs=runs,
        verdict=VERDICT_OF[called],
        why=why,
        values={"label": method.label, "how": METHODS[method.way][0]},
        details=details,
        controls=tuple(_way(m, e) for m, e in others),
    )


def _way(method: dep.RemovalMethod, estimate: Estimate) -> Control:
    sentence = METHODS[method.way][1]
    sentence += " Keeping the length of o takes away what only its size does." if method.matched else ""
    sentence += " One fitted temperature takes away what only the logits' scale does." if method.fitted else ""
    return Control(f"S, {method.label}", Quantity.of(estimate, "nats", DEFINITION), sentence)


def random_halves(context: Context) -> Reading:
    """|S| of mean ablation minus the largest |S| of random halves of the dimensions, in each run."""
    runs, confidence = context.subject(), context.confidence
    nulls = [null for null in map(dep.null, runs) if null is not None]
    if len(nulls) < len(runs):
        raise NotRun(f"the ablation records hold no random halves; {again(context.results)}")
    excess = t_interval([abs(n.observed) - max(abs(d) for d in n.draws) for n in nulls], confidence)
    least = math.prod(1 / (1 + len(n.draws)) for n in nulls)
    verdict = INCONCLUSIVE
    if len(nulls) > 1 and all(n.beyond for n in nulls) and least < 1 - confidence:
        verdict = HOLDS
    elif above(excess, 0.0) == FAILS:
        verdict = FAILS
    parts = [
        f"seed {run.seed}: S {show(n.observed, 'nats')}, two-sided p {n.p_value:.2f}" for run, n in zip(runs, nulls, strict=True)
    ]
    draws = min(len(n.draws) for n in nulls)
    why = (
        f"|S| of mean ablation minus the largest of {draws} random halves in size: {why_of(excess, 0.0, 'nats')}. By seed, "
        f"{'; '.join(parts)}. With {draws} draws no seed's p is below {1 / (1 + draws):.2f}; by chance every one of "
        f"{len(nulls)} would exceed all its draws with probability {least:.2g}."
    )
    return Reading(excess, runs=runs, verdict=verdict, why=why, values={"level": f"{1 - confidence:.2g}"})


# ---------------------------------------------------------------------------------------------- over training, by token


def _at(
    runs: Sequence[RunRecord], method: dep.RemovalMethod, context: Context, step: int, steps: Sequence[int]
) -> Estimate | None:
    """S at one checkpoint; at the last its interval covers text, as wherever that number stands."""
    return dep.over_seeds(runs, method, context.analysis, None if step == steps[-1] else step)


def growth(context: Context) -> Reading:
    """Damage without latent at the last checkpoint minus that at the first."""
    runs, confidence, method = context.subject(), context.confidence, dep.primary(context.results)
    steps = dep.checkpoints(runs, method)
    if len(steps) < 2:
        raise NotRun(f"S was measured at fewer than two checkpoints; {again(context.results)}")
    damage = {
        s: [loss - nats(r, names.NONE, None, s) for r in runs if (loss := dep.loss(r, method, names.LATENT, s)) is not None]
        for s in steps
    }
    details = {
        f"damage without latent, step {s}": Quantity.of(t_interval(damage[s], confidence), "nats", method.label) for s in steps
    }
    for s in steps:
        estimate = _at(runs, method, context, s, steps)
        if estimate is not None:
            details[f"S, step {s}"] = Quantity.of(estimate, "nats", DEFINITION)
    found = paired_difference(damage[steps[-1]], damage[steps[0]], confidence)
    values = {"label": method.label, "first": steps[0], "last": steps[-1]}
    return Reading(found, runs=runs, values=values, details=details)


def by_token_class(context: Context) -> Reading:
    """Mean gate at function words minus mean gate at content words."""
    runs, confidence = context.subject(), context.confidence
    kinds = {"function": names.FUNCTION_WORD, "content": names.CONTENT_WORD}
    classes = {
        kind: [None if run.ablation is None else run.ablation.token_class(name) for run in runs] for kind, name in kinds.items()
    }
    if any(row is None or row.gate_mean is None for rows in classes.values() for row in rows):
        raise NotRun(f"the gate was not measured by token class; {again(context.results)}")
    rows = {kind: [row for row in found if row is not None] for kind, found in classes.items()}

    def column(kind: str, key: str) -> list[float] | None:
        values = [getattr(row, key) for row in rows[kind]]
        return None if None in values else values

    details = {}
    for kind in rows:
        for what, key, unit, text in (
            ("gate", "gate_mean", "gate", "mean gate at input tokens of the class"),
            ("damage without latent", "damage_latent_mean", "nats", "branch's mean"),
            ("damage without surface", "damage_surface_mean", "nats", "branch's mean"),
        ):
            values = column(kind, key)
            if values is not None:
                details[f"{kind} words, {what}"] = Quantity.of(t_interval(values, confidence), unit, text)
    found = paired_difference(column("function", "gate_mean") or (), column("content", "gate_mean") or (), confidence)
    controls: tuple[Control, ...] = ()
    damages = [(column(kind, "damage_latent_mean"), column(kind, "damage_surface_mean")) for kind in ("content", "function")]
    if all(a is not None and b is not None for a, b in damages):
        content, function = ([x - y for x, y in zip(a or (), b or (), strict=True)] for a, b in damages)
        s = Quantity.of(paired_difference(content, function, confidence), "nats", "mean ablation")
        sentence = "The gate is a coefficient; which stream a class depends on shows in what its removal costs there."
        controls = (Control("S at content minus S at function words", s, sentence),)
    return Reading(found, runs=runs, details=details, controls=controls)
