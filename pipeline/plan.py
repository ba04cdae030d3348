"""Exact parameters, FLOPs and state of every arm of the study; stops when the baseline is not matched.

Prints the table and writes it to ``reports/<scale>/<study>/plan.json``.
"""

from __future__ import annotations

from dataclasses import asdict

from lolm.accounting.plan import plan_notes, plan_rows
from lolm.config import load_params
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


def plan() -> None:
    args = arguments(__doc__)
    params = load_params()
    study = params.selected
    rows = plan_rows(params, args.scale, params.study)
    table = {arm: asdict(row) for arm, row in rows.items()}
    print(f"{'arm':24}" + "".join(f"{heading:>17}" for heading in HEADINGS.values()))
    for arm, values in table.items():
        cells = (f"{values[name]:.2%}" if name == "mismatch" else f"{values[name]:,.0f}" for name in HEADINGS)
        print(f"{arm:24}" + "".join(f"{cell:>17}" for cell in cells))
    for note in plan_notes(params, args.scale, params.study, rows):
        print(f"note: {note}")
    write_json(Paths(args.scale).study(study.name) / "plan.json", table)
    print(f"the whole study, one run at a time: {estimate(params, args.scale, timed_stages(params, args.scale)).text(1)}")


if __name__ == "__main__":
    main(plan)
