"""How low the loss of LOLM is beside its baseline's: gaps at matched cost, leads at one point of training, what a step costs."""

from __future__ import annotations

import math
from dataclasses import replace

from lolm.analysis import efficiency as eff
from lolm.analysis.statistics import Estimate, equivalence, geometric_interval, paired_difference, t_interval
from lolm.claims.cost import Counting
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import COUNTED, FAILS, HOLDS, INCONCLUSIVE, UNTESTABLE, Quantity
from lolm.claims.measures.common import against_decoder
from lolm.claims.measures.efficiency import AXIS_NAMES, Pairs, parameters
from lolm.claims.numbers import show
from lolm.claims.published import NUMBERS, clipped_perplexity
from lolm.claims.rules import above, below, every, why_of
from lolm.config import ConfigError, RunConfig
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults

EARLY = 0.06  # share of the run at which the published early gap was read: step 3,000 of 50,000
LATE = NUMBERS["lolm_steps_late"].value / NUMBERS["baseline_steps_late"].value
NOT_SCORED = "the losses at the end were not measured"


def gap_share(difference: float) -> float:
    """Share by which a perplexity is lower, of a difference in nats."""
    return 1 - math.exp(difference)


def gap(definition: str):
    """Perplexity gap at the same tokens, schedules ended; ``definition`` names the published way of reading it."""

    def measure(context: Context) -> Reading:
        results, pairs = context.results, context.pairs()
        found = {axis: eff.gap_at(pairs, axis, context.confidence, context.results) for axis in eff.AXES}
        at_steps = found["step"]
        if at_steps.difference is None:
            raise NotRun(NOT_SCORED)
        sound = at_steps.difference.map(gap_share)
        details = {
            f"gap at matched {AXIS_NAMES[axis]}": _matched_gap(found[axis], len(pairs), AXIS_NAMES[axis])
            for axis in ("flops", "seconds")
        }
        ratio = parameters(results, results.baseline) / parameters(results, results.subject)
        details["gap at matched parameters"] = Quantity.of(
            sound, "share", f"the same losses; the baseline's parameters over LOLM's are {ratio:.4f}"
        )
        window = context.analysis.published_window
        losses = [_published_losses(definition, *pair, window) for pair in pairs]
        ratios = [clipped_perplexity(a) / clipped_perplexity(b) for a, b in losses]
        return Reading(
            sound=sound,
            published=geometric_interval(ratios, context.confidence).map(lambda ratio: 1 - ratio),
            runs=[run for pair in pairs for run in pair],
            values={"split": at_steps.split, "late": LATE},
            details=details,
        )

    return measure


def _published_losses(definition: str, subject: RunRecord, base: RunRecord, window: int) -> tuple[float, float]:
    """(LOLM's loss, the baseline's) under a published definition."""
    theirs = eff.final_training_loss(base, window)
    if definition == "mixed":
        return subject.points(names.VAL_NATS)[1][-1], theirs
    return eff.final_training_loss(subject, window, LATE if definition == "late" else 1.0), theirs


def _matched_gap(found: eff.Gap, pairs: int, what: str) -> Quantity:
    definition = (
        f"perplexity gap at the largest {what} that both arms of a pair spent; the arm that spent more interpolated "
        "between ends of its schedules"
    )
    if found.difference is None:
        return Quantity(None, "share", definition, n_seeds=pairs, note=found.reason)
    return Quantity.of(found.difference.map(gap_share), "share", definition)


def matched_budget(context: Context) -> Reading:
    """Difference of held-out losses at the same tokens; equivalence within the margin refutes a gain too."""
    pairs, margin = context.pairs(), context.analysis.equivalence_margin
    found = {axis: eff.gap_at(pairs, axis, context.confidence, context.results) for axis in ("step", "flops", "seconds")}
    difference, split = found["step"].difference, found["step"].split
    if difference is None:
        raise NotRun(NOT_SCORED)
    same = equivalence(difference, margin, context.confidence)
    verdict, why = below(difference, 0.0), f"LOLM minus baseline: {why_of(difference, 0.0, 'nats')}."
    if same.equivalent and verdict != FAILS:
        verdict = FAILS
        why += f" But the two losses are equivalent: TOST within ±{margin:g} nats, p = {same.p_value:.3g}."
    details = {}
    for axis, name in (("flops", "FLOPs"), ("seconds", "seconds")):
        definition = f"{split} loss of LOLM minus baseline at the {name} that both spent, interpolated between ends of schedules"
        at = found[axis]
        details[f"difference at equal {name}"] = (
            Quantity(None, "nats", definition, n_seeds=len(pairs), note=at.reason)
            if at.difference is None
            else Quantity.of(at.difference, "nats", definition)
        )
    runs = [run for pair in pairs for run in pair]
    return Reading(difference, runs=runs, verdict=verdict, why=why, values={"split": split}, details=details)


def shrinking_lead(context: Context) -> Reading:
    """Lead early in the run minus lead at its end."""
    pairs, confidence = context.pairs(), context.confidence
    early, end, step = [], [], 0.0
    for subject, base in pairs:
        mine, theirs = (dict(zip(*run.points(names.VAL_NATS), strict=True)) for run in (subject, base))
        common = sorted(set(mine) & set(theirs))
        after = [s for s in common if s >= max(1, EARLY * common[-1])]
        if len(after) < 2:
            raise NotRun("too few evaluations during training")
        step = after[0]
        early.append(theirs[step] - mine[step])
        end.append(theirs[common[-1]] - mine[common[-1]])
    shrink = paired_difference(early, end, confidence)
    lead, final = t_interval(early, confidence), t_interval(end, confidence)
    details = {
        "early lead": Quantity.of(lead, "nats", f"baseline minus LOLM, validation loss at step {step:g}"),
        "final lead": Quantity.of(final, "nats", "the same at the last step"),
    }
    steps, curves, split = eff.annealed_curves(pairs, "step")
    if len(steps) > 1:
        for i, step_end in ((0, steps[0]), (-1, steps[-1])):
            at_end = t_interval([base.losses[i] - subject.losses[i] for base, subject in curves], confidence)
            details[f"lead at the end of the schedule of {step_end:,} steps"] = Quantity.of(
                at_end, "nats", f"baseline minus LOLM, both annealed, {split} split"
            )
    return Reading(
        sound=shrink,
        published=final.map(lambda d: 1 - math.exp(-d)),
        runs=[run for pair in pairs for run in pair],
        verdict=every((above(lead, 0.0), above(shrink, 0.0))),
        why=f"Early lead: {why_of(lead, 0.0, 'nats')}. Its decline: {why_of(shrink, 0.0, 'nats')}.",
        values={"step": step, "early": EARLY},
        details=details,
    )


def lead_at(results: ScaleResults, pairs: Pairs, share: float) -> tuple[Estimate, Estimate, int] | None:
    """Baseline minus LOLM at the first validation after a share of the run, nats: (validation, training, step)."""
    confidence, window = results.analysis.confidence, results.analysis.published_window
    validation: list[tuple[float, float]] = []
    training: list[tuple[float, float]] = []
    step = 0.0
    for subject, base in pairs:
        mine, theirs = (dict(zip(*run.points(names.VAL_NATS), strict=True)) for run in (subject, base))
        common = sorted(set(mine) & set(theirs))
        after = [s for s in common if s >= max(1, share * common[-1])]
        if not after:
            return None
        step = after[0]
        validation.append((theirs[step], mine[step]))
        at = step / common[-1]
        training.append((eff.final_training_loss(base, window, at), eff.final_training_loss(subject, window, at)))
    found = [paired_difference([a for a, _ in values], [b for _, b in values], confidence) for values in (validation, training)]
    return found[0], found[1], round(step)


def lead(share: float, unit: str):
    """Lead at a share of the run: a ratio of perplexities (``x``), or by how much LOLM's is lower (``share``)."""

    def measure(context: Context) -> Reading:
        pairs = context.pairs()
        found = lead_at(context.results, pairs, share)
        if found is None:
            raise NotRun("LOLM and the baseline have no validation in common")
        validation, training, step = found
        read = math.exp if unit == "x" else lambda nats: 1 - math.exp(-nats)
        runs = [run for pair in pairs for run in pair]
        return Reading(validation.map(read), training.map(read), runs, values={"step": step, "share": share})

    return measure


def final_lead(context: Context) -> Reading:
    """Baseline minus LOLM at the end: test loss, and the gap in training loss."""
    pairs = context.pairs()
    found = lead_at(context.results, pairs, 1.0)
    tests = [(base.test_nats, subject.test_nats) for subject, base in pairs]
    if found is None or any(None in losses for losses in tests):
        raise NotRun("the test losses were not measured")
    _, training, step = found
    final = paired_difference([a for a, _ in tests], [b for _, b in tests], context.confidence)  # type: ignore[misc]
    runs = [run for pair in pairs for run in pair]
    return Reading(final, training.map(lambda n: 1 - math.exp(-n)), runs, values={"step": step})


def step_overhead(context: Context) -> Reading:
    """Training FLOPs of the published pair on TPU, LOLM's over the baseline's minus 1, by this project's count."""
    results, printed = context.results, NUMBERS["flops_overhead"].value
    here = None
    if results.subject and results.baseline and against_decoder(results):
        mine, theirs = (results.of(arm)[0].header.flops_per_token.training for arm in (results.subject, results.baseline))
        here = mine / theirs - 1
    if context.counting is None:
        raise NotRun("nobody counted the FLOPs of the published pair")
    try:
        lolm, base = map(context.counting.flops_per_token, tpu_pair(context.counting))
    except ConfigError as error:
        why = f"params.yaml gives no such pair: {error}"
        return Reading(published=here, verdict=UNTESTABLE, why=why, values={"scale": results.scale})
    exact = lolm / base - 1
    counted = {"319M LOLM over 317M baseline": Quantity(exact, "share", "training FLOPs a token", origin=COUNTED)}
    return Reading(
        sound=exact,
        published=here,
        verdict=HOLDS if abs(exact - printed) <= 0.0005 else INCONCLUSIVE,
        why=f"By this project's count of the same pair, to the parameter, the difference is {show(exact, 'share')}. What the "
        "authors counted is not published, so the two numbers may differ by definition alone.",
        values={"scale": results.scale},
        details=counted,
    )


def tpu_pair(counting: Counting) -> tuple[RunConfig, RunConfig]:
    """The published pair on TPU, to the parameter: the 304m preset with the plain SSM in windows of 512, against 21 layers."""
    lolm, base = (counting.resolve("304m", arm) for arm in ("lolm_published", "transformer_published"))
    training = replace(lolm.training, seq_len=512, batch_size=4, accumulation=1)
    latent = replace(lolm.architecture.latent, form="plain", wiring="postnorm")
    return (
        replace(lolm, architecture=replace(lolm.architecture, latent=latent), training=training),
        replace(base, size=replace(base.size, n_layers=21), training=training),
    )
