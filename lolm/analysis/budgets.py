"""The study over sizes and budgets as one record: laws, multipliers on the compute-optimal path, gaps, dependency, forecasts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from lolm.analysis import dependency as dep
from lolm.analysis.curves import multiplier as measured
from lolm.analysis.efficiency import annealed_curves
from lolm.analysis.scaling import (
    Fit,
    collect,
    common_range,
    contrast,
    fit_laws,
    inside,
    multiplier,
    percentiles,
    tenfold,
)  # fmt: skip
from lolm.analysis.statistics import Estimate, paired_difference
from lolm.analysis.trends import Observation, over_parameters, over_tokens
from lolm.config import AnalysisConfig, Params
from lolm.config.strict import refuse
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults
from lolm.records.schema import (
    BudgetLaw,
    BudgetPoint,
    Budgets,
    BudgetSettings,
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
FINE = 121  # among which the ends of what was measured are sought


class Published(NamedTuple):
    """A size and budget that a forecast is asked for."""

    scale: str
    parameters: int
    tokens: int


def budgets(results: Sequence[ScaleResults], published: Sequence[Published] = (), training_flops: float = 0.0) -> Budgets:
    """Everything that the runs of several scales say of sizes and budgets.

    Args:
        results: of each scale, in ascending size, one at least; subject and baseline are those of the first one's study.
        published: what the laws are to be extrapolated to.

    Raises:
        ConfigError: as refuse_incomparable.
    """
    refuse_incomparable([r.params for r in results])
    study, analysis = results[0].params.selected, results[0].analysis
    points = collect(results)
    fits, refused = _fitted(points, analysis, analysis.shared_floor)
    others, _ = _fitted(points, analysis, not analysis.shared_floor)
    both = ((analysis.shared_floor, fits), (not analysis.shared_floor, others))
    against = [arm for arm in dict.fromkeys(p.arm for p in points) if arm != study.subject]
    subject = fits.get(study.subject)
    return Budgets(
        scales={r.scale: r.study for r in results},
        settings=settings_of(analysis),
        subject=study.subject,
        baseline=study.baseline,
        made=sum(len(r.runs) for r in results),
        asked=sum(len(r.params.selected.arms) * len(r.params.selected.seeds) for r in results),
        missing=tuple(f"{r.scale}: {what}" for r in results for what in (*r.missing, *_unmeasured(r, study.subject))),
        diverged=tuple(f"{r.scale}: {run.arm}-{run.seed}" for r in results for run in r.diverged),
        training_flops=training_flops,
        refused=refused,
        points=tuple(points),
        laws=tuple(_law(fit, shared) for shared, found in both for fit in found.values()),
        paths=tuple(row for fit in fits.values() for row in _path(fit)),
        multipliers=tuple(row for shared, found in both for row in _multipliers(found, study.subject, shared)),
        slopes=tuple(row for shared, found in both for row in _slopes(found, study.subject, shared)),
        gaps=tuple(row for arm in against for row in _gaps(points, study.subject, arm, analysis.confidence)),
        trends=tuple(_trends(results, points, study.subject, against, analysis)),
        dependency=tuple(_dependency(results, study.subject)),
        predictions=tuple(row for size in published for row in _predictions(fits, subject, size)),
    )


def refuse_incomparable(designs: Sequence[Params]) -> None:
    """Refuse scales and studies of which no law over scales can be made, by their parameters alone.

    Args:
        designs: params.yaml with a scale and a study chosen, for each entry of `budgets`.

    Raises:
        ConfigError: corpus, tokenizer or window differ, so that losses do not compare, or studies declare another pair.
    """

    def text(params: Params):
        preset = params.scales[params.scale]
        return preset.corpus, preset.tokenizer, preset.training.seq_len

    first = designs[0]
    wanted, rows = first.selected, []
    for other in designs[1:]:
        key, chosen = f"budgets.{other.scale}", other.selected
        beside = f"scale {other.scale!r} and the first, {first.scale!r}, differ in corpus, tokenizer or training.seq_len"
        rows.append((text(other) != text(first), key, f"{beside}: their losses do not compare"))
        pair = f"studies {chosen.name!r} and {wanted.name!r}, of the first scale, declare another subject or baseline"
        rows.append(((chosen.subject, chosen.baseline) != (wanted.subject, wanted.baseline), key, pair))
    refuse(rows)


def settings_of(analysis: AnalysisConfig) -> BudgetSettings:
    """The settings that decide the record's numbers."""
    return BudgetSettings(**{field.name: getattr(analysis, field.name) for field in fields(BudgetSettings)})


def _unmeasured(results: ScaleResults, subject: str) -> list[str]:
    """Runs that lack a measurement, and which: whether a run counts must not depend on how far its measurements came."""
    unscored = [f"{run.key}, not evaluated" for run in results.runs if run.evaluation is None]
    return unscored + [f"{run.key}, interventions not measured" for run in results.of(subject) if run.ablation is None]


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
        form=fit.form,
        cost=fit.cost,
        loose=fit.loose,
    )


def _runs(fit: Fit) -> int:
    return len({(p.scale, p.seed) for p in fit.points})


def _grid(fits: Sequence[Fit], count: int = GRID) -> list[float]:
    low, high = common_range(fits)
    return [float(flops) for flops in np.geomspace(low, high, count)] if low < high else []


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
            rows.append(PathMultiplier(arm, shared, flops, _of(found), _measured_at(base, mine, flops)))
    return rows


def _measured_at(baseline: Fit, subject: Fit, flops: float) -> bool:
    """Whether the best size and tokens of both lie within those measured, each at its own compute for the subject's loss."""
    return inside(subject, flops) and inside(baseline, flops * multiplier(baseline.law, subject.law, flops))


def _slopes(fits: Mapping[str, Fit], subject: str, shared: bool) -> list[PathSlope]:
    rows = []
    for arm, base in fits.items() if subject in fits else ():
        mine = fits[subject]
        grid = _grid([base, mine], FINE) if arm != subject else []
        within = [flops for flops in grid if _measured_at(base, mine, flops)]
        if len(within) > 1:
            found = contrast(base, mine, tenfold(within[0], within[-1]))
            share = math.log(within[-1] / within[0]) / math.log(grid[-1] / grid[0])
            rows.append(PathSlope(arm, shared, within[0], within[-1], _of(found), share))
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


def _trends(
    results: Sequence[ScaleResults], points: Sequence[BudgetPoint], subject: str, against: Sequence[str], analysis: AnalysisConfig
) -> list[Trend]:
    rows: list[tuple[str, str, str, list[Observation]]] = []
    mine = {(p.scale, p.seed, p.tokens): p for p in points if p.arm == subject}
    for arm in against:
        pairs = [(p, mine[key]) for p in points if p.arm == arm and (key := (p.scale, p.seed, p.tokens)) in mine]
        found = [Observation((p.scale, p.seed), own.parameters, p.tokens, p.nats - own.nats) for p, own in pairs]
        rows.append(("gap", arm, "nats", found))
        rows.append(("multiplier", arm, "x", _measured_multipliers(results, subject, arm)))
    dependency = _dependency(results, subject)
    for name, unit in (("statistic", "nats"), ("damage_latent", "nats"), ("share", "share"), ("gate", "gate")):
        found = [
            Observation((d.scale, d.seed), d.parameters, d.tokens, getattr(d, name))
            for d in dependency
            if getattr(d, name) is not None
        ]
        rows.append((name, "", unit, found))
    trends = []
    for quantity, arm, unit, found in rows:
        if found:
            whole, by_scale = over_tokens(found, analysis.confidence, analysis.pooling_level)
            slope = over_parameters(found, analysis.confidence)
            values = [_of(e.map(math.exp) if e and unit == "x" else e) for e in (whole, slope, *by_scale.values())]
            trends.append(Trend(quantity, arm, unit, values[0], values[1], dict(zip(by_scale, values[2:], strict=True))))
    return trends


def _measured_multipliers(results: Sequence[ScaleResults], subject: str, arm: str) -> list[Observation]:
    """ln of the multiplier in FLOPs at equal size, at the ends of schedule where every pair of runs has one, without a law."""
    found, ends = [], []
    for r in results:
        for own, base in r.pairs(subject, arm):
            _, curves, split = annealed_curves([(own, base)], "flops")
            tokens = (own.annealed("test", "tokens") or [()])[0] if split == "test" else ()
            for count, at in enumerate(tokens if curves else (), 1):
                theirs, ours = (curve.until(count) for curve in curves[0])
                value = measured(theirs, ours, max(theirs.best, ours.best)).value
                if value is not None:
                    found.append(Observation((r.scale, own.seed), own.header.parameters.total, at, math.log(value)))
            ends.append({row.tokens for row in found if row.run == (r.scale, own.seed)})
    common = set.intersection(*ends) if ends else set()
    return [row for row in found if row.tokens in common]


def _dependency(results: Sequence[ScaleResults], subject: str) -> list[DependencyPoint]:
    return [_dependency_at(r, run, *end) for r in results for run in r.of(subject) for end in _ends(run)]


def _ends(run: RunRecord) -> list[tuple[int, int]]:
    """(step, tokens) of the ends of schedules at which the interventions were measured: of the trunk's steps only the last."""
    tokens = {end.step: end.tokens for end in run.evaluation.schedule_ends} if run.evaluation else {}
    measured = run.ablation_steps if run.ablation is None or run.ablation.annealed else run.ablation_steps[-1:]
    return [(step, tokens[step]) for step in measured if step in tokens]


def _dependency_at(results: ScaleResults, run: RunRecord, step: int, tokens: int) -> DependencyPoint:
    method, row = dep.primary(results), run.contribution(step)
    damages = [run.damage(*method.removal(branch), step) for branch in (names.LATENT, names.SURFACE)]
    return DependencyPoint(
        scale=results.scale,
        seed=run.seed,
        parameters=run.header.parameters.total,
        tokens=tokens,
        statistic=dep.statistic(run, method, step),
        damage_latent=damages[0],
        damage_surface=damages[1],
        share=dep.latent_share(run, step),
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
