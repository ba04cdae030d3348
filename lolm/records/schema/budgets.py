"""What the study over sizes and budgets found, over several scales: ``reports/budgets/budgets.json``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Value:
    """A number with its interval. An end that is None has no bound; without an interval both are None and ``n`` is below 2."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True)
class BudgetPoint:
    """Test loss where a schedule of a run ended, nats a token, and what was spent by then; the run's peak learning rate and
    fingerprint."""

    arm: str
    scale: str
    seed: int
    parameters: int
    tokens: int
    flops: float
    nats: float
    learning_rate: float | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class BudgetLaw:
    """L(N, D) = floor + a N^-alpha + b D^-beta of one arm, at kappa N^gamma D training FLOPs, see :mod:`lolm.analysis.scaling`.

    Attributes:
        shared: whether the floor is that of all arms.
        form: p value of the test that seeds alone make such a misfit; None without two seeds.
        loose: parameters that the points hardly fix.
    """

    arm: str
    shared: bool
    floor: Value
    a: Value
    alpha: Value
    b: Value
    beta: Value
    kappa: float
    gamma: float
    runs: int
    freedom: int
    noise: float | None
    misfit: float
    form: float | None
    cost: float
    loose: tuple[str, ...]


@dataclass(frozen=True)
class PathPoint:
    """Least loss of an arm at a training cost, and the size and tokens that reach it; ``inside``: both among those measured."""

    arm: str
    flops: float
    parameters: float
    tokens: float
    nats: Value
    inside: bool


@dataclass(frozen=True)
class PathMultiplier:
    """Compute that ``baseline`` needs for the subject's least loss at ``flops``, over ``flops``; None: no amount reaches it."""

    baseline: str
    shared: bool
    flops: float
    multiplier: Value
    inside: bool


@dataclass(frozen=True)
class PathSlope:
    """Factor by which the multiplier against ``baseline`` changes when compute grows tenfold, ``low`` to ``high`` FLOPs: where
    both arms' best size and tokens were measured. ``inside``: share of the compute that both spent, on a logarithmic scale."""

    baseline: str
    shared: bool
    low: float
    high: float
    tenfold: Value
    inside: float


@dataclass(frozen=True)
class MeasuredGap:
    """Loss of ``baseline`` minus the subject's at one size and budget, paired by seed, nats: no law is in it."""

    baseline: str
    scale: str
    tokens: int
    nats: Value


@dataclass(frozen=True)
class Trend:
    """Change of a quantity when one of tokens and parameters grows tenfold, the other held; no law is in it.

    ``against`` is the other arm where the quantity is a gap between arms, or a multiplier: its change is a factor.
    ``by_scale`` is the change over tokens at each size; ``tokens`` that of all, without a value where sizes are shown to differ.
    """

    quantity: str
    against: str
    unit: str
    tokens: Value
    parameters: Value
    by_scale: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class DependencyPoint:
    """The subject at one end of a schedule: S and damage by the declared way of removal, nats; the latent branch's share of the
    gated signal; mean gate. None where not measured."""

    scale: str
    seed: int
    parameters: int
    tokens: int
    statistic: float | None
    damage_latent: float | None
    damage_surface: float | None
    share: float | None
    gate: float | None


@dataclass(frozen=True)
class Prediction:
    """What the laws say of a published size at its planned tokens: an extrapolation, on this study's text and tokens.

    ``gap``: loss of ``arm`` minus the subject's, nats; None for the subject.
    """

    scale: str
    arm: str
    parameters: int
    tokens: int
    nats: Value
    gap: Value | None


@dataclass(frozen=True)
class BudgetSettings:
    """The settings under ``analysis`` of params.yaml that decide a number of the record, by their names there."""

    confidence: float
    huber: float
    replicates: int
    pooling_level: float
    inversion_statistic: str


@dataclass(frozen=True)
class Budgets:
    """Attributes:
    scales: by scale, the study of its runs.
    settings: what it was read under.
    subject, baseline: the declared pair.
    made, asked: numbers of runs; ``missing`` names those that were not made, ``<scale>: <arm>-<seed>``, or lack a measurement.
    diverged: those whose loss was not finite; they are in no number.
    refused: by arm, why it has no law.
    training_flops: of the whole study.
    """

    scales: dict[str, str]
    settings: BudgetSettings
    subject: str
    baseline: str
    made: int
    asked: int
    missing: tuple[str, ...]
    training_flops: float
    refused: dict[str, str]
    diverged: tuple[str, ...] = ()
    points: tuple[BudgetPoint, ...] = ()
    laws: tuple[BudgetLaw, ...] = ()
    paths: tuple[PathPoint, ...] = ()
    multipliers: tuple[PathMultiplier, ...] = ()
    slopes: tuple[PathSlope, ...] = ()
    gaps: tuple[MeasuredGap, ...] = ()
    trends: tuple[Trend, ...] = ()
    dependency: tuple[DependencyPoint, ...] = ()
    predictions: tuple[Prediction, ...] = ()
