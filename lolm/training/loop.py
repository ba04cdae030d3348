"""The training loop: one for every arm.

A run is a function of its configuration, data and code. Batches, dropout and Gumbel noise are functions of (seed, step), so a
run that is killed and goes on from its checkpoint takes the same steps, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from lolm import LolmError
from lolm.config import RunConfig
from lolm.data.batches import BatchSampler, stream_seed
from lolm.models.language_model import LanguageModel, Streams, build_model
from lolm.objectives import auxiliary_losses, build_heads, competitive_target, entropy, token_loss, total_loss
from lolm.records import MetricsWriter, write_json
from lolm.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from lolm.training.optimizer import build_optimizer, learning_rate_at

Evaluate = Callable[[LanguageModel], dict[str, float]]


class TrainingError(LolmError):
    """Training cannot go on; the message says why and where the last good checkpoint lies."""


@dataclass
class Progress:
    """What a checkpoint must remember besides weights and optimiser."""

    step: int = 0
    seconds: float = 0.0  # spent training; evaluation and checkpoints are not counted
    window: dict[str, float] = field(default_factory=dict)  # sums since the last log line
    window_steps: int = 0
    window_seconds: float = 0.0
    records_length: int = 0
    last_evaluation: dict[str, float] = field(default_factory=dict)
    last_loss: float = 0.0


class Trainer:
    """Trains one run and leaves its records and weights in ``output``.

    Args:
        run: the resolved configuration.
        sampler: batches of the training split.
        evaluate: scores the model on the fixed held-out set; gives ``val/...`` values.
        output: folder that receives ``config.json``, ``metrics.jsonl``, ``summary.json``, the final weights and snapshots.
        on_checkpoint: called with the scratch folder after each checkpoint.
        device: where to train.
    """

    def __init__(
        self,
        run: RunConfig,
        sampler: BatchSampler,
        evaluate: Evaluate,
        output: Path,
        on_checkpoint: Callable[[Path], None] = lambda folder: None,
        device: str = "cpu",
    ) -> None:
        self.run, self.sampler, self.evaluate, self.output, self.on_checkpoint = run, sampler, evaluate, output, on_checkpoint
        self.training, self.device = run.training, torch.device(device)
        recipe = run.architecture.recipe
        if sampler.stream.vocab_size != run.vocab_size:
            raise TrainingError(
                f"the shards were made with {sampler.stream.vocab_size} tokens, tokenizer.vocab_size is {run.vocab_size}; "
                "run `dvc repro`, which makes them again"
            )

        torch.manual_seed(stream_seed(run.seed, "init") % 2**63)
        self.model = build_model(run).to(self.device)
        self.heads = build_heads(run.architecture, run.size)
        if self.heads is not None:
            self.heads.to(self.device)
        modules = [self.model] + ([self.heads] if self.heads is not None else [])
        self.optimizer = build_optimizer(modules, recipe.weight_decay, self.training, run.size.learning_rate)
        self.clip_groups = [list(m.parameters()) for m in modules]
        if recipe.clip == "joint":
            self.clip_groups = [[p for group in self.clip_groups for p in group]]
        self.noise = torch.Generator(device=self.device)
        self.progress = Progress()
        self._loss = torch.compile(self._losses) if self.training.compile else self._losses

    def fit(self, header: dict[str, Any], flops_per_token: float, scratch: Path) -> dict[str, Any]:
        """Train to the end, from the last checkpoint if there is one.

        Args:
            header: what goes into ``config.json``, fingerprint and parameter counts included.
            flops_per_token: training FLOPs of one token, from the accounting.
            scratch: ignored folder named by the fingerprint; holds the checkpoint, becomes ``output`` at success.

        Returns:
            the summary.

        Raises:
            TrainingError: loss or gradient is not finite, or another process trains this run.
        """
        self.header, self.flops_per_token, self.scratch = header, flops_per_token, scratch
        self.scratch.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.scratch.with_suffix(".lock"), timeout=0)
        try:
            with lock:
                return self._fit()
        except Timeout:
            raise TrainingError(
                f"{self.run.name}: another process is training this run (lock {lock.lock_file}); a killed dvc leaves its stage "
                "running: wait for it, or end it, and run `dvc repro` again"
            ) from None

    def _fit(self) -> dict[str, Any]:
        checkpoint = self.scratch / "checkpoint.pt"
        if checkpoint.exists():
            self._restore(load_checkpoint(checkpoint))
        write_json(self.scratch / "config.json", self.header)
        records = MetricsWriter(self.scratch / "metrics.jsonl", self.progress.records_length)
        bar = tqdm(
            total=self.training.steps,
            initial=self.progress.step,
            desc=self.run.name,
            unit="step",
            disable=None,
            dynamic_ncols=True,
        )
        if self.progress.step == 0:
            self._record_evaluation(records)
        self._warm_up()
        while self.progress.step < self.training.steps:
            self._step(records)
            step = self.progress.step
            self.model.set_step(step)  # what is measured and kept from here on has this step's temperature
            last = step == self.training.steps
            if step % self.training.eval_every == 0 or last:
                self._record_evaluation(records)
            if step in self.training.snapshot_steps:
                save_weights(self.scratch / "snapshots" / f"step-{step:06d}.safetensors", self.model, self.heads)
            if step % self.training.checkpoint_every == 0 or last:
                self._save(checkpoint, records)
            self._show(bar)
        bar.close()
        records.close()
        return self._finish()

    def _warm_up(self) -> None:
        """One forward and backward pass that is thrown away, so that compiling kernels is not counted as training time."""
        self.model.train()
        total, _, _ = self._loss(*(t.to(self.device) for t in self.sampler.batch(0)))
        total.backward()
        self.optimizer.zero_grad(set_to_none=True)

    # ------------------------------------------------------------------------------------------ one step

    def _losses(self, x_BT: torch.Tensor, y_BT: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor], Streams]:
        """Total loss, its unweighted terms and the streams of a micro-batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.training.precision == "bf16"):
            streams = self.model.streams(x_BT, self.noise)
            token = token_loss(self.model, self.model.fuse(streams), y_BT)
            terms = auxiliary_losses(self.run.architecture.objectives, streams, self.heads)
            total = total_loss(self.run.architecture.objectives, token, terms)
        return total, {"loss": token, "total": total, **terms}, streams

    def _step(self, records: MetricsWriter) -> None:
        start = time.perf_counter()
        step, accumulation = self.progress.step, self.training.accumulation
        self.model.train()
        self.model.set_step(step)
        lr = learning_rate_at(step, self.training, self.run.size.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        streams = None
        for micro in range(accumulation):
            # Micro-batches hold equally many tokens, so the mean over them is the mean over the step's tokens.
            torch.manual_seed(stream_seed(self.run.seed, f"dropout/{step}/{micro}") % 2**63)
            self.noise.manual_seed(stream_seed(self.run.seed, f"gumbel/{step}/{micro}") % 2**63)
            x_BT, y_BT = (t.to(self.device) for t in self.sampler.batch(step * accumulation + micro))
            total, terms, streams = self._loss(x_BT, y_BT)
            (total / accumulation).backward()
            for name, term in terms.items():
                sums[name] += term.detach() / accumulation
        norms = [torch.nn.utils.clip_grad_norm_(group, self.training.clip) for group in self.clip_groups]
        values = {f"train/{name}": float(value) for name, value in sums.items()} | {"train/grad_norm": float(norms[0])}
        self._check_finite(step, values)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        progress = self.progress
        progress.step += 1
        seconds = time.perf_counter() - start
        progress.seconds += seconds
        progress.window_seconds += seconds
        progress.window_steps += 1
        progress.last_loss = values["train/loss"]
        for name, value in values.items():
            progress.window[name] = progress.window.get(name, 0.0) + value
        if progress.step % self.training.log_every == 0 or progress.step == self.training.steps:
            self._record_window(records, lr, streams)

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            good = self.scratch / "checkpoint.pt"
            kept = f"last good checkpoint: {good}" if good.exists() else "no checkpoint was made yet"
            raise TrainingError(
                f"{self.run.name}: not finite at step {step + 1}: {', '.join(wrong)}; {kept}. Lower "
                f"scales.{self.run.scale}.sizes.{self.run.arm}.learning_rate or training.clip and run `dvc repro`"
            )

    # ------------------------------------------------------------------------------------------ records

    def _axes(self) -> dict[str, float]:
        tokens = self.progress.step * self.training.tokens_per_step
        return {
            "step": self.progress.step,
            "tokens": tokens,
            "flops": tokens * self.flops_per_token,
            "seconds": round(self.progress.seconds, 3),
        }

    def _record_window(self, records: MetricsWriter, lr: float, streams: Streams | None) -> None:
        progress = self.progress
        row = self._axes() | {name: value / progress.window_steps for name, value in progress.window.items()}
        row["train/lr"] = lr
        row["speed/tokens_per_second"] = progress.window_steps * self.training.tokens_per_step / progress.window_seconds
        if streams is not None:
            row |= stream_metrics(streams, self.model)
        records.write(row)
        progress.window, progress.window_steps, progress.window_seconds = {}, 0, 0.0

    def _record_evaluation(self, records: MetricsWriter) -> None:
        self.model.eval()
        values = self.evaluate(self.model)
        self._check_finite(self.progress.step - 1, values)
        self.progress.last_evaluation = values
        records.write(self._axes() | values)

    def _show(self, bar: tqdm) -> None:
        progress, total = self.progress, self.training.steps
        bar.update(1)
        speed = progress.step * self.training.tokens_per_step / max(progress.seconds, 1e-9)
        validation = progress.last_evaluation.get("val/nats")
        bar.set_postfix_str(f"loss {progress.last_loss:.3f}, val {validation:.3f}, {speed:,.0f} tok/s", refresh=False)
        if bar.disable and (progress.step % max(1, total // 10) == 0 or progress.step == total):
            left = (total - progress.step) * progress.seconds / progress.step
            print(
                f"{self.run.name}: step {progress.step}/{total}, loss {progress.last_loss:.3f}, val {validation:.3f}, "
                f"{speed:,.0f} tok/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    # ------------------------------------------------------------------------------------------ checkpoints

    def _save(self, path: Path, records: MetricsWriter) -> None:
        self.progress.records_length = records.flush()
        heads = self.heads.state_dict() if self.heads is not None else {}
        state = {
            "model": self.model.state_dict(),
            "heads": heads,
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }
        save_checkpoint(path, state)
        self.on_checkpoint(self.scratch)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.heads is not None:
            self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        print(f"{self.run.name}: going on from step {self.progress.step}", file=sys.stderr, flush=True)

    def _finish(self) -> dict[str, Any]:
        save_weights(self.scratch / "model.safetensors", self.model, self.heads)
        evaluation = {name.replace("/", "_"): value for name, value in self.progress.last_evaluation.items()}
        axes = self._axes()
        summary = {
            "arm": self.run.arm,
            "seed": self.run.seed,
            **axes,
            "parameters": self.header["parameters"]["total"],
            "flops_per_token": self.flops_per_token,
            "train_loss": self.progress.last_loss,
            "tokens_per_second": axes["tokens"] / max(axes["seconds"], 1e-9),
            **evaluation,
        }
        write_json(self.scratch / "summary.json", summary)
        for leftover in self.scratch.rglob("*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.output, ignore_errors=True)
        os.replace(self.scratch, self.output)
        (self.output / "checkpoint.pt").unlink()  # last, so that a kill before the rename loses nothing
        return summary


@torch.no_grad()
def stream_metrics(streams: Streams, model: LanguageModel) -> dict[str, float]:
    """Gate and regime values of one micro-batch, as the published logs define them.

    ``regime/alive`` counts distinct argmax codes of the Gumbel samples, and the usage entropy is that of their shares;
    ``gate/mean`` is over all positions and dimensions.
    """
    row: dict[str, float] = {}
    if streams.g is not None and streams.z is not None:
        row["gate/mean"] = float(streams.g.float().mean())
        if streams.h.shape[1] > 8:
            row["gate/target"] = float(competitive_target(streams.h, streams.z).mean())
    if streams.p is not None:
        counts = torch.bincount(streams.p.argmax(dim=-1).flatten(), minlength=streams.p.shape[-1]).double()
        row["regime/alive"] = float((counts > 0).sum())
        row["regime/usage_entropy"] = float(entropy(counts / counts.sum()))
        row["regime/tau"] = float(model.get_buffer("regime.tau"))
    return row
