"""Which branch a model depends on: the inversion statistic, its null, and its path over training.

For a way of removing a branch, and at one checkpoint of one run,

    S = (loss without latent − loss) − (loss without surface − loss), nats a token,

so S > 0 where removing the latent branch hurts more. One way is declared in ``analysis.inversion_statistic`` before the runs; it
alone decides. The others are controls: what a head makes of a branch's absence depends on what stands in its place (spec F4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lolm.analysis.statistics import Estimate, correlation, t_interval
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults
from lolm.records.schema import Ablation

INVERTED, NOT_INVERTED, UNDECIDED = "inverted", "not inverted", "inconclusive"


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


def over_seeds(runs: Sequence[RunRecord], method: RemovalMethod, confidence: float, step: int | None = None) -> Estimate | None:
    """S over seeds; None unless every run has it."""
    values = [statistic(run, method, step) for run in runs]
    return None if not values or None in values else t_interval(values, confidence)  # type: ignore[arg-type]


def call(found: Estimate, margin: float) -> str:
    """``inverted`` if the interval lies above the margin, ``not inverted`` if none of it does, else ``inconclusive``."""
    if found.interval is None:
        return UNDECIDED
    low, high = found.interval
    return INVERTED if low > margin else NOT_INVERTED if high <= margin else UNDECIDED


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
            latent addend's share of the variance of o. None where not measured.
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
            latent = None if record is None else record.addends.get(names.LATENT)
            gate = None if record is None else record.gate
            found.append(
                Checkpoint(
                    run.seed,
                    step,
                    statistic(run, method, step),  # type: ignore[arg-type]
                    _nearest(run, names.VAL_GATE_MEAN, step) if gate is None else gate,
                    _nearest(run, names.GATE_TARGET, step),
                    None if latent is None else latent.variance_share,
                )
            )
    return tuple(found)


def _nearest(run: RunRecord, metric: str, step: int) -> float | None:
    steps, values = run.points(metric)
    return None if not steps else values[min(range(len(steps)), key=lambda i: abs(steps[i] - step))]


@dataclass(frozen=True)
class Following:
    """How closely a gate follows its target over log windows: Pearson's r (None where one is constant) and the RMS gap."""

    correlation: float | None
    rms_gap: float


def follows(run: RunRecord) -> Following | None:
    """Logged mean gate against the logged target of L_comp; None where either was not logged."""
    gate, target = (dict(zip(*run.points(key), strict=True)) for key in (names.GATE_LEVEL, names.GATE_TARGET))
    steps = sorted(set(gate) & set(target))
    if not steps:
        return None
    a, b = [gate[s] for s in steps], [target[s] for s in steps]
    return Following(correlation(a, b), math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(steps)))
