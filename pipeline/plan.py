"""Exact parameters, FLOPs and state of every arm of the study, and what each stage is to make; refuses a baseline that is not
matched.

Writes ``artifacts/<scale>/plan/<stage>.json``, resolved from ``params.yaml``: each stage depends on its own file, so that an edit
makes again what it touches and nothing else.
"""

from __future__ import annotations

import json

from lolm.accounting.plan import plan_notes, plan_rows, stage_inputs
from lolm.accounting.resolve import size_origin
from lolm.config import Params
from lolm.records import Layout, write_text
from lolm.records.schema import PlanRow
from pipeline.estimate import estimate, pieces_of
from pipeline.stage import arguments, main, opened

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
    params = opened(arguments(__doc__)).params
    rows = plan_rows(params, params.scale, params.study)
    print(table(rows))
    for arm in rows:
        if origin := size_origin(params, params.scale, arm):
            print(f"{arm}: {origin}")
    for note in plan_notes(params, params.scale, params.study, rows):
        print(f"note: {note}")
    write_plan(params)
    print(f"the whole study, one run at a time: {estimate(params, pieces_of(params)).text(1)}")


def write_plan(params: Params) -> list[str]:
    """Write the stages' files where their content changed; returns the stages whose it did."""
    layout, changed = Layout(params.scale), []
    for stage, inputs in stage_inputs(params, params.scale, params.study).items():
        path, text = layout.plan(stage), json.dumps(inputs, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            changed.append(stage)
    return changed


def table(rows: dict[str, PlanRow]) -> str:
    """Sizes and costs, an arm a line."""
    width = max(len(arm) for arm in rows) + 1
    lines = [" " * width + "".join(f"{heading:>17}" for heading in HEADINGS.values())]
    for arm, row in rows.items():
        cells = (f"{row.mismatch:.2%}" if name == "mismatch" else f"{getattr(row, name):,.0f}" for name in HEADINGS)
        lines.append(f"{arm:{width}}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main(plan)
