"""What the committed records say: `python tests/golden/ledger.py --reason "why it changed"` writes the golden ledger anew.

By study and claim the verdict and our numbers, from the records in ``reports/``. The numbers of ``main`` and ``inversion`` at
``tiny`` were the same, to the last bit, from the code that the records were made with and from the code that replaced it.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from lolm.accounting.counting import Counting
from lolm.claims import build_ledger
from lolm.config import load_params
from lolm.records.results import load_results, load_run

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("ledger.json")
SCALE, STUDIES = "tiny", ("main", "inversion")
PARAMS = load_params(ROOT / "params.yaml")
read_run = cache(load_run)  # the studies share runs


class Uncosted(Counting):
    """Counts what claims are on, and not what it would cost to make runs, which takes seconds and is not in the golden."""

    def training_flops(self, scale: str, arm: str) -> float:
        return 0.0


def ledger(study: str) -> dict[str, Any]:
    """By claim, its verdict and our numbers."""
    results = load_results(ROOT, SCALE, PARAMS, study, read_run=read_run)
    records = [claim.to_record() for claim in build_ledger(results, counting=Uncosted(PARAMS))]
    return {record["id"]: {"verdict": record["verdict"]} | {kind: _number(record[kind]) for kind in KINDS} for record in records}


KINDS = ("as_published", "sound")


def _number(quantity: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if quantity is None else {key: quantity[key] for key in ("value", "interval", "n_seeds")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reason", required=True, help="why the ledger changes; kept beside it")
    reason = parser.parse_args().reason
    history = json.loads(FILE.read_text(encoding="utf-8"))["history"] if FILE.exists() else []
    found = {"history": [*history, f"{date.today()}: {reason}"], **{study: ledger(study) for study in STUDIES}}
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{FILE}: written; commit it with that reason")


if __name__ == "__main__":
    main()
