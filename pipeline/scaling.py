"""Fit how each arm's loss falls with training compute over several scales of one study, and the multiplier between fits.

Writes ``reports/scaling/<study>/scaling.json``, ``.svg`` and ``.csv``. Needs results at four scales or more.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lolm.analysis.scaling import MINIMUM, ScalingError, ScalingFit, collect, fit_scaling, multipliers
from lolm.config import load_params
from lolm.records import write_json, write_text
from lolm.records.results import ScaleResults, load_results
from lolm.report.figures.scaling import scaling as picture
from pipeline.stage import main


def scaling() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", required=True, nargs="+", help="presets under `scales` in params.yaml, four or more")
    parser.add_argument("--study", help="name under `studies` in params.yaml (default: the one in `study`)")
    args = parser.parse_args()
    results = load_scales(list(dict.fromkeys(args.scales)), args.study)
    study, confidence = results[0].params.selected, results[0].analysis.confidence
    arms = [arm for arm in study.arms if len({p.scale for p in collect(results, arm)}) >= MINIMUM]
    if not arms:
        raise ScalingError(f"no arm of study {study.name!r} was evaluated at {MINIMUM} scales; run `make repro SCALE=…` for each")
    fits = {arm: fit_scaling(arm, collect(results, arm), confidence) for arm in arms}
    baseline = fits.get(study.baseline)
    curves = {arm: multipliers(baseline, fit) for arm, fit in fits.items() if arm != study.baseline} if baseline else {}
    drawn = picture(results[0], fits, curves)
    folder = Path("reports") / "scaling" / study.name
    write_text(folder / "scaling.svg", drawn.svg)
    write_text(folder / "scaling.csv", drawn.csv())
    write_json(
        folder / "scaling.json",
        {
            "study": study.name,
            "scales": [r.scale for r in results],
            "seeds": list(results[0].seeds),
            "baseline": study.baseline,
            "arms": {arm: described(fit) for arm, fit in fits.items()},
            "multipliers": {arm: {"at": [row for row in rows if row["multiplier"] is not None]} for arm, rows in curves.items()},
        },
    )
    for arm, fit in fits.items():
        ends = fit.interval("exponent")
        shown = "one seed, no interval" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
        print(f"{arm}: {fit.form}, exponent {fit.law.exponent:.3f} [{shown}]")
    print(f"scaling: {folder / 'scaling.svg'}")


def load_scales(scales: list[str], study: str | None) -> list[ScaleResults]:
    """Results of every scale that has them.

    Raises:
        ConfigError: unknown scale or study.
        RecordError: a record is broken.
        ScalingError: fewer than four scales have results; the message says how to make the others.
    """
    params = load_params()
    found, lacking = [], []
    for scale in scales:
        results = load_results(".", scale, params, study)
        if any(run.test_nats is not None for run in results.runs):
            found.append(results)
        else:
            lacking.append(f"{scale}: no run was evaluated; make them with `make repro SCALE={scale} STUDY={results.study}`")
    if len(found) < MINIMUM:
        names = ", ".join(r.scale for r in found) or "none"
        raise ScalingError(
            f"a scaling fit needs results at {MINIMUM} scales or more, and {len(found)} of the {len(scales)} given have them "
            f"({names})" + "".join(f"; {text}" for text in lacking)
        )
    return found


def described(fit: ScalingFit) -> dict[str, Any]:
    """A fit as numbers: parameters with percentile intervals, and the range of FLOPs in which it may be read."""
    law = fit.law
    parameters = {name: {"value": getattr(law, name), "interval": fit.interval(name)} for name in ("floor", "height", "exponent")}
    return {"form": fit.form, "unit_flops": law.unit, "low_flops": law.low, "high_flops": law.high, **parameters}


if __name__ == "__main__":
    main(scaling)
