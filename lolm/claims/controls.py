"""Controls, figures, needs and facts of the entries whose own modules state only the number and the rule."""

from __future__ import annotations

from dataclasses import replace

from lolm.analysis.effects import arm_effect
from lolm.analysis.statistics import t_interval
from lolm.claims.components import gate_controls
from lolm.claims.dependency import again, readout_controls
from lolm.claims.early import conditioning
from lolm.claims.ledger import UNTESTABLE, Claim, Control, Quantity, unmeasured
from lolm.claims.required_runs import needs
from lolm.records.results import ScaleResults

FIGURES = {
    "efficiency_2x": "multipliers",
    "efficiency_direction": "multipliers",
    "gap_25_9": "loss_at_ends",
    "gap_16_8": "learning_curves",
    "gap_15": "learning_curves",
    "matched_budget": "loss_at_ends",
    "early_lead": "lead",
    "gate_level": "gate_path",
    "gate_surface": "gate_path",
    "gate_reversal": "gate_path",
    "gate_target": "gate_path",
    "gate_share": "contributions",
    "inversion": "inversion_statistic",
    "inversion_over_training": "damage",
    "inversion_control": "damage",
    "latent_alone": "ablation_sweep",
    "surface_alone": "ablation_sweep",
    "regime_codes": "regimes",
}
STATED = {"gate_target": ("paper", "scaling"), "efficiency_direction": ("seed", "paper"), "matched_budget": ("paper",)}
STUDIES = {  # which study at the same scale holds what a claim's controls ask for
    "gate_target": "gate",
    "gate_level": "gate",
    "gate_share": "gate",
    "inversion": "inversion",
    "inversion_preregistered": "inversion",
    "inversion_control": "inversion",
    "memory_contribution": "parts",
    "regime_contribution": "parts",
    "regime_codes": "regime",
    "cpc_chance": "cpc",
    "regime_entropy": "regime",
    "memory_loss": "parts",
}

# entries on one published fact -> the one that decides for it
FACTS = {
    **dict.fromkeys(("inversion", "surface_alone", "gate_one_ratio", "component_gate_one"), "inversion_preregistered"),
    "component_gate_half": "half_worse_than_one",
    **{f"level_gate_{size}": "gate_level" for size in ("20m", "149m", "304m", "157b")},
    "gate_reversal_everywhere": "gate_reversal",
    "early_lead": "faster_43",
    **{f"level_codes_{size}": "regime_codes" for size in ("304m", "157b")},
    **{f"level_codes_{size}": "regime_collapse" for size in ("20m", "149m")},
    "isolation_usage": "regime_collapse",
}
AGAINST = (
    "behind_at_end",
    "early_lead",
    "scratch_no_ssm",
    "scratch_no_regime",
    "flops_overhead",
    "downstream_wikitext",
    "downstream_tasks",
)


def with_controls(results: ScaleResults, claim: Claim) -> Claim:
    """The claim with the controls, figure, study and fact that belong to it; what it has of its own stays."""
    controls = claim.controls or (tuple(_controls(results, claim.id)) if claim.verdict != UNTESTABLE else ())
    wanted = claim.needs
    if wanted is None and claim.id in STUDIES and STUDIES[claim.id] != results.study:
        wanted = needs(results.params, results.scale, STUDIES[claim.id])
    return replace(
        claim,
        controls=controls,
        figure=claim.figure or (FIGURES.get(claim.id) if claim.verdict != UNTESTABLE else None),
        needs=wanted,
        stated=claim.stated or STATED.get(claim.id, ()),
        fact=FACTS.get(claim.id),
        against=claim.id in AGAINST,
    )


def _controls(results: ScaleResults, id: str) -> list[Control]:
    if id.startswith(("efficiency_", "gap_", "matched_budget", "early_lead")):
        return [*conditioning(results), *_deep(results), *_tuning(results)]
    if id in ("latent_alone", "surface_alone", "inversion", "inversion_over_training"):
        runs = results.of(results.subject) if results.subject else ()
        return [*gate_controls(results, runs)[:2], *readout_controls(results, runs)]
    if id in ("gate_share", "gate_surface", "gate_level"):
        return _addends(results)
    if id in ("gate_target", "gate_reversal"):
        return [
            _arm(
                results,
                "lolm_free_gate",
                "gate",
                "Without the losses that give the gate a target; a level or path set by them goes.",
            )
        ]
    if id in ("memory_contribution", "regime_contribution"):
        stream = id.split("_")[0]
        sentence = (
            f"What the {stream} buys in training, at equal parameters; the damage says what a trained model has come to expect."
        )
        return [_permuted(results, stream), _arm(results, f"lolm_no_{stream}", "nats", sentence)]
    if id == "cpc_chance":
        return [
            _arm(
                results,
                "lolm_cpc_positions",
                "nats",
                "With negatives at the same position of other texts, position tells nothing.",
            )
        ]
    return []


def _arm(results: ScaleResults, arm: str, outcome: str, sentence: str) -> Control:
    found = arm_effect(results, arm, outcome) if results.subject else None
    text = f"{'mean gate' if outcome == 'gate' else 'test loss'} of arm {arm} minus the subject's"
    unit = "gate" if outcome == "gate" else "nats"
    quantity = (
        unmeasured(unit, text, f"arm {arm} is not in study {results.study}") if found is None else Quantity.of(found, unit, text)
    )
    return Control(f"arm {arm}", quantity, sentence)


def _deep(results: ScaleResults) -> list[Control]:
    if results.baseline == "transformer_deep":
        return []
    sentence = "LOLM is deeper than it says, L + K layers in series; a Transformer of that depth may have the same loss."
    return [_arm(results, "transformer_deep", "nats", sentence)]


def _tuning(results: ScaleResults) -> list[Control]:
    arms = [arm for arm in (results.subject, results.baseline) if arm and arm in results.sweeps]
    if len(arms) < 2:
        note = "no sweep of both arms is part of these runs"
        quantity = unmeasured("x", "peak learning rate of LOLM over the baseline's", note)
    else:
        rates = [results.sweeps[arm]["chosen"] for arm in arms]
        edge = [results.label(arm) for arm in arms if not results.sweeps[arm]["inside"]]
        note = f"At the edge of its grid: {', '.join(edge)}." if edge else "Both lie inside their grids."
        quantity = Quantity(
            rates[0] / rates[1], "x", "peak learning rate of LOLM over the baseline's, each by its own sweep", note=note
        )
    return [
        Control(
            "learning rates", quantity, "A rate that suits one arm makes the other look slow; published with one rate for both."
        )
    ]


def _addends(results: ScaleResults) -> list[Control]:
    runs = results.of(results.subject) if results.subject else ()
    rows = [run.contribution() for run in runs]
    made = []
    for key, unit, text in (
        ("variance_share", "share", "latent addend's share of the variance of o"),
        ("logit_centred", "logits", "latent addend's contribution to the true token's centred logit"),
        ("mean_norm", "length", "mean length of the latent addend"),
    ):
        values = [None if row is None or "latent" not in row["addends"] else row["addends"]["latent"][key] for row in rows]
        quantity = (
            unmeasured(unit, text, again(results))
            if not values or None in values
            else Quantity.of(t_interval(values, results.analysis.confidence), unit, text)  # type: ignore[arg-type]
        )
        sentence = (
            "The gate multiplies branches whose length and direction are free; what an addend contributes is another number."
        )
        made.append(Control(text.split(" of ")[0] if unit == "length" else text, quantity, sentence))
    return made


def _permuted(results: ScaleResults, stream: str) -> Control:
    runs = results.of(results.subject) if results.subject else ()
    name = f"{stream}_permuted"
    values = [run.damage(name) for run in runs]
    text = f"damage when the {stream}'s output is permuted over positions"
    quantity = (
        unmeasured("nats", text, again(results))
        if not values or None in values
        else Quantity.of(t_interval(values, results.analysis.confidence), "nats", text)  # type: ignore[arg-type]
    )
    return Control(f"{stream} permuted", quantity, "Keeps every value and takes away only which position gets which.")
