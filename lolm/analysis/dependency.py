"""Which branch a model depends on: the inversion statistic, its null, and its path over training.

For a way of removing a branch, and at one checkpoint of one run,

    S = (loss without latent − loss) − (loss without surface − loss), nats a token,

so S > 0 where removing the latent branch hurts more. One way is declared in ``analysis.inversion_statistic`` before the runs; it
alone decides. The others are controls: what a head makes of a branch's absence depends on what stands in its place (facts F4).

The claim is that the *smaller* branch is missed more, and S grows with a branch's share of the gated signal, so S is an inversion
only beside a share below one half (facts F5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lolm.analysis.statistics import (
    Estimate,
    complete_interval,
    correlation,
    holm,
    p_value,
    paired_difference,
)
from lolm.analysis.uncertainty import estimate, text_weights
from lolm.config import AnalysisConfig
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults
from lolm.records.schema import Ablation

INVERTED, MAJORITY, NO_INVERSION = "inverted", "latent majority", "no inversion"
NOT_INVERTED, UNDECIDED = "not inverted", "inconclusive"
HALF = 0.5  # of the gated signal: a branch below it is the smaller one


@dataclass(frozen=True)
class RemovalMethod:
    """A way of removing either branch, alike for both.

    Attributes:
        way: ``gate`` (forced to 1 and to 0, as published), ``zero``, ``mean``, ``resample`` or ``gaussian``.
        matched: o is rescaled to the length it has in the unchanged model.
        fitted: one temperature is fitted to each of the two losses, on other text.
    """

    way: str
    matched: bool = False
    fitted: bool = False

    @property
    def name(self) -> str:
        controls = (names.MATCH_NORM,) * self.matched + (names.TEMPERATURE,) * self.fitted
        return names.joined(self.way, *controls)

    @property
    def label(self) -> str:
        """The way in words."""
        return LABELS[self.way] + (", norm kept" if self.matched else "") + (", temperature fitted" if self.fitted else "")

    def removal(self, branch: str) -> tuple[str, float | None]:
        """(intervention, value) that removes ``latent`` or ``surface``, as ablation records name it."""
        latent, surface = names.REMOVALS[self.way]
        name, value = latent if branch == names.LATENT else surface
        return names.joined(name, names.MATCH_NORM) if self.matched else name, value


LABELS = {
    names.GATE: "gate forced to 1 or 0",
    names.ZERO: "branch zeroed",
    names.MEAN: "branch's mean",
    names.RESAMPLE: "branch of another text",
    names.GAUSSIAN: "noise of the branch's mean and variance",
}
REMOVAL_METHODS = tuple(
    RemovalMethod(way, matched, fitted) for way in names.REMOVALS for matched in (False, True) for fitted in (False, True)
)


def ways(run: RunRecord) -> tuple[RemovalMethod, ...]:
    """Those that differ in a run: keeping the length of o is none where a norm before the head takes all lengths away."""
    scale_free = run.header.run.architecture.recipe.head_norm != "none"
    return tuple(method for method in REMOVAL_METHODS if not (method.matched and scale_free))


def loss(run: RunRecord, method: RemovalMethod, branch: str, step: int | None = None) -> float | None:
    """Loss without a branch, nats a token; None where it was not measured."""
    return None if run.ablation is None else _loss(run.ablation, method, branch, step)


def statistic(run: RunRecord, method: RemovalMethod, step: int | None = None) -> float | None:
    """S of a run at one checkpoint, default the last, nats a token; None where it was not measured."""
    return None if run.ablation is None else _statistic(run.ablation, method, step)


def statistics(ablation: Ablation, step: int | None = None) -> dict[str, float]:
    """S at one checkpoint, default the last, by the name of the plain removal methods with which both branches were removed."""
    plain = (method for method in REMOVAL_METHODS if not (method.matched or method.fitted))
    found = {method.name: _statistic(ablation, method, step) for method in plain}
    return {name: value for name, value in found.items() if value is not None}


def _loss(ablation: Ablation, method: RemovalMethod, branch: str, step: int | None) -> float | None:
    found = ablation.condition(*method.removal(branch), step)
    return None if found is None else found.nats_fitted if method.fitted else found.nats


def _statistic(ablation: Ablation, method: RemovalMethod, step: int | None) -> float | None:
    latent, surface = (_loss(ablation, method, branch, step) for branch in (names.LATENT, names.SURFACE))
    return None if latent is None or surface is None else latent - surface


def over_seeds(
    runs: Sequence[RunRecord], method: RemovalMethod, analysis: AnalysisConfig, step: int | None = None
) -> Estimate | None:
    """S over seeds; None unless every run has it.

    At the last checkpoint the interval covers text too, by the runs whose records have losses by window of both removals, if
    there are two of them at least: a window is a unit of text, since they lie far apart.
    """
    values = [statistic(run, method, step) for run in runs]
    found = complete_interval(values, analysis.confidence)
    plain = step is None and not (method.matched or method.fitted)
    windows = [] if found is None or not plain else [w for run in runs if (w := _windows(run, method))]
    if len(windows) < 2 or len({len(each) for each in windows}) > 1:
        return found
    weights_DU = text_weights(units := len(windows[0]), analysis.bootstrap_draws, analysis.bootstrap_seed)
    draws_DS = weights_DU @ np.array(windows).T / units
    return estimate(values, (), analysis, paired=False, draws_DS=draws_DS, units=units)  # type: ignore[arg-type]


def _windows(run: RunRecord, method: RemovalMethod) -> list[float]:
    """S of each window of the text; empty where it was not kept."""
    found = [run.condition(*method.removal(branch)) for branch in (names.LATENT, names.SURFACE)]
    no_latent, no_surface = ((), ()) if None in found else (one.window_nats for one in found)  # type: ignore[union-attr]
    return [a - b for a, b in zip(no_latent, no_surface, strict=True)]


def latent_share(run: RunRecord, step: int | None = None, spread: bool = False) -> float | None:
    """The latent branch's share of the gated signal, |(1 − g) v|² / (|g u|² + |(1 − g) v|²), at one checkpoint, default the last.

    Args:
        spread: its share of the two branches' variance over tokens instead.

    Returns None where it was not measured; at the last checkpoint the evaluation's, of more text, comes first.
    """
    gate = None if run.evaluation is None else run.evaluation.gate
    if step is None and gate is not None and not spread:
        return 1 - gate.share
    record = run.contribution(step)
    latent = None if record is None else record.addends.get(names.LATENT)
    return None if latent is None else latent.spread_share if spread else latent.share


def share_over_seeds(runs: Sequence[RunRecord], confidence: float, spread: bool = False) -> Estimate | None:
    """The latent branch's share over seeds; None unless every run has it."""
    return complete_interval((latent_share(run, spread=spread) for run in runs), confidence)


def call(found: Estimate, share: Estimate | None, margin: float, band: float) -> str:
    """What S and the latent branch's share say by their intervals over seeds, the first that applies:

    - ``inverted``: S above the margin, the share below one half;
    - ``latent majority``: S above the margin, the share not below one half: a larger branch is missed more;
    - ``no inversion``: S within ±band, not above the margin;
    - ``not inverted``: none of S above the margin;
    - ``inconclusive``: else, as where the share is not measured, its interval covers one half, or there is one seed.
    """
    if found.interval is None:
        return UNDECIDED
    low, high = found.interval
    if low > margin:
        if share is None or share.interval is None:
            return UNDECIDED
        return INVERTED if share.interval[1] < HALF else MAJORITY if share.interval[0] >= HALF else UNDECIDED
    return NO_INVERSION if -band < low and high < band else NOT_INVERTED if high <= margin else UNDECIDED


@dataclass(frozen=True)
class ArmCall:
    """One arm of a study by the declared statistic.

    Attributes:
        called: by the intervals of this arm alone; ``corrected``: what is left of it after Holm's correction over all arms.
        p_value: two-sided, adjusted: of the test that the call rests on; 1 where nothing is called.
    """

    arm: str
    found: Estimate
    share: Estimate | None
    called: str
    corrected: str
    p_value: float


def calls(results: ScaleResults) -> tuple[ArmCall, ...]:
    """Every arm that has S, in the study's order, all calls corrected together."""
    analysis, method = results.analysis, primary(results)
    found, p_values = [], []
    for arm in results.arms:
        s = over_seeds(results.of(arm), method, analysis)
        if s is not None:
            share = share_over_seeds(results.of(arm), analysis.confidence)
            called = call(s, share, analysis.inversion_margin, analysis.inversion_band)
            found.append(ArmCall(arm, s, share, called, UNDECIDED, 1.0))
            p_values.append(_p_of(called, s, share, analysis))
    kept = [(one, p, p < 1 - analysis.confidence) for one, p in zip(found, holm(p_values), strict=True)]
    return tuple(replace(one, p_value=p, corrected=one.called if shown else UNDECIDED) for one, p, shown in kept)


def _p_of(called: str, s: Estimate, share: Estimate | None, analysis: AnalysisConfig) -> float:
    """The level at which the widening intervals would cease to give a call: the largest p of the bounds that it rests on."""
    bounds: dict[str, list[tuple[Estimate | None, float]]] = {
        INVERTED: [(s, analysis.inversion_margin), (share, HALF)],
        MAJORITY: [(s, analysis.inversion_margin), (share, HALF)],
        NO_INVERSION: [(s, -analysis.inversion_band), (s, analysis.inversion_band)],
        NOT_INVERTED: [(s, analysis.inversion_margin)],
        UNDECIDED: [],
    }
    tested = [p_value(one, at) for one, at in bounds[called] if one is not None]
    return max((p for p in tested if p is not None), default=1.0)


@dataclass(frozen=True)
class WayContrast:
    """S by one way of removing a branch minus S by another, paired by seed.

    Attributes:
        adjusted: Holm's p, over all that were asked, that they differ.
        beyond: the same that they differ by more than a margin; 1 where the mean lies within it.
    """

    first: RemovalMethod
    second: RemovalMethod
    difference: Estimate
    adjusted: float | None
    beyond: float | None


def way_contrasts(runs: Sequence[RunRecord], confidence: float, margin: float = 0.0) -> tuple[WayContrast, ...]:
    """All pairs of the plain ways of removing a branch that every run was measured with."""
    plain = [RemovalMethod(way) for way in names.REMOVALS]
    by_way = [(method, complete_interval((statistic(run, method) for run in runs), confidence)) for method in plain]
    found = [(method, one) for method, one in by_way if one is not None]
    pairs = [(a, b, paired_difference(x.per_seed, y.per_seed, confidence)) for (a, x), (b, y) in combinations(found, 2)]
    adjusted, beyond = _corrected([one for _, _, one in pairs], 0.0), _corrected([one for _, _, one in pairs], margin)
    return tuple(WayContrast(a, b, one, p, q) for (a, b, one), p, q in zip(pairs, adjusted, beyond, strict=True))


def _corrected(found: Sequence[Estimate], margin: float) -> Sequence[float | None]:
    """Holm's p values that means lie outside ±margin, two-sided at its nearer end; None with one seed."""
    raw = [p_value(one, math.copysign(min(margin, abs(one.value)), one.value)) for one in found]
    return raw if None in raw else holm(raw)  # type: ignore[arg-type]


def primary(results: ScaleResults) -> RemovalMethod:
    """The declared way of removing a branch."""
    return RemovalMethod(results.analysis.inversion_statistic)


def checkpoints(runs: Sequence[RunRecord], method: RemovalMethod) -> tuple[int, ...]:
    """Steps at which every run has S, ascending."""
    common = set.intersection(*(set(run.ablation_steps) for run in runs)) if runs else set()
    return tuple(sorted(s for s in common if all(statistic(run, method, s) is not None for run in runs)))


@dataclass(frozen=True)
class Null:
    """S of a run among those of random halves.

    The 2 D dimensions of both branches are split at random into two halves of D, and each half is replaced by its mean. Which
    half is called first is arbitrary, so every draw counts with both signs.

    Attributes:
        observed: S of mean ablation.
        draws: loss without the second half minus loss without the first, one a draw, nats.
    """

    observed: float
    draws: tuple[float, ...]

    @property
    def signed(self) -> tuple[float, ...]:
        """The draws with both signs, ascending."""
        return tuple(sorted([*self.draws, *(-draw for draw in self.draws)]))

    @property
    def rank(self) -> float:
        """Share of the signed draws below the observed S."""
        return sum(draw < self.observed for draw in self.signed) / len(self.signed)

    @property
    def p_value(self) -> float:
        """Two-sided: (1 + draws at least as large in size) / (1 + draws)."""
        return (1 + sum(abs(draw) >= abs(self.observed) for draw in self.draws)) / (1 + len(self.draws))

    @property
    def beyond(self) -> bool:
        """Whether S is larger in size than every draw."""
        return all(abs(draw) < abs(self.observed) for draw in self.draws)


def null(run: RunRecord, step: int | None = None) -> Null | None:
    """The random halves of a run at one checkpoint, default the last; None where they were not measured."""
    observed = statistic(run, RemovalMethod(names.MEAN), step)
    if observed is None:
        return None
    draws: list[float] = []
    while True:
        first, second = (run.condition(names.random_half(len(draws), end), None, step) for end in (names.FIRST, names.SECOND))
        if first is None or second is None:
            return Null(observed, tuple(draws)) if draws else None
        draws.append(second.nats - first.nats)


@dataclass(frozen=True)
class Checkpoint:
    """What is known of one run's gate and dependency at one checkpoint.

    Attributes:
        statistic: S, nats.
        gate: mean gate on held-out text; target: mean supervised target on training batches, nearest log window; share: the
            latent branch's of the gated signal. None where not measured.
    """

    seed: int
    step: int
    statistic: float
    gate: float | None
    target: float | None
    share: float | None


def trajectory(runs: Sequence[RunRecord], method: RemovalMethod) -> tuple[Checkpoint, ...]:
    """Every run at every checkpoint that all share, by seed and step."""
    found = []
    for run in runs:
        for step in checkpoints(runs, method):
            record = run.contribution(step)
            gate = None if record is None else record.gate
            found.append(
                Checkpoint(
                    run.seed,
                    step,
                    statistic(run, method, step),  # type: ignore[arg-type]
                    _nearest(run, names.VAL_GATE_MEAN, step) if gate is None else gate,
                    _nearest(run, names.GATE_TARGET, step),
                    latent_share(run, step),
                )
            )
    return tuple(found)


def _nearest(run: RunRecord, metric: str, step: int) -> float | None:
    steps, values = run.points(metric)
    return None if not steps else values[min(range(len(steps)), key=lambda i: abs(steps[i] - step))]


def follows(run: RunRecord) -> float | None:
    """Pearson's r of logged mean gate and logged target of L_comp over log windows; None where either was not logged or is
    constant."""
    gate, target = (dict(zip(*run.points(key), strict=True)) for key in (names.GATE_LEVEL, names.GATE_TARGET))
    steps = sorted(set(gate) & set(target))
    return correlation([gate[s] for s in steps], [target[s] for s in steps]) if steps else None
