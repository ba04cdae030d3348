"""Find the size that makes one arm as large, or as costly, as another.

``python -m pipeline.match --scale tiny --arm samba --to lolm [--of flops] [--dial d_ff]`` prints the line for ``params.yaml`` and
the mismatch that remains.
"""

from __future__ import annotations

import argparse
from typing import get_args

from lolm.accounting.matching import Quantity, closest, default_dial, full_name, quantity
from lolm.accounting.resolve import resolve_run
from lolm.config import load_params
from pipeline.stage import main

UNITS = {"parameters": "parameters", "active": "active parameters", "flops": "training FLOPs per token"}


def match() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", required=True, help="name of a preset under `scales` in params.yaml")
    parser.add_argument("--arm", required=True, help="the arm whose size is sought")
    parser.add_argument("--to", required=True, help="the arm that sets the budget")
    parser.add_argument("--of", default="parameters", choices=get_args(Quantity), help="what is made equal (default: parameters)")
    parser.add_argument("--dial", help="which size: d_ff, n_layers, d_model, mixers.<name>.d_inner (default: d_ff, else d_inner)")
    args = parser.parse_args()
    params = load_params()
    run, target = (resolve_run(params, args.scale, arm, params.selected.seeds[0]) for arm in (args.arm, args.to))
    dial = full_name(run, args.dial or default_dial(run))
    budget = quantity(target, args.of)
    found = closest(run, budget, args.of, dial)
    left = f"{found.mismatch:+.3%} from {args.to}'s {budget:,.0f} {UNITS[args.of]}"
    print(f"scales.{args.scale}.sizes.{args.arm}.{dial}: {found.value}  # {left}")


if __name__ == "__main__":
    main(match)
