"""A results folder as the pipeline leaves it, with known answers, for tests of everything that reads results.

Losses follow ``E + A * (step + offset)^-alpha``; LOLM follows the same law ``speed`` times faster, so that its multiplier
in steps at any common loss is ``speed`` exactly, apart from the jitter that each pair of seeds is given.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lolm.config import load_params, resolve_run, to_mapping
from lolm.records import fingerprint_of, write_json, write_text

PROJECT = Path(__file__).resolve().parents[2]
FLOOR, HEIGHT, EXPONENT, OFFSET = 2.0, 8.0, 0.3, 4.0
UNIFORM, UNIGRAM, BIGRAM = 6.238, 5.4, 4.4


@dataclass
class Truth:
    """What the synthetic runs are made to show."""

    speed: float = 1.5  # LOLM reaches any loss in 1/speed of the steps
    flops_ratio: float = 1.25  # FLOPs a token, LOLM over baseline
    jitter: float = 0.01  # sd over seeds of ln(speed)
    gate_path: tuple[float, float, float] = (0.36, 0.17, 0.83)  # start, dip, end
    gate_target_gap: float = 0.0
    share: float = 0.95  # surface branch's share of the power
    gate_one: float = 9.0  # nats at g = 1 ...
    gate_zero: float = 5.0  # ... and at g = 0
    skip_damage: float = 5.5
    alive_eval: int = 3
    codes: int = 8
    cpc: float = 3.0
    candidates: int = 56
    memory_mean: float = 0.0
    regime_mean: float = 0.05
    bigram: float = BIGRAM
    steps: int = 400
    log_every: int = 4
    eval_every: int = 20


def law(step: float, speed: float = 1.0) -> float:
    """Held-out loss after a number of steps, nats."""
    return FLOOR + HEIGHT * (speed * step + OFFSET) ** -EXPONENT


def write_results(
    root: Path,
    arms: tuple[str, ...] = ("lolm", "transformer"),
    seeds: tuple[int, ...] = (1, 2, 3),
    truth: Truth | None = None,
    scale: str = "smoke",
    mismatch: float = 0.001,
) -> Path:
    """Write ``params.yaml``, ``artifacts/<scale>`` and ``reports/<scale>`` below ``root``; returns ``root``."""
    truth = truth or Truth()
    raw = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    raw.update(scale=scale, arms=list(arms), seeds=list(seeds), baseline="transformer")
    raw["analysis"].update(published_window=20)
    write_text(root / "params.yaml", yaml.safe_dump(raw, sort_keys=False))
    params = load_params(root / "params.yaml")
    plan = {}
    for arm in arms:
        lolm = params.architectures[arm].family == "lolm"
        flops = 6e5 * (truth.flops_ratio if lolm else 1.0)
        plan[arm] = {
            "parameters": 100_000 + (0 if lolm else round(1e5 * mismatch)),
            "flops_per_token_forward": flops / 3,
            "flops_per_token_training": flops,
            "flops_per_token_palm": flops * 1.02,
            "state_elements": 1024,
            "mismatch": 0.0 if lolm else mismatch,
        }
        for seed in seeds:
            _write_run(root, params, scale, arm, seed, lolm, flops, truth)
    write_json(root / "reports" / scale / "plan.json", plan)
    write_json(root / "reports" / scale / "corpus.json", {"kept": 12, "dropped": 1, "train": {"documents": 8, "bytes": 1000}})
    return root


def _write_run(root: Path, params, scale: str, arm: str, seed: int, lolm: bool, flops: float, truth: Truth) -> None:
    run = resolve_run(params, scale, arm, seed)
    shared = random.Random(f"data-{seed}")
    shift = shared.gauss(0, 0.02)  # what a seed's data order does to both arms
    own = random.Random(f"{arm}-{seed}")
    speed = truth.speed * math.exp(own.gauss(0, truth.jitter)) if lolm else 1.0
    tokens_per_step, seconds_per_step = 1024, 0.02 if lolm else 0.01

    def loss(step: float) -> float:
        return law(step, speed) + shift

    rows = []
    for step in range(0, truth.steps + 1, truth.log_every):
        tokens = step * tokens_per_step
        row: dict[str, float] = {"step": step, "tokens": tokens, "flops": tokens * flops, "seconds": step * seconds_per_step}
        if step:
            row |= {"train/loss": loss(step) + 0.05, "train/total": loss(step) + 1, "train/grad_norm": 1.0, "train/lr": 1e-3}
            row["speed/tokens_per_second"] = tokens_per_step / seconds_per_step
        if lolm and step:
            gate = _gate(step / truth.steps, truth, own)
            row |= {
                "gate/mean": gate,
                "gate/target": gate + truth.gate_target_gap,
                "regime/alive": truth.codes,
                "regime/tau": 1.0,
            }
        if step % truth.eval_every == 0:
            row |= {"val/nats": loss(step), "val/bits_per_byte": loss(step) / 3, "val/accuracy": 0.3}
            if lolm:
                row["val/gate_mean"] = _gate(step / truth.steps, truth, None)
        rows.append(row)
    final = loss(truth.steps)
    fingerprint = fingerprint_of(arm, seed)
    folder = root / "artifacts" / scale / "runs" / f"{arm}-{seed}"
    config = {
        "fingerprint": fingerprint,
        "name": run.name,
        "run": to_mapping(run),
        "label": run.architecture.label,
        "parameters": {"total": 100_000, "by_part": {"surface": 100_000}},
        "flops_per_token": {"forward": flops / 3, "training": flops, "by_part": {}},
        "kernels": "cpu",
        "data": {},
    }
    write_json(folder / "config.json", config)
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    last = rows[-1]
    summary = {axis: last[axis] for axis in ("step", "tokens", "flops", "seconds")} | {
        "arm": arm,
        "seed": seed,
        "parameters": 100_000,
        "flops_per_token": flops,
        "val_nats": final,
        "val_bits_per_byte": final / 3,
        "val_accuracy": 0.3,
        "train_loss": final,
        "tokens_per_second": 1e4,
    }
    write_json(folder / "summary.json", summary)
    write_json(root / "artifacts" / scale / "evaluate" / f"{arm}-{seed}.json", _evaluation(run, fingerprint, final, lolm, truth))
    write_json(root / "artifacts" / scale / "ablate" / f"{arm}-{seed}.json", _ablation(run, fingerprint, loss, lolm, truth, own))


def _gate(share: float, truth: Truth, noise: random.Random | None) -> float:
    start, dip, end = truth.gate_path
    path = start + (dip - start) * share / 0.1 if share < 0.1 else dip + (end - dip) * min(1.0, (share - 0.1) / 0.3)
    return path + (noise.gauss(0, 0.004) if noise else 0.0)


def _evaluation(run, fingerprint: str, final: float, lolm: bool, truth: Truth) -> dict[str, Any]:
    references = {"uniform": UNIFORM, "unigram": UNIGRAM, "bigram": truth.bigram, "bigram_all_text": truth.bigram - 0.2}
    gate = truth.gate_path[2]
    record: dict[str, Any] = {
        "arm": run.arm,
        "seed": run.seed,
        "fingerprint": fingerprint,
        "name": run.name,
        "step": truth.steps,
        "split": "test",
        "tokens": 4096,
        "bytes": 9000,
        "test": {"nats": final + 0.02, "bits_per_byte": (final + 0.02) / 3, "accuracy": 0.3},
        "validation": {"nats": final, "bits_per_byte": final / 3, "accuracy": 0.3},
        "references": references,
        "references_validation": references,
        "objectives": None,
        "cpc": None,
        "gate": None,
        "regime": None,
    }
    if lolm:
        record["cpc"] = {
            "nats": truth.cpc + 0.002 * run.seed,
            "chance": math.log(truth.candidates),
            "candidates": truth.candidates,
        }
        record["gate"] = {
            "mean": gate + 0.001 * run.seed,
            "std_over_positions": 0.1,
            "std_over_dimensions": 0.2,
            "per_dimension": [gate] * 32,
            "histogram": {"edges": [i / 10 for i in range(11)], "counts": [1, 2, 3, 5, 8, 13, 21, 34, 55, 34]},
            "saturated_low": 0.01,
            "saturated_high": 0.2,
            "share": truth.share,
            "target": gate + 0.001 * run.seed + truth.gate_target_gap,
        }
        record["regime"] = {
            "codes": truth.codes,
            "alive_sampled": truth.codes,
            "alive_noise": truth.codes,
            "alive_eval": truth.alive_eval,
            "usage_entropy_sampled": 2.0,
            "usage_entropy_noise": 2.07,
            "usage_entropy_eval": 0.9,
            "max_entropy": math.log(truth.codes),
        }
    return record


def _ablation(run, fingerprint: str, loss, lolm: bool, truth: Truth, noise: random.Random) -> dict[str, Any]:
    conditions = []

    def add(step: int, intervention: str, value: float | None, nats: float) -> None:
        conditions.append(
            {
                "step": step,
                "intervention": intervention,
                "value": value,
                "nats": nats,
                "bits_per_byte": nats / 3,
                "accuracy": 0.2,
                "kl_to_full": 0.0 if intervention == "none" else abs(nats - loss(step)),
                "top1_agreement": 0.5,
            }
        )

    for step in (truth.steps // 10, truth.steps // 2, truth.steps):
        full, grown = loss(step), step / truth.steps
        add(step, "none", None, full)
        if not lolm:
            add(step, "skip_last_blocks", 1.0, full + truth.skip_damage * grown + noise.gauss(0, 0.05))
            continue
        for i in range(5):
            forced = i / 4
            end = truth.gate_one if forced >= 0.5 else truth.gate_zero
            add(step, "gate", forced, full + abs(forced - 0.5) * 2 * (end - full) * grown + 0.1 + noise.gauss(0, 0.01))
        for alpha in (0.5, 1.0):
            add(step, "gate_blend_one", alpha, full + alpha**2 * (truth.gate_one - full) * grown)
            add(step, "gate_blend_zero", alpha, full + alpha**2 * (truth.gate_zero - full) * grown)
        for stream, mean in (("memory", truth.memory_mean), ("regime", truth.regime_mean)):
            add(step, f"{stream}_mean", None, full + mean + noise.gauss(0, 0.001))
            add(step, f"{stream}_zero", None, full + 2 * mean + noise.gauss(0, 0.001))
    return {
        "arm": run.arm,
        "seed": run.seed,
        "fingerprint": fingerprint,
        "name": run.name,
        "split": "test",
        "tokens": 2048,
        "bytes": 4500,
        "references": {"uniform": UNIFORM, "unigram": UNIGRAM},
        "conditions": conditions,
    }
