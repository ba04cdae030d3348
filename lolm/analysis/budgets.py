"""The study over sizes and budgets as one record: laws, multipliers on the compute-optimal path, gaps, dependency, forecasts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lolm.analysis import dependency as dep
from lolm.analysis.scaling import (
    Fit,
    ScalingError,
    collect,
    common_range,
    contrast,
    fit_laws,
    inside,
    multiplier,
    percentiles,
    tenfold,
)  # fmt: skip
from lolm.analysis.statistics import Estimate, paired_difference, t_interval
from lolm.config import AnalysisConfig
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults
from lolm.records.schema import (
    BudgetLaw,
    BudgetPoint,
    Budgets,
    DependencyPoint,
    MeasuredGap,
    PathMultiplier,
    PathPoint,
    PathSlope,
    Prediction,
    Trend,
    Value,
)  # fmt: skip

GRID = 13  # computes at which a path is read


class Published(NamedTuple):
    """A size and budget that a forecast is asked for."""

    scale: str
    parameters: int
    tokens: int


class Observation(NamedTuple):
    """A quantity at one end of a schedule of one run."""

    run: tuple[str, int]
    parameters: float
    tokens: float
    value: float


def budgets(results: Sequence[ScaleResults], published: Sequence[Published] = (), training_flops: float = 0.0) -> Budgets:
    """Everything that the runs of several scales say of sizes and budgets.

    Args:
        results: of each scale, in ascending size; subject and baseline are those of the first one's study.
        published: what the laws are to be extrapolated to.

    Raises:
        ScalingError: no scale; scales whose losses do not compare, or studies that declare other pairs.
    """
    if not results:
        raise ScalingError("`budgets` of params.yaml names no scale")
    study, analysis = results[0].params.selected, results[0].analysis
    for other in results:
        chosen = other.params.selected
        if (chosen.subject, chosen.baseline) != (study.subject, study.baseline):
            raise ScalingError(f"studies {study.name!r} and {chosen.name!r} under `budgets` declare another subject or baseline")
    points = collect(results)
    fits, refused = _fitted(points, analysis, analysis.shared_floor)
    others, _ = _fitted(points, analysis, not analysis.shared_floor)
    both = ((analysis.shared_floor, fits), (not analysis.shared_floor, others))
    against = [arm for arm in dict.fromkeys(p.arm for p in points) if arm != study.subject]
    subject = fits.get(study.subject)
    return Budgets(
        scales={r.scale: r.study for r in results},
        subject=study.subject,
        baseline=study.baseline,
        made=sum(len(r.runs) for r in results),
        asked=sum(len(r.params.selected.arms) * len(r.params.selected.seeds) for r in results),
        missing=tuple(f"{r.scale}: {key}" for r in results for key in (*r.missing, *_unscored(r))),
        training_flops=training_flops,
        refused=refused,
        points=tuple(points),
        laws=tuple(_law(fit, shared) for shared, found in both for fit in found.values()),
        paths=tuple(row for fit in fits.values() for row in _path(fit)),
        multipliers=tuple(row for shared, found in both for row in _multipliers(found, study.subject, shared)),
        slopes=tuple(row for shared, found in both for row in _slopes(found, study.subject, shared)),
        gaps=tuple(row for arm in against for row in _gaps(points, study.subject, arm, analysis.confidence)),
        trends=tuple(_trends(results, points, study.subject, against, analysis.confidence)),
        dependency=tuple(_dependency(results, study.subject)),
        predictions=tuple(row for size in published for row in _predictions(fits, subject, size)),
    )


def _unscored(results: ScaleResults) -> list[str]:
    return [f"{run.key}, not evaluated" for run in results.runs if run.evaluation is None]


def _fitted(points: Sequence[BudgetPoint], analysis: AnalysisConfig, shared: bool) -> tuple[dict[str, Fit], dict[str, str]]:
    return fit_laws(
        points, confidence=analysis.confidence, threshold=analysis.huber, replicates=analysis.replicates, shared=shared
    )


def _value(found: float, interval: tuple[float, float] | None, n: int) -> Value:
    """What JSON can hold: an infinite number has no value, an infinite end no bound."""
    ends = interval or (None, None)
    value, low, high = (None if x is None or not math.isfinite(x) else float(x) for x in (found, *ends))
    return Value(value, low, high, n if interval else min(n, 1))


def _of(found: Estimate | None) -> Value:
    return Value(None) if found is None else _value(found.value, found.interval, found.n)


def _law(fit: Fit, shared: bool) -> BudgetLaw:
    runs, law = _runs(fit), fit.law

    def of(name: str) -> Value:
        return _value(getattr(law, name), fit.interval(name), runs)

    return BudgetLaw(
        fit.arm,
        shared,
        floor=of("floor"),
        a=of("a"),
        alpha=of("alpha"),
        b=of("b"),
        beta=of("beta"),
        kappa=law.kappa,
        gamma=law.gamma,
        runs=runs,
        freedom=fit.freedom,
        noise=fit.noise,
        misfit=fit.misfit,
        cost=fit.cost,
        loose=fit.loose,
    )


def _runs(fit: Fit) -> int:
    return len({(p.scale, p.seed) for p in fit.points})


def _grid(fits: Sequence[Fit]) -> list[float]:
    low, high = common_range(fits)
    return [float(flops) for flops in np.geomspace(low, high, GRID)] if low < high else []


def _path(fit: Fit) -> list[PathPoint]:
    runs, rows = _runs(fit), []
    for flops in _grid([fit]):
        ends = percentiles([law.best(flops) for law in fit.replicates], fit.confidence)
        rows.append(
            PathPoint(fit.arm, flops, *fit.law.optimum(flops), _value(fit.law.best(flops), ends, runs), inside(fit, flops))
        )
    return rows


def _multipliers(fits: Mapping[str, Fit], subject: str, shared: bool) -> list[PathMultiplier]:
    rows = []
    for arm, base in fits.items() if subject in fits else ():
        mine = fits[subject]
        for flops in _grid([base, mine]) if arm != subject else ():
            found = contrast(base, mine, lambda b, s, flops=flops: multiplier(b, s, flops))
            within = inside(mine, flops) and inside(base, flops * found.value)
            rows.append(PathMultiplier(arm, shared, flops, _of(found), within))
    return rows


def _slopes(fits: Mapping[str, Fit], subject: str, shared: bool) -> list[PathSlope]:
    rows = []
    for arm, base in fits.items() if subject in fits else ():
        mine = fits[subject]
        grid = _grid([base, mine]) if arm != subject else []
        if grid:
            found = contrast(base, mine, tenfold(grid[0], grid[-1]))
            share = sum(inside(fit, flops) for fit in (base, mine) for flops in grid) / (2 * len(grid))
            rows.append(PathSlope(arm, shared, grid[0], grid[-1], _of(found), share))
    return rows


def _gaps(points: Sequence[BudgetPoint], subject: str, arm: str, confidence: float) -> list[MeasuredGap]:
    mine, theirs = ({(p.scale, p.tokens, p.seed): p.nats for p in points if p.arm == name} for name in (subject, arm))
    rows = []
    for scale, tokens in dict.fromkeys((p.scale, p.tokens) for p in points):
        keys = [key for key in mine if key[:2] == (scale, tokens) and key in theirs]
        if keys:
            found = paired_difference([theirs[key] for key in keys], [mine[key] for key in keys], confidence)
            rows.append(MeasuredGap(arm, scale, tokens, _of(found)))
    return rows


def trend(observations: Sequence[Observation], confidence: float) -> tuple[Estimate | None, Estimate | None]:
    """Change of a quantity per tenfold of tokens (mean of the runs' own slopes) and of parameters (slope of the runs' means), by
    least squares on log10, each with Student's t interval over runs, which are the units of replication.

    None where a run has fewer than two budgets, or the runs are of fewer than two sizes.
    """
    runs: dict[tuple[str, int], list[Observation]] = {}
    for row in observations:
        runs.setdefault(row.run, []).append(row)
    slopes = [_slope([math.log10(r.tokens) for r in rows], [r.value for r in rows]) for rows in runs.values()]
    over_tokens = None if not slopes or None in slopes else t_interval(slopes, confidence)  # type: ignore[arg-type]
    x = [math.log10(rows[0].parameters) for rows in runs.values()]
    y = [math.fsum(r.value for r in rows) / len(rows) for rows in runs.values()]
    slope = _slope(x, y)
    if slope is None:
        return over_tokens, None
    interval, mean_x, mean_y = None, math.fsum(x) / len(x), math.fsum(y) / len(y)
    if len(x) > 2:
        from scipy.special import stdtrit

        left = math.fsum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True)) / (len(x) - 2)
        half = float(stdtrit(len(x) - 2, 0.5 + confidence / 2)) * math.sqrt(left / math.fsum((a - mean_x) ** 2 for a in x))
        interval = (slope - half, slope + half)
    return over_tokens, Estimate(slope, interval, len(x), (), confidence)


def _slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    mean = math.fsum(x) / max(1, len(x))
    width = math.fsum((a - mean) ** 2 for a in x)
    return math.fsum((a - mean) * b for a, b in zip(x, y, strict=True)) / width if width > 1e-12 else None


def _trends(
    results: Sequence[ScaleResults], points: Sequence[BudgetPoint], subject: str, against: Sequence[str], confidence: float
) -> list[Trend]:
    rows: list[tuple[str, str, str, list[Observation]]] = []
    mine = {(p.scale, p.seed, p.tokens): p for p in points if p.arm == subject}
    for arm in against:
        pairs = [(p, mine[key]) for p in points if p.arm == arm and (key := (p.scale, p.seed, p.tokens)) in mine]
        found = [Observation((p.scale, p.seed), own.parameters, p.tokens, p.nats - own.nats) for p, own in pairs]
        rows.append(("gap", arm, "nats", found))
    dependency = _dependency(results, subject)
    for name, unit in (("statistic", "nats"), ("damage_latent", "nats"), ("share", "share"), ("gate", "gate")):
        found = [
            Observation((d.scale, d.seed), d.parameters, d.tokens, getattr(d, name))
            for d in dependency
            if getattr(d, name) is not None
        ]
        rows.append((name, "", unit, found))
    return [Trend(name, arm, unit, *map(_of, trend(found, confidence))) for name, arm, unit, found in rows if found]


def _dependency(results: Sequence[ScaleResults], subject: str) -> list[DependencyPoint]:
    return [_dependency_at(r, run, *end) for r in results for run in r.of(subject) for end in _ends(run)]


def _ends(run: RunRecord) -> list[tuple[int, int]]:
    """(step, tokens) of the ends of schedules at which the interventions were measured: of the trunk's steps only the last."""
    tokens = {end.step: end.tokens for end in run.evaluation.schedule_ends} if run.evaluation else {}
    measured = run.ablation_steps if run.ablation is None or run.ablation.annealed else run.ablation_steps[-1:]
    return [(step, tokens[step]) for step in measured if step in tokens]


def _dependency_at(results: ScaleResults, run: RunRecord, step: int, tokens: int) -> DependencyPoint:
    method, row = dep.primary(results), run.contribution(step)
    latent = None if row is None else row.addends.get(names.LATENT)
    damages = [run.damage(*method.removal(branch), step) for branch in (names.LATENT, names.SURFACE)]
    return DependencyPoint(
        scale=results.scale,
        seed=run.seed,
        parameters=run.header.parameters.total,
        tokens=tokens,
        statistic=dep.statistic(run, method, step),
        damage_latent=damages[0],
        damage_surface=damages[1],
        share=None if latent is None else latent.variance_share,
        gate=None if row is None else row.gate,
    )


def _predictions(fits: Mapping[str, Fit], subject: Fit | None, size: Published) -> list[Prediction]:
    rows = []
    for arm, fit in fits.items():
        nats = contrast(fit, fit, lambda law, _: law.loss(size.parameters, size.tokens))
        gap = None
        if subject is not None and fit is not subject:
            gap = _of(
                contrast(fit, subject, lambda b, s: b.loss(size.parameters, size.tokens) - s.loss(size.parameters, size.tokens))
            )
        rows.append(Prediction(size.scale, arm, size.parameters, size.tokens, _of(nats), gap))
    return rows
