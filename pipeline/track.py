"""Fill MLflow from the records on disk: of one scale, or of all.

Runs that a stage did not make here (restored from DVC's cache, pulled into a fresh clone, trained while the store was away)
show up once, and what is there already is not written again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lolm import LolmError, tracking
from pipeline import stage


def recorded_scales() -> list[str]:
    """Scales that have finished runs or a report under the current folder."""
    runs = {path.parents[2].name for path in Path("artifacts").glob("*/runs/*/summary.json")}
    return sorted(runs | {path.parents[1].name for path in Path("reports").glob("*/*/claims.json")})


def track() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--scale", help="only this scale")
    which.add_argument("--all", action="store_true", help="every scale with records (the default)")
    args = parser.parse_args()
    recorded = recorded_scales()
    if args.scale and args.scale not in recorded:
        raise LolmError(f"artifacts/{args.scale} holds no finished run; recorded scales: {', '.join(recorded) or 'none'}")
    for scale in [args.scale] if args.scale else recorded:
        written = tracking.sync_scale(scale)
        print(f"{tracking.experiment_name(scale)}: " + (f"{written} runs written" if written else "nothing new"))
    if not recorded:
        print("no records yet; `make repro` or `dvc repro` makes them")


if __name__ == "__main__":
    stage.main(track)
