"""How low the loss of LOLM is beside its baseline's: gaps at matched cost, leads at one point of training, what a step costs."""

from __future__ import annotations

import math
from dataclasses import replace

from lolm.analysis import efficiency as eff
from lolm.analysis.in_curve import constant_until, heldout_before_decay, training_before_decay, training_curve, training_loss
from lolm.analysis.statistics import Estimate, equivalence, geometric_interval, paired_difference, t_interval
from lolm.analysis.uncertainty import loss_difference
from lolm.claims.cost import Counting
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import COUNTED, FAILS, HOLDS, INCONCLUSIVE, UNTESTABLE, Quantity
from lolm.claims.measures.common import again, another_baseline, training_stream
from lolm.claims.measures.efficiency import Pairs
from lolm.claims.numbers import show
from lolm.claims.published import NUMBERS, clipped_perplexity
from lolm.claims.rules import Below, Rule, above, below, every, why_of
from lolm.config import ConfigError, RunConfig
from lolm.records import names

EARLY = 0.06  # share of the run at which the published early gap was read: step 3,000 of 50,000
LATE = NUMBERS["lolm_steps_late"].value / NUMBERS["baseline_steps_late"].value
NOT_SCORED = "the losses at the end were not measured"


def gap_share(difference: float) -> float:
    """Share by which a perplexity is lower, of a difference in nats."""
    return 1 - math.exp(difference)


def gap(definition: str):
    """Perplexity gap at the same tokens, schedules ended; ``definition`` names the published way of reading it."""

    def measure(context: Context) -> Reading:
        pairs = context.pairs()
        found = eff.gap_at(pairs, "step", context.confidence, context.results)
        if found.difference is None:
            raise NotRun(NOT_SCORED)
        published, note = _as_published(definition, pairs, context)
        return Reading(
            sound=found.difference.map(gap_share),
            published=published,
            published_note=note,
            runs=[run for pair in pairs for run in pair],
            values={"split": found.split, "late": LATE, "until": constant_until(pairs[0][0])},
        )

    return measure


def _as_published(definition: str, pairs: Pairs, context: Context) -> tuple[Estimate | None, str | None]:
    """The gap under a published definition, before the rate decays; None with a note where it was not measured."""
    if definition != "mixed":
        return before_decay(pairs, context, LATE if definition == "late" else 1.0).map(gap_share), None
    window, ratios = context.analysis.published_window, []
    for subject, base in pairs:
        row = training_stream(subject)
        if row is None:
            return None, f"LOLM was not scored on its training stream; {again(context.results)}"
        theirs = training_loss(base, window, row.step)
        ratios.append(clipped_perplexity(row.nats) / clipped_perplexity(theirs))
    return geometric_interval(ratios, context.confidence).map(lambda ratio: 1 - ratio), None


def before_decay(pairs: Pairs, context: Context, share: float = 1.0) -> Estimate:
    """LOLM's training loss minus the baseline's (nats) at the last step of the constant rate, LOLM's at ``share`` of that."""
    found, window = [], context.analysis.published_window
    for subject, base in pairs:
        mine, theirs = (training_before_decay(run, window) for run in (subject, base))
        loss = mine.at(share * theirs.positions[-1])
        if loss is None:
            raise NotRun("LOLM and the baseline have no training loss in common before the rate decays")
        found.append(loss - theirs.losses[-1])
    return t_interval(found, context.confidence)


def matched_budget(context: Context) -> Reading:
    """Difference of held-out losses at the same tokens; equivalence within the margin refutes a gain too."""
    pairs, margin = context.pairs(), context.analysis.equivalence_margin
    found = {axis: eff.gap_at(pairs, axis, context.confidence, context.results) for axis in ("step", "flops", "seconds")}
    difference, split = found["step"].difference, found["step"].split
    if difference is None:
        raise NotRun(NOT_SCORED)
    same = equivalence(difference, margin, context.confidence)
    rule: Rule | None = Below(0.0)
    verdict, why = below(difference, 0.0), f"LOLM minus baseline: {why_of(difference, 0.0, 'nats')}."
    if same.equivalent and verdict != FAILS:
        verdict, rule = FAILS, None
        why += f" But the two losses are equivalent: TOST within ±{margin:g} nats, p = {same.p_value:.3g}."
    details = {}
    for axis, name in (("flops", "FLOPs"), ("seconds", "seconds")):
        definition = f"{split} loss of LOLM minus baseline at the {name} that both spent, interpolated between ends of schedules"
        at = found[axis]
        details[f"difference at equal {name}"] = Quantity.known(at.difference, "nats", definition, at.reason, len(pairs))
    return Reading(
        difference,
        before_decay(pairs, context).map(gap_share),
        [run for pair in pairs for run in pair],
        verdict=verdict,
        why=why,
        rule=rule,
        values={"split": split, "until": constant_until(pairs[0][0])},
        details=details,
    )


def shrinking_lead(context: Context) -> Reading:
    """Lead early in the run minus lead at the last step of the constant rate; as published the gap at the end of training."""
    pairs, confidence = context.pairs(), context.confidence
    until, last = constant_until(pairs[0][0]), pairs[0][0].points(names.VAL_NATS)[0][-1]
    found = [lead_at(pairs, share, end, confidence) for share, end in ((EARLY, last), (1.0, last))]
    curves = [[heldout_before_decay(run) for run in pair] for pair in pairs]
    early, at_end = found
    if early is None or at_end is None or early[1] >= min(curve.positions[-1] for pair in curves for curve in pair):
        raise NotRun("too few evaluations during training")
    lead, ended = early[0], at_end[0]
    late = paired_difference([base.losses[-1] for _, base in curves], [mine.losses[-1] for mine, _ in curves], confidence)
    shrink = paired_difference(lead.per_seed, late.per_seed, confidence)
    details = {
        "early lead": Quantity.of(lead, "nats", f"baseline minus LOLM, validation loss at step {early[1]}"),
        "late lead": Quantity.of(late, "nats", f"the same at step {until:g}, before the rate decays"),
        "final lead": Quantity.of(ended, "nats", "the same at the last step"),
    }
    steps, annealed, split = eff.annealed_curves(pairs, "step")
    if len(steps) > 1:
        for i, step_end in ((0, steps[0]), (-1, steps[-1])):
            gain = t_interval([base.losses[i] - subject.losses[i] for base, subject in annealed], confidence)
            details[f"lead at the end of the schedule of {step_end:,} steps"] = Quantity.of(
                gain, "nats", f"baseline minus LOLM, both annealed, {split} split"
            )
    return Reading(
        sound=shrink,
        published=training_lead(pairs, context).map(perplexity_lead),
        runs=[run for pair in pairs for run in pair],
        verdict=every((above(lead, 0.0), above(shrink, 0.0))),
        why=f"Early lead: {why_of(lead, 0.0, 'nats')}. Its decline: {why_of(shrink, 0.0, 'nats')}.",
        values={"step": early[1], "early": EARLY, "until": until},
        details=details,
    )


def lead_at(pairs: Pairs, share: float, end: float, confidence: float) -> tuple[Estimate, int] | None:
    """Baseline minus LOLM in validation loss (nats) at the first validation after ``share`` of ``end`` steps, and that step."""
    curves = [tuple(dict(zip(*run.points(names.VAL_NATS), strict=True)) for run in pair) for pair in pairs]
    after = [step for step in sorted(set.intersection(*(set(c) for pair in curves for c in pair))) if step >= max(1, share * end)]
    if not after:
        return None
    mine, theirs = ([pair[i][after[0]] for pair in curves] for i in (0, 1))
    return paired_difference(theirs, mine, confidence), round(after[0])


def training_lead(pairs: Pairs, context: Context, until: float = math.inf) -> Estimate:
    """Baseline minus LOLM in training loss (nats) over the last published window that ends by a step, default the end."""
    window = context.analysis.published_window
    found = [training_loss(base, window, until) - training_loss(subject, window, until) for subject, base in pairs]
    return t_interval(found, context.confidence)


def perplexity_lead(nats: float) -> float:
    """Share by which LOLM's perplexity is lower, of its lead in nats."""
    return 1 - math.exp(-nats)


def lead(share: float, unit: str, whole: bool = False):
    """Lead at a share of the steps before the rate decays, or of the ``whole`` run, where the published one had ended: a ratio of
    perplexities (``x``), or by how much LOLM's is lower (``share``). As published of training losses, else of validation."""

    def measure(context: Context) -> Reading:
        pairs = context.pairs()
        end = pairs[0][0].points(names.VAL_NATS)[0][-1] if whole else constant_until(pairs[0][0])
        found = lead_at(pairs, share, end, context.confidence)
        if found is None:
            raise NotRun("LOLM and the baseline have no validation in common")
        read = math.exp if unit == "x" else perplexity_lead
        runs, published = [run for pair in pairs for run in pair], training_lead(pairs, context, share * end).map(read)
        return Reading(found[0].map(read), published, runs, values={"step": found[1], "share": share, "end": end})

    return measure


def final_lead(context: Context) -> Reading:
    """Baseline minus LOLM at the end: test loss, and the gap in training loss."""
    pairs, results = context.pairs(), context.results
    final = loss_difference(results, str(results.baseline), str(results.subject))
    if final is None:
        raise NotRun("the test losses were not measured")
    return Reading(final, training_lead(pairs, context).map(perplexity_lead), [run for pair in pairs for run in pair])


def stepwise_wins(context: Context) -> Reading:
    """Share of the log windows in which LOLM's training loss is the lower one; both arms see the same batches."""
    pairs = context.pairs()
    wins = []
    for subject, base in pairs:
        mine, theirs = (run.points(names.TRAIN_LOSS)[1] for run in (subject, base))
        wins.append(sum(a < b for a, b in zip(mine, theirs, strict=True)) / len(mine))
    return Reading(t_interval(wins, context.confidence), runs=[run for pair in pairs for run in pair])


def crossover(context: Context) -> Reading:
    """Share of the run after which LOLM's training loss stays above the baseline's, by published windows as theirs."""
    pairs, found, window = context.pairs(), [], context.analysis.published_window
    for subject, base in pairs:
        mine, theirs = (training_curve(run, window) for run in (subject, base))
        both = zip(mine.positions, mine.losses, theirs.losses, strict=True)
        found.append(max((step for step, a, b in both if a < b), default=0) / mine.positions[-1])
    runs, stays = [run for pair in pairs for run in pair], sum(share == 1 for share in found)
    if stays:
        why = f"LOLM is ahead in the last window in {stays} of {len(pairs)} pairs: there it is never overtaken."
        return Reading(runs=runs, verdict=FAILS if stays == len(pairs) else INCONCLUSIVE, why=why, published_note=why)
    return Reading(t_interval(found, context.confidence), runs=runs)


def step_overhead(context: Context) -> Reading:
    """Training FLOPs of the published pair on TPU, LOLM's over the baseline's minus 1, by this project's count."""
    results, printed = context.results, NUMBERS["flops_overhead"].value
    here = None
    if results.subject and results.baseline and another_baseline(results) is None:
        mine, theirs = (results.of(arm)[0].header.flops_per_token.training for arm in (results.subject, results.baseline))
        here = mine / theirs - 1
    if context.counting is None:
        raise NotRun("nobody counted the FLOPs of the published pair")
    try:
        lolm, base = map(context.counting.flops_per_token, tpu_pair(context.counting))
    except ConfigError as error:
        why = f"params.yaml gives no such pair: {'; '.join(map(str, error.problems))}"
        return Reading(published=here, verdict=UNTESTABLE, why=why, values={"scale": results.scale})
    exact = lolm / base - 1
    counted = {"319M LOLM over 317M baseline": Quantity(exact, "share", "training FLOPs a token", origin=COUNTED)}
    return Reading(
        sound=exact,
        published=here,
        verdict=HOLDS if abs(exact - printed) <= 0.0005 else INCONCLUSIVE,  # half of the last digit that was printed
        why=f"By this project's count of the same pair, to the parameter, the difference is {show(exact, 'share')}. What the "
        "authors counted is not published, so the two numbers may differ by definition alone.",
        values={"scale": results.scale},
        details=counted,
    )


def tpu_pair(counting: Counting) -> tuple[RunConfig, RunConfig]:
    """The published pair on TPU, to the parameter: the 304m preset with the plain SSM in windows of 512, against 21 layers."""
    lolm, base = (counting.resolve("304m", arm) for arm in ("lolm_published", "transformer_published"))
    training = replace(lolm.training, seq_len=512, batch_size=4, accumulation=1, devices=1, nodes=1)
    latent = replace(lolm.architecture.latent, form="plain", wiring="postnorm")
    return (
        replace(lolm, architecture=replace(lolm.architecture, latent=latent), training=training),
        replace(base, size=replace(base.size, n_layers=21), training=training),
    )
