"""The pieces of `make gpu` that measure and train nothing: kernels against their references, and training steps.

A kernel's speed is reported where its results are right alone.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.kernels import compared, copy_seconds, every_kernel, speed
from benchmarks.peers import STACK, llama_of, mamba_of
from benchmarks.settings import Settings
from benchmarks.steps import RandomTokens, Stepper
from benchmarks.timing import summary, timed
from lolm import LolmError
from lolm.accounting.gpus import peak_flops
from lolm.config import RunConfig, load_params
from lolm.ops.backends import seconds
from lolm.training.recorded import WARM_UP
from pipeline.gpu import arguments, write_note
from pipeline.jobs import end_with_parent
from pipeline.stage import main, training_device

REPEATS = 5
WAYS: dict[str, dict[str, Any]] = {
    "eager": {"compile": False, "cuda_graph": False},
    "compiled": {"compile": True, "cuda_graph": False},
    "graph": {"compile": False, "cuda_graph": True},
}


def kernel(op: str, device: str) -> dict[str, Any]:
    """Each kernel's errors, in float32 and bfloat16, and on a GPU the speed of those that have none beyond the bound."""
    found: dict[str, Any] = {}
    for name in every_kernel(op):
        entry = found[name] = compared(op, name, device)
        if entry.get("exact") and device == "cuda":
            rounds = [(seconds(op, device, name), copy_seconds()) for _ in range(3)]
            entry |= speed(op, *zip(*rounds, strict=True))
    return found


def step(settings: Settings, arm: str, device: str) -> dict[str, Any]:
    """Time, tokens a second, MFU and peak memory of training steps on random tokens, each way that the arm can be trained."""
    ways = WAYS if device == "cuda" else ["eager"]
    return {way: _step(partial(settings.run, arm, **WAYS[way]), device) for way in ways}


def _step(configured: Callable[[], RunConfig], device: str) -> dict[str, Any]:
    gc.collect()  # compiled blocks refer to themselves: the model of the way before would count as memory of this one
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        run = configured()
        stepper = Stepper(run, device)
        stepper.trainer.warm_up()
        return _timed(stepper, run, device) | {"pieces": stepper.trainer.pieces, "parameters": stepper.parameters}
    except (LolmError, RuntimeError) as error:  # out of memory, a recording that is refused, a compiler that fails
        return {"skipped": str(error).splitlines()[0]}


def _timed(stepper: Callable[[], Any], run: RunConfig, device: str) -> dict[str, Any]:
    timed(stepper, 2 + WARM_UP if device == "cuda" else 1)  # with which a recording is made
    taken = [timed(stepper) for _ in range(REPEATS if device == "cuda" else 1)]
    entry = {"seconds": summary(taken), "tokens_per_second": run.training.tokens_per_step / median(taken)}
    if isinstance(stepper, Stepper):
        peak = peak_flops(torch.cuda.get_device_name(), run.training.precision) if device == "cuda" else None
        entry |= {"flops": stepper.flops, "mfu": stepper.flops / median(taken) / peak if peak else None}
    return entry | {"peak_memory_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None}


def theirs(settings: Settings, name: str, device: str) -> dict[str, Any]:
    """The same of a model of the transformers library with the sizes of our arm, under the same precision and optimiser."""
    for package in ("transformers", *(["mamba_ssm"] if name == "mamba" else [])):  # without it their scan is a loop over T
        if importlib.util.find_spec(package) is None:
            return {"skipped": f"the package {package} is not installed"}
    from transformers import LlamaForCausalLM, MambaForCausalLM

    run = settings.run(STACK if name == "llama" else name)
    config: Any = llama_of(run, run.size.n_layers).config if name == "llama" else mamba_of(run)
    made: Any = LlamaForCausalLM if name == "llama" else MambaForCausalLM
    model = made(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    training = run.training
    batches = RandomTokens(run.vocab_size, training.batch_size, training.seq_len)
    pieces = 1

    def call() -> None:
        for micro in range(training.accumulation):
            for part in batches.batch(micro)[0].to(device).chunk(pieces):
                with torch.autocast(device, torch.bfloat16, enabled=training.precision == "bf16"):
                    loss = model(part, labels=part).loss
                (loss / (training.accumulation * pieces)).backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    while True:
        try:
            found = _timed(call, run, device)
            return found | {"pieces": pieces, "parameters": sum(p.numel() for p in model.parameters())}
        except torch.OutOfMemoryError:
            if pieces >= training.batch_size:
                return {"skipped": "one sequence does not fit into the device's memory"}
        optimizer.zero_grad()
        torch.cuda.empty_cache()
        pieces *= 2


def run() -> None:
    args = arguments()
    end_with_parent()
    torch.manual_seed(0)
    device, (kind, *names) = training_device(), args.piece.split("/")
    if kind == "kernel":
        values = kernel(names[0], device)
    else:
        settings, arm = Settings(load_params(), names[0], (STACK, "mamba")), names[1]
        own = not arm.startswith("transformers_")
        values = step(settings, arm, device) if own else theirs(settings, arm.removeprefix("transformers_"), device)
    write_note(Path(args.out), args.piece, True, **values)
    if kind == "kernel" and not values["triton"].get("exact"):
        why = values["triton"].get("skipped") or "errors beyond the bound"
        raise LolmError(f"{args.piece}: Triton's kernel is not the reference: {why}; the note has it, and training takes another")


if __name__ == "__main__":
    main(run)
