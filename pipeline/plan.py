"""Exact parameters, FLOPs and state of every arm of a scale; stops when the baseline is not matched.

Prints the table and writes it to ``reports/<scale>/plan.json``.
"""

from __future__ import annotations

from lolm.analysis.accounting import account_run, matching_d_ff
from lolm.config import ConfigError, load_params, resolve_run
from lolm.records import write_json
from pipeline.stage import Paths, arguments, main


def plan() -> None:
    args = arguments(__doc__)
    params = load_params()
    runs = {arm: resolve_run(params, args.scale, arm, params.study.seeds[0]) for arm in params.study.arms}
    costs = {arm: account_run(run) for arm, run in runs.items()}
    subject = next((arm for arm in params.arms if params.architectures[arm].family == "lolm"), params.arms[0])
    reference = costs[subject]["parameters"]["total"]
    table = {
        arm: {
            "parameters": cost["parameters"]["total"],
            "mismatch": cost["parameters"]["total"] / reference - 1,
            "flops_per_token_forward": cost["flops_per_token"]["forward"],
            "flops_per_token_training": cost["flops_per_token"]["training"],
            "flops_per_token_palm": cost["flops_per_token"]["palm"],
            "state_elements": cost["state_elements"],
        }
        for arm, cost in costs.items()
    }
    columns = ("parameters", "mismatch", "flops_per_token_forward", "flops_per_token_training", "state_elements")
    print(f"{'arm':24}{'parameters':>14}{'mismatch':>10}{'FLOPs/token fwd':>18}{'train':>14}{'state':>10}")
    for arm, row in table.items():
        n, mismatch, forward, training, state = (row[c] for c in columns)
        print(f"{arm:24}{n:>14,}{mismatch:>10.2%}{forward:>18,.0f}{training:>14,.0f}{state:>10,}")
    baseline = params.baseline
    if baseline in table and abs(table[baseline]["mismatch"]) > params.analysis.parameter_tolerance:
        width, left = matching_d_ff(runs[baseline], reference)
        raise ConfigError(
            f"params.yaml: {baseline} has {table[baseline]['parameters']:,} parameters, {subject} {reference:,}: a mismatch of "
            f"{table[baseline]['mismatch']:.2%} (allowed: {params.analysis.parameter_tolerance:.2%}); "
            f"scales.{args.scale}.sizes.{baseline}.d_ff: {width} leaves {left:.2%}"
        )
    write_json(Paths(args.scale).reports / "plan.json", table)


if __name__ == "__main__":
    main(plan)
