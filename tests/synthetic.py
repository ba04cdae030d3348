"""A results folder as the pipeline leaves it, with known answers, for tests of everything that reads results.

Losses follow ``E + A * (step + offset)^-alpha``; LOLM follows the same law ``speed`` times faster, so that its multiplier
in steps at any common loss is ``speed`` exactly, apart from the jitter that each pair of seeds is given. Ends of schedule lie on
that law; inside the run the loss lies ``bump`` above it until the last fifth, as under a schedule that decays at its end.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lolm.config import load_params, resolve_run, to_mapping
from lolm.records import fingerprint_of, write_json, write_text

PROJECT = Path(__file__).resolve().parents[1]
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
    cooldowns: tuple[float, ...] = (0.25, 0.35, 0.5, 0.7)  # shares of the run at which a copy was annealed
    bump: float = 0.0  # nats above the law before the decay
    speeds: dict[str, float] = field(default_factory=dict)  # of single arms, in place of ``speed`` (LOLM) or 1
    recall: bool = True
    swept: bool = True
    laboratory: bool = True  # the ablation record has what the dependency laboratory measures
    latent_mean: float = 1.2  # damage of mean ablation at the end, nats ...
    surface_mean: float = 0.6
    split: float = 0.1  # largest S of random halves, nats
    recovered: float = 0.8  # share of the damage that a refitted head wins back
    function_gate: float = 0.1  # gate at function words minus gate at content words
    offsets: dict[str, float] = field(default_factory=dict)  # nats that single arms lie above the law


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
    """Write ``params.yaml``, ``artifacts/<scale>`` and ``reports/<scale>`` below ``root``; returns ``root``.

    An arm that ``params.yaml`` does not know becomes a copy of ``transformer_modern`` under its own name.
    """
    raw = _parameters(arms, seeds)
    raw["scale"] = scale
    _write_scale(root, raw, scale, truth or Truth(), mismatch)
    return root


def write_scales(root: Path, count: int, seeds: tuple[int, ...] = (1, 2)) -> Path:
    """Results of two arms at scales ``s0``, ``s1``, … of the same text, each of four times the compute of the one before."""
    raw = _parameters(("lolm", "transformer"), seeds)
    raw["scales"] |= {f"s{i}": raw["scales"]["smoke"] for i in range(count)}
    for i in range(count):
        steps = 100 * 4**i
        _write_scale(root, raw, f"s{i}", Truth(steps=steps, log_every=steps // 50, eval_every=steps // 10), 0.001)
    return root


def _parameters(arms: tuple[str, ...], seeds: tuple[int, ...]) -> dict[str, Any]:
    raw = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    study = {"arms": list(arms), "seeds": list(seeds), "subject": "lolm", "baseline": "transformer"}
    raw.update(studies={"main": study}, study="main")
    raw["analysis"].update(published_window=20)
    for arm in arms:
        if arm not in raw["architectures"]:
            raw["architectures"][arm] = raw["architectures"]["transformer_modern"] | {"label": arm.replace("_", " ").capitalize()}
            for preset in raw["scales"].values():
                preset["sizes"][arm] = preset["sizes"]["transformer_modern"]
    return raw


def _write_scale(root: Path, raw: dict[str, Any], scale: str, truth: Truth, mismatch: float) -> None:
    write_text(root / "params.yaml", yaml.safe_dump(raw, sort_keys=False))
    params = load_params(root / "params.yaml")
    plan = {}
    for index, arm in enumerate(params.selected.arms):
        lolm = params.architectures[arm].family == "lolm"
        flops = 6e5 * (truth.flops_ratio if lolm else 1.0)
        parameters = 100_000 + (0 if lolm else round(1e5 * mismatch))
        plan[arm] = {
            "parameters": parameters,
            "parameters_active": parameters,
            "flops_per_token_forward": flops / 3,
            "flops_per_token_training": flops,
            "flops_per_token_palm": flops * 1.02,
            "state_elements": 1024 * (1 + index),
            "state_bytes": 4096 * (1 + index),
            "mismatch": 0.0 if lolm else mismatch,
        }
        if truth.swept:
            write_json(root / "artifacts" / scale / "sweep" / f"{arm}.json", _sweep(params, scale, arm))
        for seed in params.selected.seeds:
            _write_run(root, params, scale, arm, seed, lolm, flops, truth)
    write_json(root / "reports" / scale / "main" / "plan.json", plan)
    write_json(root / "reports" / scale / "corpus.json", {"kept": 12, "dropped": 1, "train": {"documents": 8, "bytes": 1000}})


def _sweep(params, scale: str, arm: str) -> dict[str, Any]:
    """Five rates around the one that was trained with; of ``transformer_modern`` the best lies at the edge of the grid."""
    chosen = resolve_run(params, scale, arm, 0).size.learning_rate
    inside = arm != "transformer_modern"
    factors = (0.25, 0.5, 1.0, 2.0, 4.0) if inside else (0.125, 0.25, 0.5, 1.0)
    trials = [
        {"learning_rate": chosen * factor, "seed": seed, "nats": 4.0 + 0.1 * math.log2(factor) ** 2 + 0.01 * seed}
        for factor in factors
        for seed in (1, 2)
    ]
    rates = [{"learning_rate": chosen * factor, "nats": 4.015 + 0.1 * math.log2(factor) ** 2} for factor in factors]
    rates[-1] = rates[-1] if not inside else rates[-1] | {"nats": None}  # diverged
    return {"arm": arm, "chosen": chosen, "inside": inside, "steps": 40, "seeds": [1, 2], "trials": trials, "rates": rates}


def _write_run(root: Path, params, scale: str, arm: str, seed: int, lolm: bool, flops: float, truth: Truth) -> None:
    run = resolve_run(params, scale, arm, seed)
    shared = random.Random(f"data-{seed}")
    shift = shared.gauss(0, 0.02)  # what a seed's data order does to both arms
    own = random.Random(f"{arm}-{seed}")
    speed = truth.speeds.get(arm, truth.speed if lolm else 1.0)
    if lolm or arm in truth.speeds:
        speed *= math.exp(own.gauss(0, truth.jitter))
    tokens_per_step, seconds_per_step = 1024, 0.02 if lolm else 0.01

    def ended(step: float) -> float:
        return law(step, speed) + shift + truth.offsets.get(arm, 0.0)

    def loss(step: float) -> float:
        return ended(step) + truth.bump * min(1.0, max(0.0, 5 * (1 - step / truth.steps)))

    def axes(step: float) -> dict[str, float]:
        tokens = step * tokens_per_step
        return {"step": step, "tokens": tokens, "flops": tokens * flops, "seconds": step * seconds_per_step}

    rows = []
    for step in range(0, truth.steps + 1, truth.log_every):
        row: dict[str, float] = axes(step)
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
    ends = [truth.steps, *(round(share * truth.steps) for share in truth.cooldowns)]  # the run's own, then those of the copies
    for step in ends:
        rows.append(
            axes(step) | {"annealed/nats": ended(step), "annealed/bits_per_byte": ended(step) / 3, "annealed/accuracy": 0.3}
        )
    final = ended(truth.steps)
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
    summary = axes(truth.steps) | {
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
    evaluation = _evaluation(run, fingerprint, final, lolm, truth)
    evaluation["schedule_ends"] = [
        axes(step) | {split: {"nats": n, "bits_per_byte": n / 3, "accuracy": 0.3} for split, n in _splits(ended(step)).items()}
        for step in sorted(ends)
    ]
    write_json(root / "artifacts" / scale / "evaluate" / f"{arm}-{seed}.json", evaluation)
    write_json(root / "artifacts" / scale / "ablate" / f"{arm}-{seed}.json", _ablation(run, fingerprint, loss, lolm, truth, own))
    if truth.recall:
        write_json(root / "artifacts" / scale / "recall" / f"{arm}-{seed}.json", _recall(params, scale, run, own))


def _splits(nats: float) -> dict[str, float]:
    return {"validation": nats, "test": nats + 0.02}


def _recall(params, scale: str, run, noise: random.Random) -> dict[str, Any]:
    index = params.selected.arms.index(run.arm)
    about = {"nats": 0.5, "steps": 100, "seq_len": 64, "pairs": 8}
    tasks = {
        "mqar": about
        | {"accuracy": min(1.0, 0.3 + 0.05 * index + noise.uniform(0, 0.05)), "chance": 1 / 64, "order_zero": 1 / 8},
        "induction": about | {"accuracy": 0.9 - noise.uniform(0, 0.05), "chance": 1 / 127, "order_zero": 1 / 32, "pairs": None},
    }
    return {
        "arm": run.arm,
        "seed": run.seed,
        "name": run.name,
        "fingerprint": "0" * 16,
        "model": fingerprint_of(to_mapping(run.architecture), to_mapping(run.size)),
        "state_elements": 1024 * (1 + index),
        "tasks": tasks,
    }


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
        "positions": _positions(final + 0.02),
        "lengths": {"windows": {str(n): _length(n, final + 0.02) for n in (1, 2)}, "left_out": {"4": "the test split is short"}},
        "samples": {
            "texts": 4,
            "generated": {"distinct_2": 0.8, "bigram_repetition": 0.2, "distinct_2_pooled": 0.7, "words": 90},
            "real": {"distinct_2": 0.97, "bigram_repetition": 0.03, "distinct_2_pooled": 0.9, "words": 88},
            "examples": [{"prompt": "It was", "generated": " the the", "real": " a <day> & night"}],
        },
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


def _positions(nats: float) -> dict[str, Any]:
    edges = (0, 1, 2, 4, 8, 16, 32, 64)
    bins = [{"start": a, "stop": b} | _score(nats + 1.5 / (1 + a) - 0.2) for a, b in zip(edges, edges[1:], strict=False)]
    return {"bins": bins, "early": _score(nats + 0.3), "late": _score(nats - 0.1), "change": _score(-0.1)}


def _length(multiple: int, nats: float) -> dict[str, Any]:
    beyond = {"tokens": 2048, "nats": nats + 0.1, "nats_trained": nats} if multiple > 1 else None
    return {"seq_len": 64 * multiple, "tokens": 4096, "beyond": beyond} | _score(nats + 0.05 * (multiple - 1))


def _score(nats: float) -> dict[str, float]:
    return {"nats": nats, "bits_per_byte": nats / 3, "accuracy": 0.3}


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
    laboratory = _laboratory(truth, add, noise) if lolm and truth.laboratory else {}
    return laboratory | {
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


def _laboratory(truth: Truth, add, noise: random.Random) -> dict[str, Any]:
    """The rows of the dependency laboratory; damages grow linearly over training, every way of removal does the same."""
    full = 3.0
    damage = {"latent": truth.latent_mean, "surface": truth.surface_mean}
    steps = (truth.steps // 10, truth.steps // 2, truth.steps)
    contributions = []
    for step in steps:
        grown, jitter = step / truth.steps, noise.gauss(0, 0.005)
        for branch, end in damage.items():
            for way in ("zero", "mean", "resample", "gaussian"):
                for kept in ("", "+match_norm"):
                    add(step, f"{branch}_{way}{kept}", None, full + end * grown + jitter * (branch == "latent"))
        for draw in range(8):
            half = truth.split * (draw + 1) / 8
            add(step, f"split_{draw}_first", None, full + 0.4)
            add(step, f"split_{draw}_second", None, full + 0.4 + half)
        gate = _gate(grown, truth, None)
        addend = {"mean_norm": 3.0, "variance_share": 1 - truth.share, "logit": 1.0, "logit_centred": 0.9}
        parts = {"surface": addend | {"variance_share": truth.share}, "latent": addend}
        contributions.append({"step": step, "gate": gate, "addends": parts})
    readouts = [
        {
            "step": truth.steps,
            "intervention": name,
            "value": value,
            "readout": readout,
            "full": full,
            "damaged": full + end,
            "refitted": full + end * (1 - share) + noise.gauss(0, 0.002),
            "recovered": share,
            "temperature": None,
        }
        for name, value, end in (
            ("none", None, 0.0),
            ("gate", 1.0, 2.0),
            ("gate", 0.0, 1.0),
            ("latent_mean", None, damage["latent"]),
            ("surface_mean", None, damage["surface"]),
        )
        for readout, share in (("temperature", 0.1), ("affine", truth.recovered / 2), ("head", truth.recovered))
    ]
    classes = [
        {
            "step": truth.steps,
            "class": name,
            "tokens": 500,
            "nats": full,
            "gate_mean": 0.5 + shift + noise.gauss(0, 0.003),
            "gate_std": 0.1,
            "damage_latent_mean": damage["latent"],
            "damage_surface_mean": damage["surface"],
        }
        for name, shift in (("all", 0.0), ("function_word", truth.function_gate), ("content_word", 0.0))
    ]
    return {"contributions": contributions, "readouts": readouts, "token_classes": classes}
