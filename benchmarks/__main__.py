"""Measure how fast the code is on this machine: `make bench`. Beside the pipeline, because timings differ every time.

Writes ``reports/benchmark.json`` and ``reports/figures/benchmark.svg`` (with ``.csv``), and fills one MLflow run. With `--quick`
the same under the name ``benchmark_quick``, which no page shows.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from lolm.config import load_params
from lolm.config.ranges import Count
from lolm.records import write_json
from pipeline.report import BENCHMARK, draw_benchmark
from pipeline.stage import main, option


def run() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # peers must not look for kernels on the network
    from benchmarks import ARMS, PARTS, Settings, benchmark
    from lolm.tracking import try_sync_benchmark

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="tiny", help="preset under `scales` in params.yaml (default: tiny)")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help=f"default: {' '.join(ARMS)}")
    parser.add_argument("--rounds", type=option(Count), default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--parts", type=lambda value: value.split(","), default=list(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to see that it works; says nothing about speed")
    args = parser.parse_args()
    make, path = (Settings.quick, BENCHMARK.with_stem("benchmark_quick")) if args.quick else (Settings, BENCHMARK)
    record = benchmark(make(load_params(), args.scale, tuple(args.arms)), args.parts, args.rounds, quiet=False)
    draw_benchmark(record, path)
    write_json(path, record)
    for line in lines(record):
        print(line)
    print(f"benchmark: {path}; " + ("no page shows it" if args.quick else f"`make report` shows it in the pages of {args.scale}"))
    try_sync_benchmark(path)


def lines(record: dict[str, Any], name: str = "") -> list[str]:
    """Every number with quartiles, and every reason for a missing one, a line each."""
    if "median" in record:
        return [f"{name}: {record['median']:.4g} [{record['low']:.4g}, {record['high']:.4g}]"]
    found: list[str] = []
    for key, value in record.items():
        if isinstance(value, dict):
            found += lines(value, f"{name} / {key}" if name else key)
        elif key == "skipped":
            found.append(f"{name}: skipped, {value}")
    return found


if __name__ == "__main__":
    main(run)
