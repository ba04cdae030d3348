"""Exact parameters, FLOPs and state of every arm of the study; stops when the baseline is not matched.

Prints the table and writes it to ``reports/<scale>/<study>/plan.json``.
"""

from __future__ import annotations

from typing import Any

from lolm.accounting.count import account_run
from lolm.accounting.matching import default_dial, matching
from lolm.config import ConfigError, RunConfig, load_params, resolve_run
from lolm.config.strict import nearest
from lolm.records import write_json
from pipeline.estimate import estimate, timed_stages
from pipeline.stage import Paths, arguments, main

HEADINGS = {
    "parameters": "parameters",
    "parameters_active": "active",
    "mismatch": "mismatch",
    "flops_per_token_forward": "FLOPs/token fwd",
    "flops_per_token_training": "training",
    "flops_per_token_palm": "PaLM",
    "state_elements": "state",
    "state_bytes": "bytes",
}


def row(run: RunConfig, reference: int) -> dict[str, Any]:
    """Sizes and costs of an arm; ``mismatch`` of its parameters relative to those of the subject."""
    cost = account_run(run)
    return {
        "parameters": cost["parameters"]["total"],
        "parameters_active": cost["parameters"]["active"],
        "mismatch": cost["parameters"]["total"] / reference - 1,
        "flops_per_token_forward": cost["flops_per_token"]["forward"],
        "flops_per_token_training": cost["flops_per_token"]["training"],
        "flops_per_token_palm": cost["flops_per_token"]["palm"],
        "state_elements": cost["state_elements"],
        "state_bytes": cost["state_bytes"],
    }


def plan() -> None:
    args = arguments(__doc__)
    params = load_params()
    study = params.selected
    subject, baseline = study.subject, study.baseline
    runs = {arm: resolve_run(params, args.scale, arm, study.seeds[0]) for arm in study.arms}
    for role, arm in (("subject", subject), ("baseline", baseline)):
        if arm not in study.arms:
            raise ConfigError(f"study {study.name!r}: {role} {arm!r} is not among its arms{nearest(arm, study.arms)}")
    reference = account_run(runs[subject])["parameters"]["total"]
    table = {arm: row(run, reference) for arm, run in runs.items()}
    print(f"{'arm':24}" + "".join(f"{heading:>17}" for heading in HEADINGS.values()))
    for arm, values in table.items():
        cells = (f"{values[name]:.2%}" if name == "mismatch" else f"{values[name]:,.0f}" for name in HEADINGS)
        print(f"{arm:24}" + "".join(f"{cell:>17}" for cell in cells))
    allowed = params.analysis.parameter_tolerance
    for arm, values in table.items():
        active = values["parameters_active"] / reference - 1
        if study.matched and abs(values["mismatch"]) > allowed:
            note = f"; in the parameters a token meets, by {active:+.2%}" if active != values["mismatch"] else ""
            print(f"note: {arm} differs from {subject} by {values['mismatch']:+.2%} in parameters{note}")
    if study.matched and abs(mismatch := table[baseline]["mismatch"]) > allowed:
        dial = default_dial(runs[baseline])
        value, left = matching(runs[baseline], reference, dial=dial)
        raise ConfigError(
            f"params.yaml: {baseline} has {table[baseline]['parameters']:,} parameters, {subject} {reference:,}: a mismatch of "
            f"{mismatch:.2%} (allowed: {allowed:.2%}); scales.{args.scale}.sizes.{baseline}.{dial}: {value} leaves {left:.2%}"
        )
    write_json(Paths(args.scale).study(study.name) / "plan.json", table)
    print(f"the whole study, one run at a time: {estimate(params, args.scale, timed_stages(params, args.scale)).text(1)}")


if __name__ == "__main__":
    main(plan)
