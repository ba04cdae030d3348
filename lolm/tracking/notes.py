"""The description of a run: what it is, how well it predicts, and the verdicts that it took part in."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from lolm.records import Layout
from lolm.records.escape import markdown
from lolm.records.results import RunRecord
from lolm.records.schema import RunHeader

LONGEST = 8000  # characters, MLflow's limit for a tag
LEDGER = "claims.json"  # of a scale, over its studies


def first_note(header: RunHeader) -> str:
    """Of a run that goes on."""
    run, training = header.run, header.run.training
    tokens = training.steps * training.accumulation * training.batch_size * training.seq_len
    return (
        f"**{markdown(header.label)}** (arm `{run.arm}`), scale {run.scale}, seed {run.seed}: "
        f"{header.parameters.total:,} parameters, {tokens:,} tokens, {header.flops_per_token.training * tokens:.2g} FLOPs."
    )


def note_of(run: RunRecord, layout: Layout) -> str:
    """Of a finished run; as long as MLflow takes."""
    from lolm.claims.ledger import decided_with  # these bring libraries that a run that goes on does without
    from lolm.claims.numbers import show

    found = run.evaluation
    lines = [first_note(run.header), ""]
    if found is not None:
        lines += [
            f"Test loss {found.test.nats:.4f} nats a token ({found.test.bits_per_byte:.4f} bits per byte; a bigram has "
            f"{found.references.bigram:.4f} nats), validation loss {found.validation.nats:.4f} nats.",
            "",
        ]
    path = layout.reports / LEDGER
    claims = decided_with(run, _ledger(path, path.stat().st_mtime_ns) if path.exists() else [])
    counts = Counter(claim["verdict"] for claim in claims)
    if claims:
        said = ", ".join(f"{verdict} {n}" for verdict, n in counts.items())
        lines += [f"Claims that it helped to decide: {said}.", "", "| claim | published | here | verdict |", "|---|---|---|---|"]
        for claim in claims:
            published = " · ".join(show(number["value"], number["unit"]) for number in claim["published"][:1]) or "in words"
            ours = claim["sound"]["shown"] if claim["sound"] else "—"
            lines.append(f"| {markdown(claim['statement'])} | {published} | {ours} | **{claim['verdict']}** |")
    else:
        lines.append("No published claim has been decided with it.")
    text = "\n".join(lines)
    return text if len(text) <= LONGEST else text[:LONGEST].rpartition("\n")[0]


@lru_cache(maxsize=1)
def _ledger(path: Path, changed: int) -> list[dict[str, Any]]:
    """Read once for all runs of a scale."""
    from lolm.claims.ledger import read_ledger

    return read_ledger(path)
