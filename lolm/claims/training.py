"""Claims that only training decides: LOLM without a part, with another in its place, with other gradients or losses."""

from __future__ import annotations

from collections.abc import Sequence

from lolm.analysis.dependency import INVERTED, call, over_seeds, primary
from lolm.analysis.effects import OUTCOMES, arm_effect, main_effects
from lolm.analysis.statistics import Estimate, t_interval
from lolm.claims.ledger import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    Claim,
    Control,
    Quantity,
    above,
    below,
    runs_of,
    show_estimate,
    unmeasured,
    untestable,
    why_of,
    within,
)
from lolm.claims.questions import QUESTIONS, Question
from lolm.claims.required_runs import needs
from lolm.records.results import ScaleResults

GROUP, FIGURE = "training", "training_arms"


def claims(results: ScaleResults) -> list[Claim]:
    """One entry a question, and what the wiring itself decides."""
    found = {question.id: _found(results, question) for question in QUESTIONS}
    families = {
        outcome: {q.contrast for q in QUESTIONS if q.outcome == outcome and found[q.id] is not None} - {results.baseline}
        for outcome in OUTCOMES
    }
    entries = [_claim(results, q, found[q.id], len(families[q.outcome])) for q in QUESTIONS]
    return [*entries, _parallel(results), _ladder(results)]


def _claim(results: ScaleResults, q: Question, found: Estimate | None, family: int) -> Claim:
    """``family``: how many contrasts are asked for in this outcome, without the declared pair, which is not corrected."""
    if found is None:
        what = f"arm {q.arm}" if q.arm else f"factor {q.factor}"
        why = f"These runs do not measure {OUTCOMES[q.outcome].name} for {what}; study {q.study} does."
        return untestable(q.id, GROUP, q.statement, q.published, why, needs(results.params, results.scale, q.study), q.stated)
    margin = 0.0 if q.margin is None else float(getattr(results.analysis, q.margin))
    unit, name_of = OUTCOMES[q.outcome].unit, OUTCOMES[q.outcome].name
    alpha = 1 - results.analysis.confidence
    declared = q.arm is not None and q.arm == results.baseline
    if not declared:
        found = t_interval(found.per_seed, 1 - alpha / family)
    if q.direction == "equal":
        verdict, rule = (
            within(found, 0.0, margin),
            f"holds if the whole interval lies within ±{margin:g}, fails if none of it does",
        )
    against = -margin if q.direction in ("below", "not below") else margin
    if q.direction in ("above", "not below"):
        verdict, rule = above(found, against), f"holds if the interval lies above {against:g}, fails if none of it does"
    elif q.direction in ("below", "not above"):
        verdict, rule = below(found, against), f"holds if the interval lies below {against:g}, fails if none of it does"
    rule += (
        "; the declared comparison, not corrected"
        if declared
        else f"; its level is 1 − {alpha:.2g}/{family} (Bonferroni), for {family} "
        f"{'contrast' if family == 1 else 'contrasts'} asked of these runs in {name_of}"
    )
    name = results.label(q.arm) if q.arm else f"the high level of {q.factor.replace('_', ' ')}"  # type: ignore[union-attr]
    other = f"“{results.label(results.subject)}”" if q.arm and results.subject else "the low level"
    why = f"{name_of[0].upper()}{name_of[1:]} of {name} minus that of {other}: "
    why += f"{show_estimate(found, unit)}, against ±{margin:g}" if q.direction == "equal" else why_of(found, against, unit)
    why += f". {q.loose}" if q.loose else "."
    if q.outcome == "inversion" and not q.equivalence and verdict == HOLDS and not _inverted(results):
        verdict, why = (
            INCONCLUSIVE,
            f"{why} S differs, but LOLM is not shown to be inverted: there is nothing to explain.",
        )
    level = f"{100 * found.confidence:.4g} % interval"
    definition = f"{OUTCOMES[q.outcome].definition}: {name} minus {other}, paired by seed, {level}"
    runs = results.runs if q.factor else (*results.of(q.arm), *results.of(results.subject))  # type: ignore[arg-type]
    return Claim(
        q.id,
        GROUP,
        q.statement,
        q.published,
        None,
        Quantity.of(found, unit, definition),
        verdict,
        why,
        rule,
        runs_of(runs),
        controls=_controls(results, q),
        figure=FIGURE,
        stated=q.stated,
    )


def _found(results: ScaleResults, q: Question) -> Estimate | None:
    if q.arm is not None:
        return arm_effect(results, q.arm, q.outcome) if results.subject else None
    return next((e.difference for e in main_effects(results, q.outcome) if e.name == q.factor), None)


def _inverted(results: ScaleResults) -> bool:
    """Whether the subject shows the inversion, by the declared rule."""
    runs = results.of(results.subject) if results.subject else ()
    found = over_seeds(runs, primary(results), results.analysis.confidence)
    return found is not None and call(found, results.analysis.inversion_margin) == INVERTED


def _controls(results: ScaleResults, q: Question) -> tuple[Control, ...]:
    """The same arm or factor in the other outcomes: a change of one that comes with a change of all has another cause."""
    sentence = "A change here as well would offer itself as the cause."
    made = []
    for key, outcome in OUTCOMES.items():
        if key == q.outcome:
            continue
        if q.arm:
            found = arm_effect(results, q.arm, key)
        else:
            found = {e.name: e.difference for e in main_effects(results, key)}.get(q.factor or "")
        text = f"{outcome.definition}, the same difference"
        quantity = (
            unmeasured(outcome.unit, text, "not measured in both") if found is None else Quantity.of(found, outcome.unit, text)
        )
        made.append(Control(outcome.name, quantity, sentence))
    return tuple(made)


def _parallel(results: ScaleResults) -> Claim:
    statement = "LOLM's two paths process the input in parallel."
    stated = ("seed", "paper")
    runs = results.of(results.subject) if results.subject else ()
    latent = runs[0].config["run"]["architecture"].get("latent") if runs and runs[0].family == "lolm" else None
    if latent is None or latent["form"] == "none":
        return untestable("parallel_paths", GROUP, statement, (), "these runs hold no LOLM with a latent stream", stated=stated)
    serial = latent["input"] == "surface"
    return Claim(
        "parallel_paths",
        GROUP,
        statement,
        (),
        None,
        None,
        FAILS if serial else HOLDS,
        "By construction: as in the published code, z is computed from the decoder's final hidden state, so the streams are "
        "a stack "
        "with a skip around its last layers."
        if serial
        else "By construction: the SSM of this arm reads the token embeddings.",
        "fails if z is computed from h",
        runs_of(runs),
        stated=stated,
        needs=needs(results.params, results.scale, "inversion"),
    )


LADDER = ("ladder_1_decoder", "ladder_2_memory", "ladder_3_ssm", "ladder_4_ssm_memory", "ladder_5_regime", "ladder_6_full")


def _ladder(results: ScaleResults) -> Claim:
    statement = "Each step of the authors' six-step ladder, from the plain decoder to the full model, lowers the loss."
    steps = [arm_effect(results, b, "nats", a) for a, b in zip(LADDER, LADDER[1:], strict=False)]
    if None in steps:
        why = "No numbers were published for the ladder, and these runs do not hold all of its arms; study ladder does."
        return untestable("ladder_steps", GROUP, statement, (), why, needs(results.params, results.scale, "ladder"))
    found: Sequence[Estimate] = steps  # type: ignore[assignment]
    verdicts = [below(step, 0.0) for step in found]
    verdict = FAILS if FAILS in verdicts else HOLDS if set(verdicts) == {HOLDS} else INCONCLUSIVE
    details = {
        f"{results.label(b)} minus {results.label(a)}": Quantity.of(step, "nats", "test loss")
        for a, b, step in zip(LADDER, LADDER[1:], found, strict=False)
    }
    worst = max(found, key=lambda step: step.value)
    return Claim(
        "ladder_steps",
        GROUP,
        statement,
        (),
        None,
        Quantity.of(worst, "nats", "largest of five steps (selected, not corrected for it)"),
        verdict,
        "Steps: " + "; ".join(f"{name}: {q.shown}" for name, q in details.items()) + ". Parts are added at the authors' sizes, "
        "so parameters grow with each.",
        "holds if every step lies below 0, fails if any has none of it there; not corrected",
        runs_of(run for arm in LADDER for run in results.of(arm)),
        details,
        figure=FIGURE,
    )
