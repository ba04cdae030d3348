"""Exact parameters, FLOPs, state and price of every arm of the study, and what each stage is to make; refuses a baseline that is
not matched, and a step that does not fit into memory.

As a stage it writes ``artifacts/<scale>/plan/<stage>.json``, resolved from ``params.yaml``: each stage depends on its own file,
so that an edit makes again what it touches and nothing else. Who asks for the price changes none: stages may be at work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lolm.accounting.gpus import GPUS, SHOWN, UTILISATION, known_as
from lolm.accounting.plan import plan_notes, plan_rows, stage_inputs
from lolm.accounting.price import GIB, Target, disk, gpu_hours, memory_of, shard_bytes, what_fits
from lolm.accounting.resolve import resolve_run, size_origin
from lolm.config import ConfigError, Params, RunConfig, scale_of
from lolm.config.ranges import Count, PositiveShare
from lolm.records import Layout, write_text
from lolm.records.schema import PlanRow
from pipeline.environment import LAUNCHER, said
from pipeline.estimate import duration, estimate, pieces_of, study_flops
from pipeline.stage import arguments, main, opened, option, refuse_other_scale

HEADINGS = {
    "parameters": "parameters",
    "parameters_active": "active",
    "mismatch": "mismatch",
    "flops_per_token_forward": "FLOPs/token fwd",
    "flops_per_token_training": "training",
    "flops_per_token_palm": "PaLM",
    "state_elements": "state",
    "state_bytes": "bytes",
}
YEAR = 365.25 * 86400  # seconds; what a CPU takes longer for is not meant for it
ELSEWHERE = "H100"
MEMORY = ("weights", "gradients", "optimiser", "activations", "checkpointed", "loss", "peak", "checkpointed")


OPTIONS: dict[str, dict[str, Any]] = {
    "--gpu": {"help": "what is to run it, such as H100: refuses what does not fit there (default: this machine)"},
    "--devices": {
        "type": option(Count),
        "help": "so many for one run, weights and optimiser shared out (default: training.devices)",
    },
    "--utilisation": {
        "type": option(PositiveShare),
        "default": UTILISATION,
        "help": "share of a GPU's peak that a run reaches (default: %(default)s)",
    },
}


def plan() -> None:
    args = arguments(__doc__, more=OPTIONS)
    params = opened(args).params
    refuse_other_scale(params)
    rows = plan_rows(params, params.scale, params.study)
    print(table(rows))
    for arm in rows:
        if origin := size_origin(params, params.scale, arm):
            print(f"{arm}: {origin}")
    for note in plan_notes(params, params.scale, params.study, rows):
        print(f"note: {note}")
    runs = {arm: resolve_run(params, params.scale, arm, params.selected.seeds[0]) for arm in rows}
    if args.devices:  # which training would refuse where they cannot share the batch
        runs = {arm: replace(run, training=replace(run.training, devices=args.devices, nodes=1)) for arm, run in runs.items()}
    devices = next(iter(runs.values())).training.processes
    stage = "DVC_STAGE" in os.environ  # else somebody asks for the price, of a scale that another machine may be meant for
    target = Target.of(args.gpu) if args.gpu else Target.here()
    if not stage:
        show_price(params, rows, runs, target, devices, args.utilisation)
    # Without a GPU and a stage to run, the price is asked for a machine elsewhere; so it is where Slurm has the machines.
    here = target.gpu or (stage and said(LAUNCHER) != "slurm")
    if problems := [text for run in runs.values() if (text := what_fits(run, target, devices))] if here else []:
        raise ConfigError(*problems)
    if stage:
        write_plan(params)
    print(f"the whole study, one run at a time: {whole_study(params, target, stage, devices, args.utilisation)}")


def whole_study(params: Params, target: Target, stage: bool, devices: int, utilisation: float) -> str:
    """How long it takes where it can be meant to run: on the GPU that is named, on this machine, or on :data:`ELSEWHERE` where
    this one has no GPU and the scale is in half precision or would take more than a year."""
    named = target.name in GPUS
    precision = scale_of(params, params.scale).training.precision
    if not named:
        here = estimate(params, pieces_of(params)) if stage or target.gpu or precision == "fp32" else None
        if here and (stage or here.measured or here.seconds < YEAR or not here.known and known_as(target.name) is None):
            return here.text(1)
    gpu = known_as(target.name) or ELSEWHERE
    hours = gpu_hours(study_flops(params), gpu, precision, utilisation) / devices
    count = f"{devices} {gpu}" if devices > 1 else f"one {gpu}"
    asked = "" if named or target.gpu else "; GPU=<name> asks for another"
    return f"about {duration(3600 * hours)} on {count} at {utilisation:.0%} of its peak{asked}"


def show_price(
    params: Params, rows: dict[str, PlanRow], runs: dict[str, RunConfig], target: Target, devices: int, utilisation: float
) -> None:
    """Memory, hours and disk, an arm a line."""
    training = next(iter(runs.values())).training
    # On a CPU machine the price of a scale in half precision is that of a GPU's memory: its kernels are what it is made for.
    gpu = target.gpu or training.precision != "fp32"
    memories = {
        arm: {kept: memory_of(run, gpu, devices, activation_checkpointing=kept) for kept in (False, True)}
        for arm, run in runs.items()
    }
    print(
        f"\nmemory of a step, GiB on each of {devices} {'GPU' if gpu else 'CPU'}{'s' if devices > 1 else ''}: micro-batch "
        f"{training.batch_size} x {training.seq_len:,} tokens, {training.precision}, activation checkpointing "
        f"{'on' if training.activation_checkpointing else 'off'}"
    )
    lines = {}
    for arm, both in memories.items():
        one = both[training.activation_checkpointing]
        parts = one.weights, one.gradients, one.optimizer, both[False].activations, both[True].activations, one.loss
        lines[arm] = [f"{part / GIB:,.2f}" for part in (*parts, both[False].peak, both[True].peak)]
    print(columns(MEMORY, lines))
    if not target.gpu:
        most = max(both[training.activation_checkpointing].peak for both in memories.values())
        short = ": too little" if most > target.usable else ""
        print(f"this machine has {target.usable / GIB:,.1f} GiB for it{short}; GPU=<name> asks for another")
    precision, many = training.precision, f"{devices} GPU{'s' if devices > 1 else ''}"
    print(
        f"\nhours of one run on {many} at {utilisation:.0%} of the peak in {precision}, {training.all_tokens:,} tokens; with * "
        "its micro-batch needs activation checkpointing, with ** it does not fit"
    )
    hours = {}
    for arm, run in runs.items():
        flops = training.all_tokens * rows[arm].flops_per_token_training
        fits = [memory_of(run, True, devices, activation_checkpointing=kept).peak for kept in (False, True)]
        marks = {name: sum(peak > Target.of(name).usable for peak in fits) for name in SHOWN}
        cells = [f"{gpu_hours(flops, name, precision, utilisation) / devices:,.1f}{'*' * marks[name]:2}" for name in SHOWN]
        hours[arm] = [f"{flops:.3g}", *cells]
    print(columns(("FLOPs", *SHOWN), hours))
    whole = study_flops(params)
    costs = ", ".join(f"{gpu_hours(whole, name, precision, utilisation):,.0f} on {name}" for name in SHOWN)
    print(f"GPU-hours of the study, all seeds, sweeps and measurements: {costs}")
    stored = {arm: disk(run, rows[arm].parameters) for arm, run in runs.items()}
    seeds, preset = len(params.selected.seeds), scale_of(params, params.scale)
    weights, checkpoints = (sum(one[name] for one in stored.values()) * seeds for name in ("weights", "checkpoints"))
    shards = shard_bytes(preset.corpus, preset.tokenizer.vocab_size)
    print(
        f"disk: weights and snapshots {weights / GIB:,.1f} GiB, checkpoints of unfinished runs {checkpoints / GIB:,.1f} GiB"
        + (f", token files about {shards / GIB:,.1f} GiB" if shards else "")
    )


def columns(headings: Iterable[str], lines: Mapping[str, Sequence[str]]) -> str:
    """A table of right-aligned cells, an arm a line."""
    width = max(len(arm) for arm in lines) + 1
    rows = [" " * width + "".join(f"{heading:>17}" for heading in headings)]
    return "\n".join(rows + [f"{arm:{width}}" + "".join(f"{cell:>17}" for cell in cells) for arm, cells in lines.items()])


def write_plan(params: Params) -> list[str]:
    """Write the stages' files where their content changed; returns the stages whose it did."""
    layout, changed = Layout(params.scale), []
    for stage, inputs in stage_inputs(params, params.scale, params.study).items():
        path, text = layout.plan(stage), json.dumps(inputs, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            changed.append(stage)
    return changed


def table(rows: dict[str, PlanRow]) -> str:
    """Sizes and costs, an arm a line."""
    return columns(
        HEADINGS.values(),
        {
            arm: [f"{row.mismatch:.2%}" if name == "mismatch" else f"{getattr(row, name):,.0f}" for name in HEADINGS]
            for arm, row in rows.items()
        },
    )


if __name__ == "__main__":
    main(plan)
