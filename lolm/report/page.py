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
from lolm.analysis import leaderboard as board
from lolm.analysis.statistics import Estimate, t_interval
from lolm.claims import GROUPS, VERDICTS, Claim, findings
from lolm.claims.efficiency import measured
from lolm.claims.ledger import FAILS, HOLDS, INCONCLUSIVE, show, show_estimate
from lolm.claims.published import NUMBERS
from lolm.config import flatten
from lolm.records.results import ScaleResults
from lolm.report.figures.style import Picture
from lolm.report.figures.training import LADDER

COLUMNS = (
    "test nats", "minus subject, nats", "p", "FLOP multiplier", "bits/byte", "parameters", "training FLOPs/token", "state bytes",
    "training tokens/s", "learning rate", "late − early, bits/byte", "at 2× length, nats", "at 4× length, nats", "MQAR",
    "induction", "distinct-2",
)  # fmt: skip
TABLE_ROWS = 240  # a longer table is cut in the page; its link holds all rows


@dataclass(frozen=True)
class Row:
    """A line of a small table: a name and its cells."""

    name: str
    cells: tuple[str, ...]
    note: str = ""


def html(
    results: ScaleResults, ledger: Sequence[Claim], pictures: Sequence[Picture], benchmark: dict[str, Any] | None = None
) -> str:
    """``report.html``; ``benchmark`` is the record of `make bench` where there is one."""
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
        .render(
            **_context(results, ledger),
            figures=figures,
            drawn={p.name: p.title for p in pictures},
            table_rows=TABLE_ROWS,
            style=_source("style.css"),
            machine=None if benchmark is None else benchmark["machine"],
            speed=[] if benchmark is None else _speed(benchmark),
        )
    )


def markdown(results: ScaleResults, ledger: Sequence[Claim]) -> str:
    """``claims.md``: the ledger as a referee's report."""
    return _environment(False).get_template("claims.md").render(**_context(results, ledger))


def _context(results: ScaleResults, ledger: Sequence[Claim]) -> dict[str, Any]:
    groups = [(title, [claim for claim in ledger if claim.group == key]) for key, title in GROUPS.items()]
    counted = [claim for claim in ledger if claim.group not in ("arithmetic", "sanity")]
    entries = board.leaderboard(results)
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
        "leaderboard": _leaderboard(results, entries),
        "findings": findings(results, entries, ledger),
        "columns": COLUMNS,
        "samples": _samples(results),
        "study": results.study,
        "runs": _runs(results),
        "corpus": [(key, _cell(value)) for key, value in flatten(results.corpus).items() if not isinstance(value, list | dict)],
        "published": NUMBERS,
        "sides": _sides(ledger),
        "definitions": definitions(results),
    }


def _sides(ledger: Sequence[Claim]) -> list[tuple[str, list[Claim]]]:
    """The authors' measured claims by verdict, as a referee lists them: what fails first, what is untestable left out."""
    counted = [claim for claim in ledger if claim.authors and claim.group not in ("arithmetic", "sanity")]
    titles = {FAILS: "Not supported", INCONCLUSIVE: "Not settled", HOLDS: "Supported"}
    found = [(title, [claim for claim in counted if claim.verdict == verdict]) for verdict, title in titles.items()]
    return [(title, claims) for title, claims in found if claims]


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


def _leaderboard(results: ScaleResults, entries: Sequence[board.Entry]) -> list[Row]:
    """One line an arm, best test loss first, under :data:`COLUMNS`."""
    roles = {results.subject: "subject", results.baseline: "baseline"}
    return [Row(entry.label, _cells(entry, roles.get(entry.arm, "")), roles.get(entry.arm, "")) for entry in entries]


def _cells(entry: board.Entry, role: str) -> tuple[str, ...]:
    comparison, share = entry.comparison, entry.parameters_active / entry.parameters
    p_value = "—"
    if comparison is not None and comparison.p_value is not None:
        p_value = f"{comparison.p_value:.2g}" + (" declared" if comparison.declared else "")
    rate = f"{entry.learning_rate:.2g}" + {True: "", False: " (edge)", None: " (no sweep)"}[entry.rate_inside]
    real = "" if entry.distinct_2_real is None else f" (text: {entry.distinct_2_real.value:.3f})"
    return (
        _seen(entry.nats, "{:.3f}"),
        "subject" if role == "subject" else _seen(None if comparison is None else comparison.difference, "{:+.3f}"),
        p_value,
        "baseline" if role == "baseline" else _seen(entry.multiplier, "{:.2f}"),
        _seen(entry.bits_per_byte, "{:.3f}"),
        f"{entry.parameters:,}" + ("" if share == 1 else f" ({_si(entry.parameters_active)} active)"),
        _si(entry.flops_per_token),
        _si(entry.state_bytes),
        "—" if entry.tokens_per_second is None else f"{entry.tokens_per_second:,.0f}",
        rate,
        _seen(entry.context, "{:+.3f}"),
        *(_seen(entry.lengths[length], "{:+.3f}") for length in board.LENGTHS),
        *(_seen(entry.accuracy[task], "{:.3f}") for task in board.TASKS),
        "—" if entry.distinct_2 is None else f"{entry.distinct_2.value:.3f}{real}",
    )


def _speed(benchmark: dict[str, Any]) -> list[Row]:
    """One line an arm of the benchmark: at its scale's size, and its shares with all widths doubled."""
    steps = benchmark.get("steps", {})
    rows = []
    for arm, base in steps.get("base", {}).get("arms", {}).items():
        wide = steps["wide"]["arms"][arm]
        cells = (
            f"{1000 * base['seconds']['median']:.1f}",
            f"{base['tokens_per_second']['median']:,.0f}",
            _quartiles(base["share_of_peak"]),
            _quartiles(base.get("over_baseline")),
            _quartiles(wide["share_of_peak"]),
            _quartiles(wide.get("over_baseline")),
        )
        rows.append(Row(base["label"], cells, "arm"))
    return rows


def _quartiles(value: dict[str, float] | None) -> str:
    return "—" if value is None else f"{value['median']:.3f} [{value['low']:.3f} to {value['high']:.3f}]"


def _seen(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "—"
    value, *ends = (form.format(number).replace("-", "−") for number in (estimate.value, *(estimate.interval or ())))
    return f"{value} [{' to '.join(ends)}]" if ends else value


def _comparisons(results: ScaleResults) -> list[Row]:
    """Every arm against the baseline at its largest measurable budget, on each axis; the subject's row comes first."""
    rows = []
    for arm in results.arms:
        pairs = results.pairs(arm, results.baseline) if arm != results.baseline else ()
        if pairs:
            found = [measured(results, pairs, axis) for axis in eff.AXES]
            flops = found[eff.AXES.index("flops")]
            steps = "—" if flops.largest is None else f"{flops.largest.steps:,}"
            changes = {None: "unknown", True: f"by {show(flops.change.value, 'x')}" if flops.change else "", False: "not shown"}
            cells = ["—" if one.estimate is None else show_estimate(one.estimate, "x") for one in found]
            note = "subject" if arm == results.subject else ""
            rows.append(Row(results.label(arm), (*cells, steps, changes[flops.differ]), note))
    return sorted(rows, key=lambda row: row.note != "subject")


def _samples(results: ScaleResults) -> list[dict[str, str]]:
    """The first text that the subject and the baseline wrote after the same prompt, beside the real one."""
    first = [results.of(arm)[0] for arm in (results.subject, results.baseline) if arm]
    found = [(run.label, (run.measured("samples", "examples") or [None])[0]) for run in first]
    return [{"label": label} | example for label, example in found if example]


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
            "The baseline's cost over LOLM's cost to reach the same held-out loss, read where learning-rate schedules end: the "
            "run's own end, and those of copies of it that were annealed earlier. At each of these budgets the level is the "
            "lowest loss that both arms of a pair reached by then, so the arm behind stands on a measured point and the other is "
            "interpolated in ln(cost) between two of its own. Above 1, LOLM needs less. Nothing is extrapolated: a budget "
            "whose level one arm has passed before its first point has no multiplier, and none where a single pair has none. "
            "Interpolation understates the lead of the arm ahead by up to about "
            f"{100 * eff.INTERPOLATION:g} % where budgets double, so multipliers are called different between budgets only "
            "beyond that, and 2× fails only beyond that. "
            "Multipliers inside the runs are kept as a second view: there neither schedule has ended, and the lead of "
            "either arm is understated by more.",
        ),
        (
            "Costs",
            "FLOPs are counted from the architecture, causal attention exactly, head and auxiliary loss heads "
            "included, backward twice the forward. "
            "Seconds are wall-clock on whatever machine ran, with other runs beside, and depend on the maturity of each kernel.",
        ),
        (
            "Tuning",
            _tuning(results),
        ),
        (
            "Equivalence",
            f"Losses are called equivalent only if two one-sided tests place their difference within "
            f"±{analysis.equivalence_margin:g} nats; then a claim of a lower one fails, even where the interval lies below 0. "
            f"An inversion needs {analysis.inversion_margin:g} nats; gate levels and shares closer than "
            f"{analysis.gate_margin:g}, interval and all, count as equal. "
            "All margins stood in params.yaml before the runs.",
        ),
        (
            "Non-functional",
            "A model, or an intervention on one, whose loss exceeds that of the unigram model, or of a uniform guess, "
            "on the same tokens.",
        ),
        (
            "Multiplicity",
            "One comparison is declared in params.yaml before the runs: the study's subject against its baseline, in FLOPs to "
            "the same loss and in test loss. Neither of the two is corrected. The test losses of all other arms against the "
            "subject are compared together, two-sided paired t tests with Holm's step-down correction. Intervals, and all that "
            "the ledger says of other quantities, are not corrected and should be read as such. A p value above the level shows "
            "no difference; it does not show that there is none.",
        ),
        (
            "Verdicts",
            "They speak of this scale, these arms and these seeds. A claim that fails here may hold at 1.57B, and the "
            "reverse. Where the subject or its baseline is shown to be no better than the bigram model of its own training "
            "tokens, every measured verdict is withheld.",
        ),
    ]  # fmt: skip


def _tuning(results: ScaleResults) -> str:
    swept = {arm: sweep for arm, sweep in results.sweeps.items() if sweep["inside"] is not None}
    if not swept:
        return (
            "Each arm has the peak learning rate that params.yaml gives it. No sweep is part of these runs, and the intervals do "
            "not cover that choice."
        )
    edge = [results.label(arm) for arm, sweep in swept.items() if not sweep["inside"]]
    given = [results.label(arm) for arm in results.arms if arm not in swept]
    one = next(iter(swept.values()))
    text = (
        f"Each arm has the peak learning rate that its own sweep chose by validation loss: short runs of {one['steps']:,} steps, "
        f"{len(one['seeds'])} {'seed' if len(one['seeds']) == 1 else 'seeds'}, the same budget for every arm. All else is shared "
        "and was tuned for none of them. The intervals do not cover the choice, nor whether the best rate of a short run is that "
        "of a long one."
    )
    if edge:
        text += f" At the edge of its grid, so perhaps not the best: {', '.join(edge)}."
    return text + (f" Not swept: {', '.join(given)}." if given else "")


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
