"""What a study comes to before anything is run: sizes and costs of its arms, and what each stage of the pipeline is to make."""

from __future__ import annotations

from typing import Any

from lolm.accounting.count import account_run
from lolm.accounting.matching import default_dial, matching
from lolm.config import ConfigError, Params, resolve_run, scale_of, to_mapping
from lolm.records.schema import PlanRow


def plan_rows(params: Params, scale: str, study: str) -> dict[str, PlanRow]:
    """Sizes and costs by arm; ``mismatch`` of its parameters relative to the subject's.

    Raises:
        ConfigError: an arm has no size, or the baseline of a matched study has other parameters than its subject.
    """
    selected = params.select(scale, study).selected
    runs = {arm: resolve_run(params, scale, arm, selected.seeds[0]) for arm in selected.arms}
    costs = {arm: account_run(run) for arm, run in runs.items()}
    reference = costs[selected.subject]["parameters"]["total"]
    rows = {
        arm: PlanRow(
            parameters=cost["parameters"]["total"],
            parameters_active=cost["parameters"]["active"],
            mismatch=cost["parameters"]["total"] / reference - 1,
            flops_per_token_forward=cost["flops_per_token"]["forward"],
            flops_per_token_training=cost["flops_per_token"]["training"],
            flops_per_token_palm=cost["flops_per_token"]["palm"],
            state_elements=cost["state_elements"],
            state_bytes=cost["state_bytes"],
        )
        for arm, cost in costs.items()
    }
    baseline, allowed = selected.baseline, params.analysis.parameter_tolerance
    if selected.matched and abs(mismatch := rows[baseline].mismatch) > allowed:
        dial = default_dial(runs[baseline])
        value, left = matching(runs[baseline], reference, dial=dial)
        raise ConfigError(
            f"params.yaml: {baseline} has {rows[baseline].parameters:,} parameters, {selected.subject} {reference:,}: a mismatch "
            f"of {mismatch:.2%} (allowed: {allowed:.2%}); scales.{scale}.sizes.{baseline}.{dial}: {value} leaves {left:.2%}"
        )
    return rows


def stage_inputs(params: Params, scale: str, study: str) -> dict[str, dict[str, Any]]:
    """By stage, all of ``params.yaml`` that its result rests on, resolved: an edit that changes none of it reruns nothing."""
    params = params.select(scale, study)
    selected, preset = params.selected, scale_of(params, scale)
    runs = {arm: to_mapping(resolve_run(params, scale, arm, 0)) for arm in selected.arms}
    seeds = list(selected.seeds)
    return {
        "corpus": to_mapping(preset.corpus),
        "tokenizer": to_mapping(preset.tokenizer),
        "shards": to_mapping(preset.shards),
        "sweep": {"arms": runs, "sweep": to_mapping(preset.sweep)},
        "train": {"arms": runs, "seeds": seeds},
        "evaluate": {"arms": list(runs), "seeds": seeds, "evaluation": to_mapping(preset.evaluation)},
        "ablate": {"arms": list(runs), "seeds": seeds, "ablation": to_mapping(preset.ablation)},
        "recall": {
            "arms": {arm: runs[arm] for arm in selected.recall_arms},
            "seeds": seeds,
            "recall": to_mapping(preset.recall),
        },
        "report": {"study": to_mapping(selected), "analysis": to_mapping(params.analysis), "arms": runs},
    }
