"""Puts what `make faults` has tried into docs/reliability.md, between its two marks: `python tests/faults/table.py`."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE, ROWS = ROOT / "docs/reliability.md", ROOT / ".scratch/faults"
LOADS = ROWS / "load"


def table(rows: list[list]) -> str:
    """One line a fault and place; the same fault in several places with one message in one line."""
    merged: dict[tuple[str, str], list] = defaultdict(lambda: [[], 0, 0])
    for fault, where, tried, survived, said in rows:
        entry = merged[fault, shown(said)]
        entry[0] += [re.sub(r"<(\w+)>", r"‹\1›", re.sub(r"^(artifacts|reports)/<scale>/", "", where))]
        entry[1] += tried
        entry[2] += survived
    by_fault: dict[str, list] = {}
    for (fault, said), (where, tried, survived) in merged.items():
        entry = by_fault.setdefault(fault, [[], 0, 0, ""])
        entry[0] += where
        entry[1] += tried
        entry[2] += survived
        entry[3] = entry[3] or said
    lines = ["| fault | where | tried | survived | for example |", "|---|---|---|---|---|"]
    for fault, (where, tried, survived, said) in by_fault.items():
        lines.append(f"| {fault} | {', '.join(dict.fromkeys(where))} | {tried:,} | {survived:,} | {said} |")
    tried, survived = (sum(entry[i] for entry in by_fault.values()) for i in (1, 2))
    return "\n".join([*lines, f"| all {len(by_fault)} kinds | | {tried:,} | {survived:,} | |"]) + "\n"


def shown(said: str) -> str:
    """A message as a cell: without folders of the test and numbers that differ each time."""
    said = re.sub(r"(^|[\s'\"(])/\S*/(?=[^/\s])", r"\1", said)
    said = re.sub(r"\.\d+-[^/'\s]+\.tmp", ".<process>.tmp", said)
    said = re.sub(r"[0-9a-f]{16}", "<run>", said).replace("|", "\\|").replace("smoke", "<scale>")
    said = re.sub(r"<(\w+)>", r"‹\1›", said)
    return f"`{said[:157]}…`" if len(said) > 160 else f"`{said}`" if said else ""


def load_table(loads: list[dict]) -> str:
    """One line for what was loaded and how much of it; the slope is that of log seconds over log size from the size before."""
    lines = ["| what | size | processor seconds | slope | peak memory, MiB | |", "|---|---|---|---|---|---|"]
    before: dict[str, dict] = {}
    for load in sorted(loads, key=lambda load: (load["what"], load["size"])):
        last = before.get(load["what"])
        seconds = load["processor_seconds"]
        steep = math.log(seconds / last["processor_seconds"]) / math.log(load["size"] / last["size"]) if last else None
        cells = (f"{load['size']:,} {load['unit']}", f"{seconds:.1f}", "" if steep is None else f"{steep:.2f}")
        lines.append(f"| {load['what']} | {' | '.join(cells)} | {load['mebibytes']:,.0f} | {load['note']} |")
        before[load["what"]] = load
    return "\n".join(lines) + "\n"


def put(text: str, name: str, table: str) -> str:
    """The page with a table between its two marks."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, _, rest = text.partition(begin)
    return before + begin + table + end + rest.partition(end)[2]


def main() -> None:
    rows = [row for path in sorted(ROWS.glob("*.json")) for row in json.loads(path.read_text(encoding="utf-8"))]
    if not rows:
        sys.exit(f"error: {ROWS} holds no rows; `make faults` runs the suite and then this")
    text = put(PAGE.read_text(encoding="utf-8"), "faults", table(rows))
    loads = [load for path in sorted(LOADS.glob("*.json")) for load in json.loads(path.read_text(encoding="utf-8"))]
    PAGE.write_text(put(text, "loads", load_table(loads)) if loads else text, encoding="utf-8")
    tried, kinds = sum(row[2] for row in rows), len({row[0] for row in rows})
    print(f"{tried:,} tries of {kinds} kinds of fault, into {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
