"""Claims about the gate: its level, its path, its supervised target, and what it says about the streams' shares."""

from __future__ import annotations

import math

from lolm.analysis.dependency import follows
from lolm.analysis.efficiency import window_rows
from lolm.analysis.statistics import paired_difference, t_interval
from lolm.claims.ledger import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    UNTESTABLE,
    Claim,
    Quantity,
    above,
    runs_of,
    show,
    untestable,
    why_of,
    within,
)
from lolm.claims.published import NUMBERS
from lolm.records.results import RunRecord, ScaleResults

LEVELS = ("gate_20m", "gate_149m", "gate_304m", "gate_157b")
LEVEL = "The mean gate settles at the published level (0.27, 0.55, 0.83, 0.71 from 20.5M to 1.57B)."
SURFACE = "The gate settles above one half: it favours the surface stream."
REVERSAL = "The gate reverses: it dips below its start, then climbs above it (0.36, 0.17, 0.83)."
TARGET = "The gate finds its level by itself."
SHARE = "One minus the mean gate is the latent stream's share of the signal."


def claims(results: ScaleResults) -> list[Claim]:
    """Level, direction, reversal, supervision, share."""
    runs = tuple(run for run in results.of(results.subject) if run.points("gate/mean")[1]) if results.subject else ()
    if not runs:
        why = "these runs hold no LOLM with a gate"
        return [
            untestable("gate_level", "gate", LEVEL, LEVELS, why),
            untestable("gate_surface", "gate", SURFACE, ("gate_304m", "gate_157b"), why),
            untestable("gate_reversal", "gate", REVERSAL, ("gate_start", "gate_dip", "gate_304m"), why),
            untestable("gate_target", "gate", TARGET, (), why),
            untestable("gate_share", "gate", SHARE, ("latent_share",), why),
        ]
    return [
        _level(results, runs),
        _surface(results, runs),
        _reversal(results, runs),
        _target(results, runs),
        _share(results, runs),
    ]


def _held_out(run: RunRecord) -> float:
    """Mean gate on held-out text: of the evaluation, or of the last validation pass."""
    if run.evaluation is not None and run.evaluation["gate"] is not None:
        return run.evaluation["gate"]["mean"]
    return run.points("val/gate_mean")[1][-1]


def _logged(run: RunRecord, window: int) -> float:
    """Mean gate on training batches over the published window at the end of the run."""
    values = run.points("gate/mean")[1][-window_rows(run, window) :]
    return math.fsum(values) / len(values)


def _pair(results: ScaleResults, runs: tuple[RunRecord, ...]) -> tuple[Quantity, Quantity]:
    confidence, window = results.analysis.confidence, results.analysis.published_window
    ours = Quantity.of(
        t_interval([_logged(r, window) for r in runs], confidence), "gate", "mean over training batches at the end of the run"
    )
    sound = Quantity.of(
        t_interval([_held_out(r) for r in runs], confidence), "gate", "mean over tokens and dimensions, test split, noise off"
    )
    return ours, sound


def _level(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    ours, sound = _pair(results, runs)
    same = next((key for key in LEVELS if NUMBERS[key].scale == results.scale), None)
    margin = results.analysis.gate_margin
    rule = (
        f"at a published scale: holds if the whole interval lies within {margin:g} of the published level, fails if none of it "
        "does; elsewhere no published level applies"
    )
    if same is None:
        verdict = UNTESTABLE
        why = f"The levels belong to published models; at scale {results.scale} the gate ends at {show(sound.value, 'gate')}."  # type: ignore[arg-type]
    elif sound.interval is None:
        verdict, why = INCONCLUSIVE, "One seed gives no interval."
    else:
        published = NUMBERS[same].value
        verdict = within(t_interval(sound.per_seed, results.analysis.confidence), published, margin)
        state = {HOLDS: "lies within", FAILS: "lies outside", INCONCLUSIVE: "is not settled against"}[verdict]
        why = f"The interval, {sound.shown_interval}, {state} ±{margin:g} of the published {published}."
    return Claim("gate_level", "gate", LEVEL, LEVELS, ours, sound, verdict, why, rule, runs_of(runs))


def _surface(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    ours, sound = _pair(results, runs)
    estimate = t_interval([_held_out(r) for r in runs], results.analysis.confidence)
    why = f"On held-out text {why_of(estimate, 0.5, 'gate')}. This is the level of a coefficient, not of a contribution."
    rule = "holds if the interval of the mean gate lies above 0.5, fails if none of it does"
    return Claim(
        "gate_surface", "gate", SURFACE, ("gate_304m", "gate_157b"), ours, sound, above(estimate, 0.5), why, rule, runs_of(runs)
    )


def _reversal(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    """Depth of the dip and height of the climb.

    The lowest point of a noisy curve is low by selection, so the step of the dip is read off the mean curve of the *other*
    seeds; with one seed there is no other, and the value carries no interval.
    """
    keys = ("gate_start", "gate_dip", "gate_304m")
    confidence = results.analysis.confidence
    curves = [dict(zip(*run.points("gate/mean"), strict=True)) for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    if len(steps) < 3:
        return untestable("gate_reversal", "gate", REVERSAL, keys, "too few log windows during training")
    dips = []
    for i, curve in enumerate(curves):
        others = [c for j, c in enumerate(curves) if j != i] or [curve]
        at = min(steps, key=lambda step: math.fsum(c[step] for c in others))
        dips.append(curve[at])
    start, end = [c[steps[0]] for c in curves], [c[steps[-1]] for c in curves]
    dip, climb = paired_difference(start, dips, confidence), paired_difference(end, start, confidence)
    parts = (above(dip, 0.0), above(climb, 0.0))
    verdict = HOLDS if parts == (HOLDS, HOLDS) else FAILS if FAILS in parts else INCONCLUSIVE
    mean_start, mean_end = t_interval(start).value, t_interval(end).value
    why = (
        f"From {mean_start:.2f} through {t_interval(dips).value:.2f} to {mean_end:.2f}. Depth of the dip: "
        f"{why_of(dip, 0.0, 'gate')}. "
        f"End above start: {why_of(climb, 0.0, 'gate')}."
    )
    if not any(dip.per_seed):
        top = max(steps, key=lambda step: math.fsum(c[step] for c in curves))
        peak = t_interval([c[top] for c in curves]).value
        why += (
            f" The first log window is the lowest: the gate rises to {peak:.2f} at step {top:g} and then ends at {mean_end:.2f}."
        )
    details = {
        "depth of the dip": Quantity.of(dip, "gate", "first log window minus the dip"),
        "end minus start": Quantity.of(climb, "gate", "last log window minus the first"),
    }
    ours = Quantity.of(t_interval([min(c.values()) for c in curves], confidence), "gate", "lowest log window of each run")
    sound = Quantity.of(
        dip,
        "gate",
        "depth of the dip below the first log window; its step is taken from the other seeds, so that noise makes no dip",
    )
    rule = "holds if both the dip and the climb above the start exceed 0, fails if either does not"
    return Claim("gate_reversal", "gate", REVERSAL, keys, ours, sound, verdict, why, rule, runs_of(runs), details)


def _target(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    measured = [
        run for run in runs if run.evaluation and run.evaluation["gate"] and run.evaluation["gate"].get("target") is not None
    ]
    weights = [run.config["run"]["architecture"]["objectives"]["competitive_weight"] for run in runs]
    if len(measured) < len(runs) or not all(weights):
        why = "in these runs no loss gives the gate a target" if not all(weights) else "the gate's target was not measured"
        return untestable("gate_target", "gate", TARGET, (), why)
    confidence, margin = results.analysis.confidence, results.analysis.gate_margin
    gates = [run.evaluation["gate"]["mean"] for run in runs]  # type: ignore[index]
    targets = [run.evaluation["gate"]["target"] for run in runs]  # type: ignore[index]
    gap = paired_difference(gates, targets, confidence)
    details = {
        "mean target": Quantity.of(t_interval(targets, confidence), "gate", "mean of sigmoid(5 (u_h - u_z)) on the test split")
    }
    found = [follows(run) for run in runs]
    tracks = [one.correlation for one in found if one is not None and one.correlation is not None]
    if len(tracks) == len(runs):
        details["correlation over training"] = Quantity.of(
            t_interval(tracks, confidence), "r", "Pearson correlation of logged gate and logged target over log windows"
        )
    if gap.interval is None:
        verdict, why = INCONCLUSIVE, "One seed gives no interval"
    elif -margin < gap.interval[0] and gap.interval[1] < margin:
        verdict, why = FAILS, f"The gate sits on its supervised target: their difference lies within ±{margin:g}"
    else:
        outside = gap.interval[0] >= margin or gap.interval[1] <= -margin
        state = f"stays more than {margin:g} away from" if outside else f"is not shown to lie within ±{margin:g} of"
        verdict, why = INCONCLUSIVE, f"The gate {state} its target; whether the target shaped it, a run without this loss decides"
    why += (
        f" (gate {t_interval(gates).value:.3f}, target {t_interval(targets).value:.3f}). A loss of weight "
        f"{weights[0]:g} pulls the mean gate there."
    )
    rule = (
        f"fails if the gate is equivalent to its target within {margin:g}; otherwise inconclusive, since only an "
        "arm without the target could show it"
    )
    return Claim(
        "gate_target",
        "gate",
        TARGET,
        (),
        None,
        Quantity.of(gap, "gate", "mean gate minus mean target, test split"),
        verdict,
        why,
        rule,
        runs_of(runs),
        details,
    )


def _share(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    shares = [run.evaluation["gate"]["share"] for run in runs if run.evaluation and run.evaluation["gate"]]
    if len(shares) < len(runs):
        return untestable("gate_share", "gate", SHARE, ("latent_share",), "the branches' shares were not measured")
    confidence, margin = results.analysis.confidence, results.analysis.gate_margin
    latent = t_interval([1 - share for share in shares], confidence)
    naive = t_interval([1 - _held_out(run) for run in runs], confidence)
    gap = paired_difference(naive.per_seed, latent.per_seed, confidence)
    if gap.interval is None:
        verdict, why = INCONCLUSIVE, "One seed gives no interval."
    elif -margin < gap.interval[0] and gap.interval[1] < margin:
        verdict, why = HOLDS, f"The two agree within ±{margin:g}."
    elif gap.interval[0] > margin or gap.interval[1] < -margin:
        verdict, why = FAILS, f"They differ by {gap.value:+.3f}, more than {margin:g}."
    else:
        verdict, why = (
            INCONCLUSIVE,
            f"Their difference, {gap.interval[0]:+.3f} to {gap.interval[1]:+.3f}, is not settled against ±{margin:g}.",
        )
    why += (
        f" One minus the gate says {show(naive.value, 'share')}, the latent branch's share of the power is "
        f"{show(latent.value, 'share')}."
    )
    return Claim(
        "gate_share",
        "gate",
        SHARE,
        ("latent_share",),
        Quantity.of(naive, "share", "one minus the mean gate"),
        Quantity.of(latent, "share", "mean of |(1-g) v|² / (|g u|² + |(1-g) v|²), test split"),
        verdict,
        why,
        f"holds if the two agree within {margin:g}, fails if they differ by more",
        runs_of(runs),
    )
