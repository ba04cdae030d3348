"""What a study comes to before it is run: sizes and costs of its arms, and the values that each stage rests on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lolm.accounting.count import Costs, account_run
from lolm.accounting.matching import closest, default_dial
from lolm.accounting.resolve import resolve_run, size_origin
from lolm.config import ConfigError, Params, RunConfig, arms_of, scale_of, tuned_arm
from lolm.config.strict import Problem
from lolm.records import essence
from lolm.records.schema import PlanRow

ON_TEXT = {"steps", "seq_len", "batch_size", "accumulation", "schedule", "warmup_steps", "decay_fraction", "cooldowns"} | {
    "schedule_steps", "snapshots", "log_every", "eval_every", "eval_tokens", "eval_batch_size", "checkpoint_every"
}  # fmt: skip


def plan_rows(params: Params, scale: str, study: str) -> dict[str, PlanRow]:
    """Exact sizes and costs of every arm of a study, on the meta device.

    Raises:
        ConfigError: arms that cannot be resolved or built, all of them; or the study's baseline is not matched to its subject
            within ``analysis.parameter_tolerance``, and the message says what would match it.
    """
    selected = params.select(scale, study).selected
    runs, costs, problems = {}, {}, []
    for arm in selected.arms:
        try:
            runs[arm] = resolve_run(params, scale, arm, selected.seeds[0])
            costs[arm] = account_run(runs[arm])
        except ConfigError as error:  # of a mixer, which knows no key
            where = f"scales.{scale}.sizes.{arm}"
            problems += [one if one.key or where in one.text else Problem(where, one.text) for one in error.problems]
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    reference = costs[selected.subject].parameters.total
    rows = {arm: _row(cost, reference) for arm, cost in costs.items()}
    if selected.matched and selected.baseline:
        _refuse_unmatched(params, runs[selected.baseline], selected.subject, rows[selected.baseline], reference)
    return rows


def _row(costs: Costs, reference: int) -> PlanRow:
    return PlanRow(
        parameters=costs.parameters.total,
        parameters_active=costs.parameters.active,
        mismatch=costs.parameters.total / reference - 1,
        flops_per_token_forward=costs.flops_per_token.forward,
        flops_per_token_training=costs.flops_per_token.training,
        flops_per_token_palm=costs.flops_per_token.palm,
        state_elements=costs.state_elements,
        state_bytes=costs.state_bytes,
    )


def _refuse_unmatched(params: Params, baseline: RunConfig, subject: str, row: PlanRow, reference: int) -> None:
    allowed = params.analysis.parameter_tolerance
    if abs(row.mismatch) <= allowed:
        return
    where, origin = f"scales.{baseline.scale}.sizes.{baseline.arm}", size_origin(params, baseline.scale, baseline.arm)
    try:
        dial = default_dial(baseline) if origin is None else origin.dial
        found = closest(baseline, reference, dial=dial)
        better = f"{where}.{dial}: {found.value} leaves {found.mismatch:.2%}"
        better += "" if abs(found.mismatch) <= allowed else ", which is still too much; choose another depth"
    except ConfigError as error:
        better = str(error)
    rounded = "" if origin is None else f" ({origin})"
    raise ConfigError(
        f"{where}: {baseline.arm} has {row.parameters:,} parameters{rounded}, {subject} {reference:,}: a mismatch of "
        f"{row.mismatch:.2%} (allowed: {allowed:.2%}); {better}"
    )


def plan_notes(params: Params, scale: str, study: str, rows: dict[str, PlanRow]) -> list[str]:
    """What a reader of the rows should not overlook: arms that are not matched to the subject, and why a derived one is not."""
    selected, allowed = params.select(scale, study).selected, params.analysis.parameter_tolerance
    reference, notes = rows[selected.subject].parameters, []
    for arm, row in rows.items():
        if not selected.matched or abs(row.mismatch) <= allowed:
            continue
        active, origin = row.parameters_active / reference - 1, size_origin(params, scale, arm)
        met = f"; in the parameters a token meets, by {active:+.2%}" if active != row.mismatch else ""
        why = f"; {origin}" if origin is not None and abs(origin.mismatch) > allowed else ""
        notes.append(f"{arm} differs from {selected.subject} by {row.mismatch:+.2%} in parameters{met}{why}")
    return notes


def stage_inputs(params: Params, scale: str, study: str) -> dict[str, dict[str, Any]]:
    """By stage, the resolved values that it rests on, as JSON has them; settings at their defaults are left out.

    A stage whose values are the same has nothing to make, whatever was edited. Code, data and the results of other stages are
    not among them.

    Raises:
        ConfigError: an arm of the study has no size at the scale, or cannot be resolved.
    """
    params = params.select(scale, study)
    preset, chosen = scale_of(params, scale), params.selected
    tuned = {arm: tuned_arm(params, scale, arm) for arm in chosen.arms}
    every = {arm: _of_run(resolve_run(params, scale, arm, chosen.seeds[0])) for arm in (*chosen.arms, *tuned.values())}
    runs, swept = ({arm: every[arm] for arm in arms} for arms in (chosen.arms, tuned.values()))
    seeds = list(chosen.seeds)
    made = {"arms": list(chosen.arms), "seeds": seeds}
    recall = {arm: {**runs[arm], "training": _without_text(runs[arm]["training"])} for arm in chosen.recall_arms}
    return {
        "corpus": essence(preset.corpus),
        "tokenizer": essence(preset.tokenizer),
        "shards": essence(preset.shards),
        "sweep": {"sweep": essence(preset.sweep), "runs": swept},
        "train": {"seeds": seeds, "runs": runs, "tuned": tuned},
        "evaluate": {"evaluation": essence(preset.evaluation), **made},
        "ablate": {"ablation": essence(preset.ablation), **made},
        "layers": {"layers": essence(preset.layers), "arms": list(params.layers_arms), "seeds": seeds},
        "recall": {"recall": essence(preset.recall), "seeds": seeds, "runs": recall, "tuned": tuned},
        "report": {
            "analysis": essence(params.analysis),
            "study": essence(chosen),
            "studies": {name: essence(other) for name, other in params.studies.items()},
            "runs": runs,
            "architectures": {arm: essence(params.architectures[arm]) for arm in arms_of(params, scale)},
        },
    }


def _without_text(training: dict[str, Any]) -> dict[str, Any]:
    """What the synthetic tasks have of the protocol on text; lengths and schedule are their own."""
    return {name: value for name, value in training.items() if name not in ON_TEXT}


def _of_run(run: RunConfig) -> dict[str, Any]:
    """A run without its seed, and without the names that stand in the place of the value."""
    values = essence(replace(run, seed=0))
    return {name: value for name, value in values.items() if name not in ("scale", "arm", "seed")}
