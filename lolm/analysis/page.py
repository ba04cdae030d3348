"""The report a person reads: one self-contained HTML page, and the ledger as Markdown.

No request leaves the page: style and figures are inline, the data behind each figure is a table and a ``data:`` link.
The output is a function of the records alone.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lolm.analysis import efficiency as eff
from lolm.analysis.claims import GROUPS, VERDICTS, Claim
from lolm.analysis.claims.efficiency import measured
from lolm.analysis.claims.ledger import show, show_interval
from lolm.analysis.figures.style import Picture
from lolm.analysis.figures.training import LADDER
from lolm.analysis.published import NUMBERS
from lolm.analysis.results import ScaleResults
from lolm.analysis.statistics import Estimate, paired_difference, t_interval
from lolm.config import flatten

TABLE_ROWS = 240  # a longer table is cut in the page; its link holds all rows


@dataclass(frozen=True)
class Row:
    """A line of a small table: a name and its cells."""

    name: str
    cells: tuple[str, ...]
    note: str = ""


def html(results: ScaleResults, ledger: Sequence[Claim], pictures: Sequence[Picture]) -> str:
    """``report.html``."""
    figures = [
        {
            "name": p.name,
            "title": p.title,
            "caption": p.caption,
            "svg": _described(p),
            "columns": p.columns,
            "rows": [[_cell(cell) for cell in row] for row in p.rows[:TABLE_ROWS]],
            "count": len(p.rows),
            "href": "data:text/csv;charset=utf-8;base64," + base64.b64encode(p.csv().encode()).decode(),
        }
        for p in pictures
    ]
    return (
        _environment(True)
        .get_template("report.html")
        .render(**_context(results, ledger), figures=figures, table_rows=TABLE_ROWS, style=_source("style.css"))
    )


def markdown(results: ScaleResults, ledger: Sequence[Claim]) -> str:
    """``claims.md``: the ledger as a referee's report."""
    return _environment(False).get_template("claims.md").render(**_context(results, ledger))


def _context(results: ScaleResults, ledger: Sequence[Claim]) -> dict[str, Any]:
    groups = [(title, [claim for claim in ledger if claim.group == key]) for key, title in GROUPS.items()]
    counted = [claim for claim in ledger if claim.group not in ("arithmetic", "sanity")]
    return {
        "results": results,
        "groups": [(title, claims) for title, claims in groups if claims],
        "counts": [(verdict, sum(claim.verdict == verdict for claim in counted)) for verdict in VERDICTS],
        "total": len(counted),
        "analysis": results.analysis,
        "subject": results.label(results.subject) if results.subject else None,
        "baseline": results.label(results.baseline) if results.baseline else None,
        "scope": _scope(results),
        "arms": _arms(results),
        "references": _references(results),
        "comparisons": _comparisons(results),
        "runs": _runs(results),
        "corpus": [(key, _cell(value)) for key, value in flatten(results.corpus).items() if not isinstance(value, list | dict)],
        "published": NUMBERS,
        "definitions": definitions(results),
    }


def _scope(results: ScaleResults) -> dict[str, Any]:
    last = [run.rows[-1] for run in results.runs]
    tokens = sorted({int(row["tokens"]) for row in last})
    steps = sorted({int(row["step"]) for row in last})
    test = sorted({int(run.evaluation["tokens"]) for run in results.runs if run.evaluation is not None})
    forced = sorted({int(run.ablation["tokens"]) for run in results.runs if run.ablation is not None})
    return {
        "scale": results.scale,
        "seeds": ", ".join(map(str, results.seeds)),
        "n_seeds": len(results.seeds),
        "tokens": " to ".join(f"{t:,}" for t in dict.fromkeys((tokens[0], tokens[-1]))),
        "steps": " to ".join(f"{s:,}" for s in dict.fromkeys((steps[0], steps[-1]))),
        "test_tokens": f"{test[-1]:,}" if test else "no",
        "ablation_tokens": f"{forced[-1]:,}" if forced else "no",
        "vocabulary": f"{results.runs[0].config['run']['vocab_size']:,}",
    }


def _arms(results: ScaleResults) -> list[Row]:
    rows = []
    for arm in results.arms:
        plan, runs = results.plan[arm], results.of(arm)
        seconds = t_interval([run.rows[-1]["seconds"] for run in runs])
        spent = t_interval([run.rows[-1]["flops"] for run in runs])
        cells = (
            f"{plan['parameters']:,.0f}",
            f"{100 * plan['mismatch']:+.2f} %".replace("-", "−") if plan.get("mismatch") is not None else "—",
            _si(plan.get("flops_per_token_forward")),
            _si(plan.get("flops_per_token_training")),
            _si(plan.get("flops_per_token_palm")),
            _si(spent.value),
            f"{seconds.value:,.0f}",
            f"{len(runs)}",
        )
        rows.append(Row(results.label(arm), cells, arm))
    return rows


def _references(results: ScaleResults) -> list[Row]:
    """Uniform, unigram, bigram and every arm on the same test tokens, worst first."""
    found = [run.evaluation for run in results.runs if run.evaluation is not None]
    if not found:
        return []
    factor = found[0]["test"]["bits_per_byte"] / found[0]["test"]["nats"]
    names = {
        "uniform": "uniform guess, ln V",
        "unigram": "unigram, tokens the run trained on",
        "bigram": "interpolated bigram, tokens the run trained on",
        "bigram_all_text": "interpolated bigram, whole training text",
    }
    lines: list[tuple[float, Row]] = []
    for key in (*LADDER, "bigram_all_text"):
        values = [record["references"][key] for record in found if key in record["references"]]
        if values:
            level = math.fsum(values) / len(values)
            lines.append((level, Row(names[key], (f"{level:.3f}", "", f"{level * factor:.3f}", "", f"{math.exp(level):,.1f}"))))
    for arm in results.arms:
        runs = [run.evaluation for run in results.of(arm) if run.evaluation is not None]
        if not runs:
            continue
        nats = t_interval([r["test"]["nats"] for r in runs], results.analysis.confidence)
        bits = t_interval([r["test"]["bits_per_byte"] for r in runs], results.analysis.confidence)
        cells = (f"{nats.value:.3f}", _ends(nats), f"{bits.value:.3f}", _ends(bits), f"{math.exp(min(nats.value, 700)):,.1f}")
        lines.append((nats.value, Row(results.label(arm), cells, "arm")))
    return [row for _, row in sorted(lines, key=lambda line: -line[0])]


def _comparisons(results: ScaleResults) -> list[Row]:
    """Every arm against the baseline; the first row is the comparison declared in params.yaml, the rest explore."""
    rows = []
    for arm in results.arms:
        pairs = results.pairs(arm, results.baseline) if arm != results.baseline else ()
        if not pairs:
            continue
        cells = []
        losses = [(a.test_nats, b.test_nats) for a, b in pairs if a.test_nats is not None and b.test_nats is not None]
        if len(losses) == len(pairs):
            difference = paired_difference([a for a, _ in losses], [b for _, b in losses], results.analysis.confidence)
            cells.append(_estimate(difference, "nats"))
        else:
            cells.append("—")
        for axis in eff.AXES:
            common = measured(results, pairs, axis).common
            cells.append("—" if common is None else _estimate(common, "x"))
        rows.append(Row(results.label(arm), tuple(cells), "declared" if arm == results.subject else "exploratory"))
    return sorted(rows, key=lambda row: row.note != "declared")


def _runs(results: ScaleResults) -> list[Row]:
    rows = []
    for run in results.runs:
        last = run.rows[-1]
        validation = run.points("val/nats")[1]
        cells = (
            run.fingerprint,
            run.label,
            f"{last['step']:,.0f}",
            f"{last['tokens']:,.0f}",
            _si(last["flops"]),
            f"{last['seconds']:,.0f}",
            f"{validation[-1]:.4f}" if validation else "—",
            f"{run.test_nats:.4f}" if run.test_nats is not None else "—",
            str(run.config.get("kernels", "—")),
        )
        rows.append(Row(run.name, cells))
    return rows


def definitions(results: ScaleResults) -> list[tuple[str, str]]:
    """What the words of the ledger mean here."""
    analysis = results.analysis
    level = f"{100 * analysis.confidence:g} %"
    return [
        (
            "Interval",
            f"{level} Student's t interval over seeds, paired by seed where arms are compared (one seed gives both "
            "arms the same data order), "
            "on the logarithm for ratios. It covers data order and initialisation, not the choice of text. One seed "
            "gives no interval.",
        ),
        (
            "As published",
            f"Training loss averaged over {analysis.published_window} steps (or the nearest number of whole log "
            "windows, at most a tenth of the run), dropout "
            "and Gumbel noise on, optimiser steps as the only cost, perplexity capped at e^20 where the published "
            "script caps it.",
        ),
        (
            "Multiplier",
            "The baseline's cost over LOLM's cost to first reach the same held-out loss: the lowest loss that both "
            "arms of a pair reach. Above 1, LOLM needs less. "
            "Curves enter as their running minimum, interpolated in ln(cost) between evaluations; nothing is "
            "extrapolated. Both arms anneal their learning rate, "
            "so a level reached inside a run is reached at a higher rate than one reached at its end: the lead of "
            "either arm is understated.",
        ),
        (
            "Costs",
            "FLOPs are counted from the architecture, causal attention exactly, head and auxiliary loss heads "
            "included, backward twice the forward. "
            "Seconds are wall-clock on whatever machine ran, with other runs beside, and depend on the maturity of each kernel.",
        ),
        (
            "Tuning",
            "Each arm has the peak learning rate that params.yaml gives it. No sweep per arm is part of these runs, and the "
            "intervals do not cover that choice.",
        ),
        (
            "Equivalence",
            f"No difference is claimed only if two one-sided tests place it within ±{analysis.equivalence_margin:g} nats. "
            f"An inversion needs {analysis.inversion_margin:g} nats; gate levels and shares closer than "
            f"{analysis.gate_margin:g} count as equal. "
            "All margins stood in params.yaml before the runs.",
        ),
        (
            "Non-functional",
            "A model, or an intervention on one, whose loss exceeds that of the unigram model, or of a uniform guess, "
            "on the same tokens.",
        ),
        (
            "Multiplicity",
            "One comparison is declared: the first LOLM arm against the baseline of params.yaml, in FLOPs to the same "
            "held-out loss. "
            "Everything else is reported without correction and should be read as such.",
        ),
        (
            "Verdicts",
            "They speak of this scale, these arms and these seeds. A claim that fails here may hold at 1.57B, and the "
            "reverse. Where an arm "
            "does not beat the bigram model of its own training tokens, every measured verdict is withheld.",
        ),
    ]  # fmt: skip


def _described(picture: Picture) -> str:
    """The picture's SVG with a role and a name for screen readers, free to take the width of the page."""
    from markupsafe import escape

    svg = picture.svg
    end = svg.index(">")
    opening = " ".join(part for part in svg[:end].split() if not part.startswith(("width=", "height=")))
    return f'{opening} role="img" aria-label="{escape(picture.alt)}"{svg[end:]}'


def _environment(escape: bool) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lolm.analysis"), autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals["slug"] = lambda verdict: verdict.split(" at")[0].replace(" ", "-")
    return environment


def _source(name: str) -> str:
    from importlib.resources import files

    return files("lolm.analysis").joinpath("templates", name).read_text(encoding="utf-8")


def _estimate(estimate: Estimate, unit: str) -> str:
    text = show(estimate.value, unit)
    return text if estimate.interval is None else f"{text} [{show_interval(*estimate.interval, unit)}]"


def _ends(estimate: Estimate) -> str:
    return "" if estimate.interval is None else f"{estimate.interval[0]:.3f} to {estimate.interval[1]:.3f}"


def _si(value: float | None) -> str:
    if value is None:
        return "—"
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
