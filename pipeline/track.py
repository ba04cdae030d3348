"""Fill MLflow from the records on disk: of one scale, or of all.

Runs that were not made here (those of a fresh clone, or trained while the store was away)
show up once, and what is there already is not written again.
"""

from __future__ import annotations

import argparse

from lolm import LolmError, tracking
from lolm.records import recorded_scales
from pipeline import stage


def track() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--scale", help="only this scale")
    which.add_argument("--all", action="store_true", help="every scale with records (the default)")
    args = parser.parse_args()
    recorded = recorded_scales()
    if args.scale and args.scale not in recorded:
        raise LolmError(f"reports/{args.scale} holds no record of a run; recorded scales: {', '.join(recorded) or 'none'}")
    for scale in [args.scale] if args.scale else recorded:
        written = tracking.sync_scale(scale)
        print(f"{tracking.experiment_name(scale)}: " + (f"{written} runs and reports written" if written else "nothing new"))
    if not recorded:
        print("no records yet; `make repro` or `dvc repro` makes them")


if __name__ == "__main__":
    stage.main(track)
