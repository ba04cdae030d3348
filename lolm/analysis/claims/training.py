"""Claims that only training decides: LOLM without a part, with another in its place, with other gradients or losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lolm.analysis.claims.ledger import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    Claim,
    Control,
    Quantity,
    above,
    below,
    runs_of,
    show,
    unmeasured,
    untestable,
    why_of,
)
from lolm.analysis.dependency import INVERTED, call, over_seeds, primary
from lolm.analysis.effects import OUTCOMES, Effect, arm_effect, arm_effects, main_effects
from lolm.analysis.needs import needs
from lolm.analysis.results import ScaleResults
from lolm.analysis.statistics import Estimate

GROUP, FIGURE = "training", "training_arms"


@dataclass(frozen=True)
class Question:
    """A claim that an arm, or the high level of a factor, differs from the subject (the low level) in one outcome.

    Attributes:
        arm: the arm that is held against the subject; factor: the factor of a study's design.
        outcome: key of OUTCOMES.
        direction: ``above`` or ``below``: beyond ``margin`` on which side of 0 the claim puts the difference; ``equal``: within
            it on both sides; ``not above``, ``not below``: within it on that side, on the other anywhere.
        margin: name of a field of ``analysis``, or None for 0; of ``below`` and ``not below`` it is taken negative.
        study: that has the arm or factor.
        loose: what the outcome leaves open.
    """

    id: str
    statement: str
    outcome: str
    direction: str
    study: str
    arm: str | None = None
    factor: str | None = None
    margin: str | None = None
    published: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    loose: str = ""

    @property
    def equivalence(self) -> bool:
        """Whether the claim is that there is no difference (to one side or both), which no correction makes harder to show."""
        return self.direction not in ("above", "below")


PARTS = "Equal parameters: what the part is not given, the others are; at equal compute the answer can differ."
GATE = "All arms have equally many parameters; the simpler rule's go into the MLPs."
QUESTIONS = (
    Question(
        "scratch_no_ssm",
        "Trained from scratch without its SSM, LOLM is better (perplexity 171 against 205).",
        "nats",
        "below",
        "parts",
        "lolm_no_latent",
        published=("scratch_no_ssm", "scratch_full"),
        loose=PARTS,
    ),
    Question(
        "scratch_no_regime",
        "Trained from scratch without regime codes, LOLM is better (perplexity 166 against 205).",
        "nats",
        "below",
        "parts",
        "lolm_no_regime",
        published=("scratch_no_regime", "scratch_full"),
        loose=PARTS,
    ),
    Question(
        "latent_needed",
        "The latent stream contributes: trained without it LOLM is worse.",
        "nats",
        "above",
        "parts",
        "lolm_no_latent",
        margin="equivalence_margin",
        stated=("paper", "seed"),
        loose=PARTS,
    ),
    Question(
        "memory_needed",
        "The memory contributes: trained without it LOLM is worse.",
        "nats",
        "above",
        "parts",
        "lolm_no_memory",
        margin="equivalence_margin",
        stated=("paper", "seed"),
        loose=PARTS,
    ),
    Question(
        "regime_needed",
        "The regime codes contribute: trained without them LOLM is worse.",
        "nats",
        "above",
        "parts",
        "lolm_no_regime",
        margin="equivalence_margin",
        stated=("paper", "seed"),
        loose=PARTS,
    ),
    Question(
        "ssm_special",
        "It takes a state-space model: with Transformer blocks in its place LOLM is worse.",
        "nats",
        "above",
        "inversion",
        "lolm_transformer_latent",
        margin="equivalence_margin",
        stated=("seed",),
        loose="The blocks read the same h, in series; equal parameters.",
    ),
    Question(
        "inversion_ssm",
        "The inversion comes from the SSM: with Transformer blocks in its place there is less of it.",
        "inversion",
        "below",
        "inversion",
        "lolm_transformer_latent",
        margin="inversion_margin",
        stated=("seed",),
        loose="S is the declared statistic; a part of any stack is missed when it is gone.",
    ),
    Question(
        "inversion_parallel",
        "The inversion statistic is that of two parallel paths: it is the same where the SSM reads the embeddings.",
        "inversion",
        "equal",
        "inversion",
        "lolm_parallel",
        margin="inversion_margin",
        stated=("seed", "paper"),
        loose="As published, z is computed from h; only this arm has two parallel paths.",
    ),
    Question(
        "gate_scalar",
        "A gate per dimension is better than one scalar gate.",
        "nats",
        "above",
        "gates",
        "lolm_scalar_gate",
        margin="equivalence_margin",
        stated=("seed", "paper"),
        loose=GATE,
    ),
    Question(
        "gate_sum",
        "The gate is better than adding the streams.",
        "nats",
        "above",
        "gates",
        "lolm_sum",
        margin="equivalence_margin",
        stated=("seed", "paper"),
        loose=GATE,
    ),
    Question(
        "gate_static",
        "A gate that reads the context is better than a learned constant per dimension.",
        "nats",
        "above",
        "gates",
        "lolm_static_gate",
        margin="equivalence_margin",
        stated=("seed", "paper"),
        loose=GATE,
    ),
    Question(
        "gate_half",
        "The gate is better than a fixed half.",
        "nats",
        "above",
        "gates",
        "lolm_half",
        margin="equivalence_margin",
        stated=("seed", "paper"),
        loose=GATE,
    ),
    Question(
        "gate_free",
        "The gate's level is discovered: without the losses that set it a target it ends where it does with them.",
        "gate",
        "equal",
        "gate",
        "lolm_free_gate",
        margin="gate_margin",
        stated=("paper", "scaling"),
        loose="Both the competitive and the manifestation loss are off.",
    ),
    Question(
        "gate_bias",
        "The gate's level is an equilibrium: from an initial bias of +0.5 it ends where it does from −0.5.",
        "gate",
        "equal",
        "gate",
        "lolm_bias_plus",
        margin="gate_margin",
        stated=("paper", "scaling"),
        loose="The target of the competitive loss is the same in both.",
    ),
    Question(
        "cpc_needed",
        "The contrastive loss shapes the latent stream: trained without it LOLM is worse.",
        "nats",
        "above",
        "cpc",
        "lolm_no_cpc",
        margin="equivalence_margin",
        stated=("surface", "paper"),
        loose="All other losses stay.",
    ),
    Question(
        "cpc_inversion",
        "The contrastive loss makes the dependency on the latent stream: without it there is less inversion.",
        "inversion",
        "below",
        "cpc",
        "lolm_no_cpc",
        margin="inversion_margin",
        stated=("surface", "seed"),
    ),
    Question(
        "cpc_position",
        "The contrastive loss learns more than position: negatives from other texts serve no better.",
        "nats",
        "not below",
        "cpc",
        "lolm_cpc_documents",
        margin="equivalence_margin",
        loose="Position still rules out all but one candidate of each other text. Chance differs between the two, so the "
        "contrastive losses themselves are not compared.",
    ),
    Question(
        "isolation_enables",
        "Isolating the regime codes' gradient at the fusion enables the inversion.",
        "inversion",
        "above",
        "isolation",
        factor="regime_fusion",
        margin="inversion_margin",
        stated=("seed",),
        loose="A main effect of a fraction of a factorial: it stands for its aliases too.",
    ),
    Question(
        "isolation_gate",
        "Isolation is complete: stopping the regime codes' gradient at the gate too changes no code usage.",
        "usage",
        "equal",
        "isolation",
        factor="regime_gate",
        margin="gate_margin",
        stated=("paper",),
        loose="The paper says the layer is trained by its own losses alone; the gate's path is open in every version.",
    ),
    Question(
        "separate_objectives",
        "Each stream has its own objective: closing the token loss's path into the SSM costs nothing.",
        "nats",
        "not above",
        "isolation",
        factor="latent_fusion",
        margin="equivalence_margin",
        stated=("surface",),
        loose="The path through the gate is a factor of its own.",
    ),
    Question(
        "isolation_usage",
        "Isolation keeps the regime codes in use; without it they collapse.",
        "usage",
        "above",
        "regime",
        factor="isolation",
        margin="gate_margin",
        published=("codes_20m", "codes_304m"),
        loose="Published together with a clamp, another entropy sign and a balance loss, each a factor of its own here.",
    ),
    Question(
        "balance_usage",
        "A balance loss alone does not keep the codes in use.",
        "usage",
        "equal",
        "regime",
        factor="balance",
        margin="gate_margin",
        stated=("configs",),
        loose="The authors report a collapse with a balance weight of 0.5.",
    ),
)


def claims(results: ScaleResults) -> list[Claim]:
    """One entry a question, and what the wiring itself decides."""
    return [*(_claim(results, question) for question in QUESTIONS), _parallel(results), _ladder(results)]


def _claim(results: ScaleResults, q: Question) -> Claim:
    found, effect = _found(results, q)
    if found is None:
        what = f"arm {q.arm}" if q.arm else f"factor {q.factor}"
        why = f"These runs do not measure {OUTCOMES[q.outcome].name} for {what}; study {q.study} does."
        return untestable(q.id, GROUP, q.statement, q.published, why, needs(results.params, results.scale, q.study), q.stated)
    margin = 0.0 if q.margin is None else float(getattr(results.analysis, q.margin))
    unit = OUTCOMES[q.outcome].unit
    if q.direction == "equal":
        verdict, rule = _equal(found, margin), f"holds if the whole interval lies within ±{margin:g}, fails if none of it does"
    against = -margin if q.direction in ("below", "not below") else margin
    if q.direction in ("above", "not below"):
        verdict, rule = above(found, against), f"holds if the interval lies above {against:g}, fails if none of it does"
    elif q.direction in ("below", "not above"):
        verdict, rule = below(found, against), f"holds if the interval lies below {against:g}, fails if none of it does"
    name = results.label(q.arm) if q.arm else f"the high level of {q.factor.replace('_', ' ')}"  # type: ignore[union-attr]
    other = f"“{results.label(results.subject)}”" if q.arm and results.subject else "the low level"
    why = f"{OUTCOMES[q.outcome].name[0].upper()}{OUTCOMES[q.outcome].name[1:]} of {name} minus that of {other}: "
    why += f"{show(found.value, unit)}, against ±{margin:g}" if q.direction == "equal" else why_of(found, against, unit)
    why += f". {q.loose}" if q.loose else "."
    asked = len(arm_effects(results, q.outcome) if q.arm else main_effects(results, q.outcome))
    if effect is not None and effect.adjusted is not None:
        why += f" Holm-adjusted p over {asked} comparisons: {effect.adjusted:.2g}; the interval is not corrected."
        if not q.equivalence and verdict == HOLDS and effect.adjusted >= 1 - results.analysis.confidence:
            verdict, why = INCONCLUSIVE, f"{why} After the correction no difference is shown."
    if q.outcome == "inversion" and not q.equivalence and verdict == HOLDS and not _inverted(results):
        verdict, why = (
            INCONCLUSIVE,
            f"{why} S differs, but LOLM is not shown to be inverted: there is nothing to explain.",
        )
    definition = f"{OUTCOMES[q.outcome].definition}: {name} minus {other}, paired by seed"
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


def _found(results: ScaleResults, q: Question) -> tuple[Estimate | None, Effect | None]:
    if q.arm is not None:
        effects = {e.name: e for e in arm_effects(results, q.outcome)} if results.subject else {}
        return arm_effect(results, q.arm, q.outcome) if results.subject else None, effects.get(q.arm)
    effects = {e.name: e for e in main_effects(results, q.outcome)}
    found = effects.get(q.factor or "")
    return (None if found is None else found.difference), found


def _inverted(results: ScaleResults) -> bool:
    """Whether the subject shows the inversion, by the declared rule."""
    runs = results.of(results.subject) if results.subject else ()
    found = over_seeds(runs, primary(results), results.analysis.confidence)
    return found is not None and call(found, results.analysis.inversion_margin) == INVERTED


def _equal(found: Estimate, margin: float) -> str:
    if found.interval is None:
        return INCONCLUSIVE
    low, high = found.interval
    return HOLDS if -margin < low and high < margin else FAILS if low >= margin or high <= -margin else INCONCLUSIVE


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
