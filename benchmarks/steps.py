"""Whole training steps: of each arm at two sizes, and how they grow with length and width."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import matmul_peak
from benchmarks.settings import BASELINE, END, GROWING, Settings
from benchmarks.timing import Part, Samples, Unavailable, rates, ratios, slope, slopes, summary, threads, timed
from lolm.accounting.count import account
from lolm.config import RunConfig
from lolm.mixers.attention import Attention, rope_tables
from lolm.training.loop import Trainer


class _Vocabulary:
    def __init__(self, size: int) -> None:
        self.vocab_size = size


class RandomTokens:
    """Batches of random tokens, (B, T) inputs and targets, each a function of its step: text is no part of a step's cost."""

    def __init__(self, vocab_size: int, batch_size: int, seq_len: int) -> None:
        self.stream = _Vocabulary(vocab_size)
        self._shape = (batch_size, seq_len + 1)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        window = torch.randint(self.stream.vocab_size, self._shape, generator=generator)
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()


class Stepper:
    """Takes training steps of a run, exactly as training does, and knows what one of them costs.

    Attributes:
        tokens: of a step.
        flops: training FLOPs of a step, from the accounting.
        parameters: of the model.
    """

    def __init__(self, run: RunConfig, device: str = "cpu") -> None:
        training = run.training
        sampler = RandomTokens(run.vocab_size, training.batch_size, training.seq_len)
        self.trainer = Trainer(run, sampler, lambda model: {}, device=device)  # type: ignore[arg-type]
        self.trainer.scratch = Path()  # where an error would look for a checkpoint
        facts = account(self.trainer.model, self.trainer.heads, training.seq_len, training.precision, training.batch_size)
        self.tokens = training.tokens_per_step
        self.flops: float = facts.flops_per_token.training * self.tokens
        self.parameters: int = facts.parameters.total

    def __call__(self) -> None:
        self.trainer._step(END)
        self.trainer.collect()  # which waits for the device


def measured(stepper: Callable[[], Any], count: int, repeats: int = 1) -> Callable[[], float]:
    """Measures seconds of a step with ``count`` threads; two steps are taken here and not measured."""

    def measure() -> float:
        with threads(count):
            return timed(stepper, repeats)

    with threads(count):
        timed(stepper, 2)
    return measure


def steps(settings: Settings, stack: ExitStack) -> Part:
    """Step time of each arm at the scale's size and with all widths doubled, as a share of the peak of the same round."""
    count = settings.threads
    sizes = {
        "base": {arm: Stepper(settings.run(arm)) for arm in settings.arms},
        "wide": {arm: Stepper(settings.run(arm, 2, tokens=settings.wide_tokens)) for arm in settings.arms},
    }
    measures: dict[str, Callable[[], float]] = {}
    for size, steppers in sizes.items():
        measures[f"{size}/peak"] = matmul_peak(settings.matmul, count)
        for arm, stepper in steppers.items():
            measures[f"{size}/{arm}"] = measured(stepper, count, 3 if size == "base" else 1)

    def result(samples: Samples) -> dict[str, Any]:
        entry: dict[str, Any] = {"threads": count, "baseline": BASELINE if BASELINE in settings.arms else None}
        for size, steppers in sizes.items():
            peak = samples[f"{size}/peak"]
            rows = {arm: step_numbers(stepper, samples[f"{size}/{arm}"], peak) for arm, stepper in steppers.items()}
            share = {arm: ratios(rates(s.flops, samples[f"{size}/{arm}"]), peak) for arm, s in steppers.items()}
            for arm, row in rows.items():
                row["label"] = settings.params.architectures[arm].label
                if BASELINE in share:
                    row["over_baseline"] = summary(ratios(share[arm], share[BASELINE]))
            first = next(iter(steppers.values())).trainer.training
            shape = {"seq_len": first.seq_len, "batch_size": first.batch_size * first.accumulation}
            entry[size] = {**shape, "peak_flops_per_second": summary(peak), "arms": rows}
        return entry

    return Part(measures, result)


def step_numbers(stepper: Stepper, seconds: list[float], peak: list[float]) -> dict[str, Any]:
    """One arm's entry: ``peak`` holds the FLOPs a second of matrix products in the same rounds."""
    speed = rates(stepper.flops, seconds)
    return {
        "parameters": stepper.parameters,
        "flops_per_step": stepper.flops,
        "seconds": summary(seconds),
        "tokens_per_second": summary(rates(stepper.tokens, seconds)),
        "flops_per_second": summary(speed),
        "share_of_peak": summary(ratios(speed, peak)),
    }


# ---------------------------------------------------------------------------------------------- growth


def attention_kernel(run: RunConfig) -> Callable[[], None]:
    """Scores, softmax and values of one layer of a run, forward and backward, without the maps around them."""
    from lolm.ops.cpu.attention import CausalAttentionCPU

    batch, length, heads = run.training.batch_size, run.training.seq_len, run.size.n_heads
    width = run.size.d_model // heads
    joined = torch.randn(batch, length, 3 * heads, width, requires_grad=True)
    gradient = torch.randn(batch, length, heads, width)
    cos, sin = rope_tables(length, width, 10_000.0, joined.device)

    def call() -> None:
        torch.autograd.grad(CausalAttentionCPU.apply(joined, heads, cos, sin, None), joined, gradient)

    return call


def growth(settings: Settings, stack: ExitStack) -> Part:
    """Step time over the length at equal tokens, with attention's quadratic part apart, and over the width."""
    count, lengths, factors = settings.threads, settings.growth_lengths, settings.growth_factors
    arms = [arm for arm in GROWING if arm in settings.arms]
    if not arms:
        raise Unavailable(f"none of {', '.join(GROWING)} is among the arms")
    measures: dict[str, Callable[[], float]] = {}
    layers: dict[str, int] = {}
    flops: dict[str, list[float]] = {}
    for length in lengths:
        for arm in arms:
            run = settings.run(arm, length=length, tokens=settings.growth_tokens)
            stepper = Stepper(run)
            measures[f"{arm}/{length}"] = measured(stepper, count)
            measures[f"{arm}/attention/{length}"] = measured(attention_kernel(run), count)
            layers[arm] = sum(isinstance(module, Attention) for module in stepper.trainer.model.modules())
            flops.setdefault(arm, []).append(stepper.flops)
    widths: list[int] = []
    flops["width"] = []
    for factor in factors:
        run = settings.run(arms[0], factor)
        stepper = Stepper(run)
        widths.append(run.size.d_model)
        flops["width"].append(stepper.flops)
        measures[f"width/{run.size.d_model}"] = measured(stepper, count)

    def result(samples: Samples) -> dict[str, Any]:
        entry: dict[str, Any] = {"tokens_per_step": settings.growth_tokens, "threads": count}
        over: dict[str, Any] = {}
        for arm in arms:
            whole = [samples[f"{arm}/{length}"] for length in lengths]
            kernel = [[layers[arm] * s for s in samples[f"{arm}/attention/{length}"]] for length in lengths]
            rest = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(whole, kernel, strict=True)]
            over[arm] = {
                "seconds": {str(length): summary(values) for length, values in zip(lengths, whole, strict=True)},
                "attention_seconds": {str(length): summary(values) for length, values in zip(lengths, kernel, strict=True)},
                "slope": summary(slopes(lengths, whole)),
                "slope_of_flops": slope(lengths, flops[arm]),
                "slope_of_attention": summary(slopes(lengths, kernel)),
            }
            if all(value > 0 for values in rest for value in values):
                over[arm]["slope_without_attention"] = summary(slopes(lengths, rest))
        series = [samples[f"width/{width}"] for width in widths]
        entry["with_length"] = over
        entry["with_width"] = {
            "arm": arms[0],
            "seconds": {str(width): summary(values) for width, values in zip(widths, series, strict=True)},
            "slope": summary(slopes(widths, series)),
            "slope_of_flops": slope(widths, flops["width"]),
        }
        return entry

    return Part(measures, result)
