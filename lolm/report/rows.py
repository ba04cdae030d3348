"""The small tables of a study's page, as rows of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lolm.analysis import dependency as dep
from lolm.analysis import efficiency as eff
from lolm.analysis import leaderboard as board
from lolm.analysis.effects import arm_effects
from lolm.analysis.statistics import Estimate, t_interval
from lolm.analysis.uncertainty import final_bits, final_loss
from lolm.claims.numbers import show, show_estimate
from lolm.config import flatten, to_mapping
from lolm.config.strict import as_text
from lolm.records import AXES
from lolm.records.results import ScaleResults
from lolm.records.schema import Downstream, TaskMetric
from lolm.report.render import estimate, si
from lolm.report.tables import references as trivial

LEADERBOARD = (
    "test nats", "minus subject, nats", "p", "FLOP multiplier", "seconds multiplier", "bits/byte", "parameters",
    "training FLOPs/token", "state bytes", "seconds a run", "training tokens/s", "kernels", "learning rate",
    "late − early, bits/byte", "at 2× length, nats", "at 4× length, nats", "MQAR solved", "induction solved", "distinct-2",
)  # fmt: skip
ARMS = (
    "parameters", "against subject", "forward FLOPs/token", "training FLOPs/token", "by PaLM's count", "FLOPs a run",
    "seconds a run", "training tokens/s", "state bytes", "kernels", "seeds",
)  # fmt: skip
DEPENDENCY = (
    "S, nats", "latent share", "share of variance", "mean gate", "call", "after Holm", "S minus subject's", "p, Holm",
)  # fmt: skip
MOST_CHANGES = 10  # settings: who differs in more is another architecture
TRIVIAL = {
    "uniform": "uniform guess, ln V",
    "unigram": "unigram, tokens the run trained on",
    "bigram": "interpolated bigram, tokens the run trained on",
    "bigram_all_text": "interpolated bigram, whole training text",
}


@dataclass(frozen=True)
class Row:
    """A line of a small table: a name and its cells; ``note`` is its class of the style sheet."""

    name: str
    cells: tuple[str, ...]
    note: str = ""


def arms(results: ScaleResults) -> list[Row]:
    """Size and cost of every arm that was run."""
    rows = []
    own = results.of(results.subject)[0].header.parameters.total if results.subject else None
    for arm in results.arms:
        runs, header = results.of(arm), results.of(arm)[0].header
        mismatch = "—" if own is None else f"{100 * (header.parameters.total / own - 1):+.2f} %".replace("-", "−")
        cells = (
            f"{header.parameters.total:,}",
            mismatch,
            si(header.flops_per_token.forward),
            si(header.flops_per_token.training),
            si(header.flops_per_token.palm),
            si(t_interval([run.summary.flops for run in runs]).value),
            f"{t_interval([run.summary.seconds for run in runs]).value:,.0f}" if eff.timed(runs) else "—",
            f"{t_interval([run.summary.tokens / run.summary.seconds for run in runs]).value:,.0f}" if eff.timed(runs) else "—",
            si(header.state_bytes),
            ", ".join(sorted({run.header.kernels for run in runs})),
            f"{len(runs)}",
        )
        rows.append(Row(results.label(arm), cells, arm))
    return rows


def changes(results: ScaleResults) -> list[Row]:
    """What arms of the subject's family change in its architecture; not those that change more than :data:`MOST_CHANGES`."""
    if results.subject is None:
        return []
    subject = results.params.architectures[results.subject]
    own, rows = flatten(to_mapping(subject)), []
    for arm in results.arms:
        architecture = results.params.architectures[arm]
        its = flatten(to_mapping(architecture))
        changed = [key for key in sorted(own | its) if key != "label" and own.get(key) != its.get(key)]
        if architecture.family == subject.family and 0 < len(changed) <= MOST_CHANGES:
            told = [f"{key} {as_text(own.get(key))} → {as_text(its.get(key))}".replace('"', "") for key in changed]
            rows.append(Row(results.label(arm), ("; ".join(told),), arm))
    return rows


def losses(results: ScaleResults) -> list[Row]:
    """Trivial models and every arm on the same test tokens, worst first."""
    first = next((run.evaluation for run in results.runs if run.evaluation is not None), None)
    if first is None:
        return []
    factor = first.test.bits_per_byte / first.test.nats
    lines: list[tuple[float, Row]] = [
        (level, Row(TRIVIAL[name], (f"{level:.3f}", "", f"{level * factor:.3f}", "", f"{math.exp(level):,.1f}")))
        for name, level in trivial(results).items()
    ]
    for arm in results.arms:
        nats, bits = final_loss(results, arm), final_bits(results, arm)
        if nats is None or bits is None:
            continue
        cells = []
        for found in (nats, bits):
            cells += [f"{found.value:.3f}", "" if found.interval is None else "{:.3f} to {:.3f}".format(*found.interval)]
        lines.append((nats.value, Row(results.label(arm), (*cells, f"{math.exp(min(nats.value, 700)):,.1f}"), "arm")))
    return [row for _, row in sorted(lines, key=lambda line: -line[0])]


def leaderboard(results: ScaleResults, entries: Sequence[board.Entry]) -> list[Row]:
    """One line an arm, best test loss first, under :data:`LEADERBOARD`."""
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
        estimate(entry.nats, "{:.3f}"),
        "subject" if role == "subject" else estimate(None if comparison is None else comparison.difference, "{:+.3f}"),
        p_value,
        *("baseline" if role == "baseline" else estimate(m, "{:.2f}") for m in (entry.multiplier, entry.multiplier_seconds)),
        estimate(entry.bits_per_byte, "{:.3f}"),
        f"{entry.parameters:,}" + ("" if share == 1 else f" ({si(entry.parameters_active)} active)"),
        si(entry.flops_per_token),
        si(entry.state_bytes),
        "—" if entry.seconds is None else f"{entry.seconds:,.0f}",
        "—" if entry.tokens_per_second is None else f"{entry.tokens_per_second:,.0f}",
        ", ".join(entry.kernels),
        rate,
        estimate(entry.context, "{:+.3f}"),
        *(estimate(entry.lengths[length], "{:+.3f}") for length in board.LENGTHS),
        *(counted(entry.solved[task]) for task in board.TASKS),
        "—" if entry.distinct_2 is None else f"{entry.distinct_2.value:.3f}{real}",
    )


def downstream(results: ScaleResults) -> tuple[tuple[str, ...], list[Row]]:
    """Tasks with their metric, and a line an arm: mean over its runs ± the standard error over items; chance and a bigram first.

    Scores stand in one column where the same items were asked; where runs differ in that, those of the first run count.
    """
    scored = {arm: [run.downstream for run in results.of(arm) if run.downstream] for arm in results.arms}
    every = [found for runs in scored.values() for found in runs]
    if not every:
        return (), []
    first = every[0].tasks

    def asked(found: Downstream, task: str) -> TaskMetric | None:
        same = task in found.tasks and found.tasks[task].items == first[task].items
        return found.tasks[task].metrics.get(first[task].main) if same else None

    def cells(runs: Sequence[Downstream], read: Callable[[TaskMetric], float | None], errors: bool) -> tuple[str, ...]:
        row = []
        for task in first:
            known = [metric for run in runs if (metric := asked(run, task)) is not None and read(metric) is not None]
            percent = first[task].main.startswith("acc")
            factor, unit = (100, " %") if percent else (1, "")
            text = "—" if not known else f"{factor * fmean(read(metric) for metric in known):,.1f}{unit}"  # type: ignore[misc]
            error = fmean(metric.error or 0.0 for metric in known) if known and errors else 0.0
            row.append(f"{text} ± {factor * error:.1f}" if error else text)
        return tuple(row)

    titles = tuple(f"{task}, {scores.main} ({scores.items:,})" for task, scores in first.items())
    trivial = [
        Row("chance", cells(every, lambda metric: metric.chance, False)),
        Row("bigram, tokens the run trained on", cells(every, lambda metric: metric.bigram, False)),
    ]
    arms = [
        Row(results.label(arm), cells(runs, lambda metric: metric.value, True), "arm") for arm, runs in scored.items() if runs
    ]
    return titles, trivial + arms


def counted(found: Estimate | None) -> str:
    """``2 of 3 [0.09 to 0.99]``: how many runs did something, and the exact interval of the share that would."""
    if found is None:
        return "—"
    low, high = found.interval or (0.0, 1.0)
    return f"{sum(found.per_seed):.0f} of {found.n} [{low:.2f} to {high:.2f}]"


def comparisons(results: ScaleResults) -> list[Row]:
    """Every arm against the baseline at its largest measurable budget, on each axis; the subject's row comes first."""
    rows = []
    for arm in results.arms:
        pairs = results.pairs(arm, results.baseline) if arm != results.baseline else ()
        if pairs:
            found = {axis: eff.at_budgets(pairs, axis, results.analysis.confidence, results) for axis in AXES}
            flops = found["flops"]
            steps = "—" if flops.largest is None else f"{flops.largest.steps:,}"
            changes = {None: "unknown", True: f"by {show(flops.change.value, 'x')}" if flops.change else "", False: "not shown"}
            cells = ["—" if one.estimate is None else show_estimate(one.estimate, "x") for one in found.values()]
            cells += [steps, changes[flops.differ(results.analysis.interpolation_margin)]]
            rows.append(Row(results.label(arm), tuple(cells), "subject" if arm == results.subject else ""))
    return sorted(rows, key=lambda row: row.note != "subject")


def dependency(results: ScaleResults) -> list[Row]:
    """S of every arm that has it beside the latent branch's share, and its call alone and after Holm's correction over all."""
    against = {effect.name: effect for effect in arm_effects(results, "inversion")}
    rows = []
    for one in dep.calls(results):
        gates = [run.gate_mean for run in results.of(one.arm) if run.gate_mean is not None]
        spread = dep.share_over_seeds(results.of(one.arm), results.analysis.confidence, spread=True)
        effect = against.get(one.arm)
        cells = (
            estimate(one.found, "{:+.3f}"),
            estimate(one.share, "{:.3f}"),
            estimate(spread, "{:.3f}"),
            f"{t_interval(gates).value:.3f}" if gates else "—",
            one.called,
            f"{one.corrected}, p {one.p_value:.2g}",
            estimate(None if effect is None else effect.difference, "{:+.3f}"),
            "—" if effect is None or effect.adjusted is None else f"{effect.adjusted:.2g}",
        )
        rows.append(Row(results.label(one.arm), cells, "subject" if one.arm == results.subject else ""))
    return rows


def samples(results: ScaleResults) -> list[dict[str, str]]:
    """The first text that the subject and the baseline wrote after the same prompt, beside the real one."""
    found = []
    for arm in (results.subject, results.baseline):
        evaluation = results.of(arm)[0].evaluation if arm else None
        for example in evaluation.samples.examples[:1] if evaluation is not None and evaluation.samples is not None else ():
            found.append({"label": results.label(arm or "")} | vars(example))
    return found


def runs(results: ScaleResults) -> list[Row]:
    """Every run that was made."""
    return [
        Row(
            run.name,
            (
                run.fingerprint,
                run.label,
                f"{run.summary.step:,}",
                f"{run.summary.tokens:,}",
                si(run.summary.flops),
                f"{run.summary.seconds:,.0f}",
                f"{run.summary.val_nats:.4f}",
                f"{run.test_nats:.4f}" if run.test_nats is not None else "—",
                run.header.kernels,
            ),
        )
        for run in results.runs
    ]


def speed(benchmark: dict[str, Any]) -> list[Row]:
    """One line an arm of the benchmark: at its scale's size, and its shares with all widths doubled."""
    steps = benchmark.get("steps", {})
    rows = []
    for arm, base in steps.get("base", {}).get("arms", {}).items():
        wide = steps.get("wide", {}).get("arms", {}).get(arm, {})
        shares = [size.get(share) for size in (base, wide) for share in ("share_of_peak", "over_baseline")]
        cells = (
            f"{1000 * base['seconds']['median']:.1f}",
            f"{base['tokens_per_second']['median']:,.0f}",
            *map(_quartiles, shares),
        )
        rows.append(Row(base["label"], cells, "arm"))
    return rows


def _quartiles(value: dict[str, float] | None) -> str:
    return "—" if value is None else f"{value['median']:.3f} [{value['low']:.3f} to {value['high']:.3f}]"
