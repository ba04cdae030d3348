"""Claims about how soon, and how low, the loss of LOLM gets beside its matched Transformer."""

from __future__ import annotations

import math

from lolm.analysis import efficiency as eff
from lolm.analysis.claims.ledger import FAILS, HOLDS, INCONCLUSIVE, Claim, Quantity, above, below, runs_of, untestable, why_of
from lolm.analysis.published import NUMBERS, clipped_perplexity
from lolm.analysis.results import RunRecord, ScaleResults
from lolm.analysis.statistics import Estimate, equivalence, geometric_interval, paired_difference

AXIS_NAMES = {"step": "steps", "tokens": "tokens", "flops": "training FLOPs", "seconds": "seconds"}
EARLY = 0.06  # share of the run at which the published early gap was read: step 3,000 of 50,000

Pairs = tuple[tuple[RunRecord, RunRecord], ...]


def claims(results: ScaleResults) -> list[Claim]:
    """2x, its direction, the three perplexity gaps, the difference at matched budget, and how the lead changes."""
    pairs = results.pairs(results.subject, results.baseline)
    if not pairs:
        why = "these runs hold no pair of a LOLM and a baseline with a common seed"
        return [
            untestable("efficiency_2x", "efficiency", TWICE, ("efficiency",), why),
            untestable("efficiency_direction", "efficiency", DIRECTION, (), why),
            *(untestable(id, "efficiency", statement, (key,), why) for id, statement, key in GAPS),
            untestable("matched_budget", "efficiency", MATCHED, (), why),
            untestable("early_lead", "efficiency", LEAD, ("tpu_gap_3k", "tpu_gap_50k"), why),
        ]
    return [*_multipliers(results, pairs), *_gaps(results, pairs), _matched(results, pairs), _lead(results, pairs)]


TWICE = "LOLM reaches the matched Transformer's loss with half the compute (2×)."
DIRECTION = "LOLM reaches a given loss with less compute than the matched Transformer (any multiplier above 1)."
MATCHED = "At the same number of training tokens LOLM has the lower held-out loss."
LEAD = "The lead of LOLM in nats is an early one: it shrinks as training goes on."
GAPS = (
    ("gap_25_9", "LOLM's perplexity is 25.9 % lower at a matched budget.", "gap_headline"),
    ("gap_16_8", "LOLM's perplexity is 16.8 % lower at the same step.", "gap_training"),
    ("gap_15", "LOLM's perplexity is 15 % lower late in training, at nine tenths of the baseline's steps.", "gap_later"),
)


def measured(results: ScaleResults, pairs: Pairs, axis: str) -> eff.Efficiency:
    """Sound multipliers of the pairs: held-out loss on an axis."""
    curves = [(eff.heldout_curve(base, axis), eff.heldout_curve(subject, axis)) for subject, base in pairs]
    return eff.efficiency(curves, axis, results.analysis.confidence)


def as_published(results: ScaleResults, pairs: Pairs) -> eff.Efficiency:
    """Multipliers as published: training loss over the published window, in steps."""
    window = results.analysis.published_window
    curves = [(eff.training_curve(base, window), eff.training_curve(subject, window)) for subject, base in pairs]
    return eff.efficiency(curves, "step", results.analysis.confidence)


def _multipliers(results: ScaleResults, pairs: Pairs) -> list[Claim]:
    sound = {axis: measured(results, pairs, axis) for axis in eff.AXES}
    published = as_published(results, pairs)
    window = eff.window_rows(pairs[0][0], results.analysis.published_window)
    ours = _quantity(
        published,
        len(pairs),
        f"steps to the lowest training loss both arms reach, trailing mean of {window} log windows; dropout and noise on",
    )
    flops = sound["flops"]
    quantity = _quantity(
        flops,
        len(pairs),
        "baseline's over LOLM's training FLOPs (auxiliary heads included) to the lowest held-out loss both arms of a pair reach",
    )
    details = {
        f"multiplier in {AXIS_NAMES[axis]}": _quantity(sound[axis], len(pairs), f"the same in {AXIS_NAMES[axis]}")
        for axis in ("step", "tokens", "seconds")
    }
    matched = _mismatch(results)
    entries = []
    for id, statement, keys, threshold in (
        ("efficiency_2x", TWICE, ("efficiency",), NUMBERS["efficiency"].value),
        ("efficiency_direction", DIRECTION, (), 1.0),
    ):
        if flops.common is None:
            verdict, why = INCONCLUSIVE, f"no multiplier can be measured: {flops.reason}"
        else:
            verdict, why = above(flops.common, threshold), why_of(flops.common, threshold, "x")
            why = f"In FLOPs to the same held-out loss, {why}. {_reached(flops, len(pairs))}"
        if matched:
            verdict, why = INCONCLUSIVE, f"{matched}. {why}"
        rule = f"holds if the whole interval of the multiplier in FLOPs lies above {threshold:g}, fails if none of it does"
        runs = runs_of(run for pair in pairs for run in pair)
        entries.append(Claim(id, "efficiency", statement, keys, ours, quantity, verdict, why, rule, runs, details))
    return entries


def _quantity(found: eff.Efficiency, pairs: int, definition: str) -> Quantity:
    if found.common is None:
        return Quantity(None, "x", definition, n_seeds=pairs, note=found.reason)
    return Quantity.of(found.common, "x", definition, _reached(found, pairs))


def _reached(found: eff.Efficiency, pairs: int) -> str:
    if found.reached == pairs:
        return f"LOLM reaches the baseline's final loss in every pair ({pairs} of {pairs})."
    needs = [1 / m.value for m in found.to_subject if m.value is not None and m.value < 1]
    text = f"LOLM never reaches the baseline's final loss in {pairs - found.reached} of {pairs} pairs"
    if needs:
        mean = geometric_interval(needs).value
        text += f"; the baseline gets to LOLM's final loss with {1 / mean:.2f} of what LOLM spent"
    return text + "."


def _mismatch(results: ScaleResults) -> str | None:
    tolerance = results.analysis.parameter_tolerance
    subject, baseline = (results.plan[arm]["parameters"] for arm in (results.subject, results.baseline))  # type: ignore[index]
    found = abs(baseline / subject - 1)
    if found <= tolerance:
        return None
    return f"The arms are not matched: their parameters differ by {100 * found:.2f} %, more than {100 * tolerance:g} %"


def _test_losses(pairs: Pairs) -> tuple[list[float], list[float]] | None:
    losses = [(subject.test_nats, base.test_nats) for subject, base in pairs]
    if any(None in pair for pair in losses):
        return None
    return [a for a, _ in losses], [b for _, b in losses]  # type: ignore[misc]


def _gaps(results: ScaleResults, pairs: Pairs) -> list[Claim]:
    losses = _test_losses(pairs)
    if losses is None:
        return [
            untestable(id, "efficiency", statement, (key,), "the test losses were not measured") for id, statement, key in GAPS
        ]
    confidence, window = results.analysis.confidence, results.analysis.published_window
    gap = paired_difference(*losses, confidence).map(lambda difference: 1 - math.exp(difference))
    sound = Quantity.of(gap, "share", "1 - exp(paired difference of test losses), same training tokens, noise off in both arms")
    late = NUMBERS["lolm_steps_late"].value / NUMBERS["baseline_steps_late"].value

    def training(run: RunRecord, share: float = 1.0) -> float:
        return eff.final_training_loss(run, window, share)

    definitions = {
        "gap_25_9": (
            "LOLM's held-out perplexity (evaluation mode) against the baseline's training perplexity",
            lambda a, b: (_validation(a), training(b)),
        ),
        "gap_16_8": ("training perplexities at the last step, published window", lambda a, b: (training(a), training(b))),
        "gap_15": (
            f"training perplexities, LOLM at {late:.3f} of the baseline's steps",
            lambda a, b: (training(a, late), training(b)),
        ),
    }
    entries = []
    for id, statement, key in GAPS:
        text, read = definitions[id]
        ratios = [clipped_perplexity(a) / clipped_perplexity(b) for a, b in (read(*pair) for pair in pairs)]
        ours = Quantity.of(geometric_interval(ratios, confidence).map(lambda ratio: 1 - ratio), "share", text)
        threshold = NUMBERS[key].value
        why = f"On held-out text at the same number of tokens, {why_of(gap, threshold, 'share')}."
        rule = f"holds if the whole interval of the held-out gap lies above {100 * threshold:g} %, fails if none of it does"
        runs = runs_of(run for pair in pairs for run in pair)
        entries.append(Claim(id, "efficiency", statement, (key,), ours, sound, above(gap, threshold), why, rule, runs))
    return entries


def _validation(run: RunRecord) -> float:
    return run.points("val/nats")[1][-1]


def _matched(results: ScaleResults, pairs: Pairs) -> Claim:
    losses = _test_losses(pairs)
    if losses is None:
        return untestable("matched_budget", "efficiency", MATCHED, (), "the test losses were not measured")
    confidence, margin = results.analysis.confidence, results.analysis.equivalence_margin
    difference = paired_difference(*losses, confidence)
    same = equivalence(difference.per_seed, margin, confidence)
    verdict, why = below(difference, 0.0), f"LOLM minus baseline: {why_of(difference, 0.0, 'nats')}."
    if same.equivalent and verdict != FAILS:
        verdict, why = FAILS, f"the two losses are equivalent: TOST within ±{margin:g} nats, p = {same.p_value:.3g}."
    details = {}
    at_flops = _at_equal_flops(pairs, confidence)
    if at_flops is not None:
        details["difference at equal FLOPs"] = Quantity.of(
            at_flops,
            "nats",
            "validation loss of LOLM minus baseline where the arm that costs less has spent its whole budget; the "
            "other is cut short, not annealed",
        )
    return Claim(
        "matched_budget",
        "efficiency",
        MATCHED,
        (),
        None,
        Quantity.of(difference, "nats", "test loss of LOLM minus baseline, paired by seed"),
        verdict,
        why,
        f"holds if the interval lies below 0; fails if it lies above 0 or the arms are equivalent within {margin:g} nats",
        runs_of(run for pair in pairs for run in pair),
        details,
    )


def _at_equal_flops(pairs: Pairs, confidence: float) -> Estimate | None:
    differences = []
    for subject, base in pairs:
        a, b = eff.heldout_curve(subject, "flops"), eff.heldout_curve(base, "flops")
        budget = min(a.positions[-1], b.positions[-1])
        ours, theirs = a.at(budget), b.at(budget)
        if ours is None or theirs is None:
            return None
        differences.append(ours - theirs)
    return paired_difference(differences, [0.0] * len(differences), confidence)


def _lead(results: ScaleResults, pairs: Pairs) -> Claim:
    early, end, step = [], [], None
    for subject, base in pairs:
        mine = dict(zip(*subject.points("val/nats"), strict=True))
        theirs = dict(zip(*base.points("val/nats"), strict=True))
        common = sorted(set(mine) & set(theirs))
        after = [s for s in common if s >= max(1, EARLY * common[-1])]
        if len(after) < 2:
            return untestable(
                "early_lead", "efficiency", LEAD, ("tpu_gap_3k", "tpu_gap_50k"), "too few evaluations during training"
            )
        step = after[0]
        early.append(theirs[step] - mine[step])
        end.append(theirs[common[-1]] - mine[common[-1]])
    confidence = results.analysis.confidence
    shrink = paired_difference(early, end, confidence)
    lead = paired_difference(early, [0.0] * len(early), confidence)
    final = paired_difference(end, [0.0] * len(end), confidence)
    definition = (
        f"lead of LOLM in validation loss at step {step:g} (first evaluation after {100 * EARLY:g} % of the "
        "run) minus its lead at the end"
    )
    parts = (above(lead, 0.0), above(shrink, 0.0))
    verdict = HOLDS if parts == (HOLDS, HOLDS) else FAILS if FAILS in parts else INCONCLUSIVE
    why = (
        f"Early lead: {why_of(lead, 0.0, 'nats')}. Its decline: {why_of(shrink, 0.0, 'nats')}. A lead in nats can shrink on "
        "flattening curves while the multiplier stays; the figure of the lead shows both."
    )
    details = {
        "early lead": Quantity.of(lead, "nats", f"baseline minus LOLM, validation loss at step {step:g}"),
        "final lead": Quantity.of(final, "nats", "the same at the last step"),
    }
    ours = Quantity.of(
        final.map(lambda d: 1 - math.exp(-d)), "share", "perplexity gap at the last step; the published TPU pair ends behind"
    )
    rule = "holds if both the early lead and its decline are above 0, fails if either is not"
    runs = runs_of(run for pair in pairs for run in pair)
    return Claim(
        "early_lead",
        "efficiency",
        LEAD,
        ("tpu_gap_3k", "tpu_gap_50k"),
        ours,
        Quantity.of(shrink, "nats", definition),
        verdict,
        why,
        rule,
        runs,
        details,
    )
