"""The training loop: one for every arm.

A run is a function of its configuration, data and code. Batches, dropout and Gumbel noise are functions of (seed, step), so a
run that is killed and goes on from its checkpoint takes the same steps, bit for bit on a CPU.

A run has a *trunk*, the run itself. Under a ``wsd`` schedule each of ``training.cooldowns`` adds a copy of the trunk as it was
when a schedule ending there would have begun to decay, annealed to that end. It gives the loss of a shorter run with a whole
schedule of its own for the cost of its decay alone: until then the two are the same (Hägele et al. 2024, arXiv 2405.18392).
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from lolm.config import RunConfig
from lolm.data.batches import Sampler, stream_seed
from lolm.models.build import build_model
from lolm.models.language_model import LanguageModel, Streams
from lolm.objectives import (
    auxiliary_losses,
    build_heads,
    token_loss,
    total_loss,
)
from lolm.ops.backends import chosen_kernels, keep_from_tracing
from lolm.records import SeriesWriter, names, read, write
from lolm.records.schema import RunHeader, Summary
from lolm.training.checkpoint import (
    cooldown_path,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    snapshot_path,
)
from lolm.training.metrics import stream_metrics
from lolm.training.optimizer import build_optimizer, learning_rate_at
from lolm.training.progress import DivergenceError, Progress, TrainingError
from lolm.training.scratch import BRANCHES, FINISHED, publish

Evaluate = Callable[[LanguageModel], dict[str, float]]


class Trainer:
    """Trains one run.

    Args:
        run: the resolved configuration.
        sampler: batches of the training split.
        evaluate: scores the model on the fixed held-out set, see :func:`lolm.evaluation.held_out.validation_metrics`.
        on_checkpoint: called with the scratch folder after each checkpoint.
        device: where to train.
    """

    def __init__(
        self,
        run: RunConfig,
        sampler: Sampler,
        evaluate: Evaluate,
        on_checkpoint: Callable[[Path], None] = lambda folder: None,
        device: str = "cpu",
    ) -> None:
        self.run, self.sampler, self.evaluate, self.on_checkpoint = run, sampler, evaluate, on_checkpoint
        self.training, self.device = run.training, torch.device(device)
        recipe = run.architecture.recipe
        if sampler.stream.vocab_size != run.vocab_size:
            raise TrainingError(
                f"the data have {sampler.stream.vocab_size} tokens, tokenizer.vocab_size is {run.vocab_size}; "
                "run `dvc repro`, which makes them again"
            )

        torch.manual_seed(stream_seed(run.seed, "init") % 2**63)
        self.model = build_model(run).to(self.device)
        self.heads = build_heads(run.architecture, run.size, run.training.kernels)
        if self.heads is not None:
            self.heads.to(self.device)
        modules = [self.model] + ([self.heads] if self.heads is not None else [])
        self.optimizer = build_optimizer(modules, recipe.weight_decay, self.training, run.size.learning_rate)
        self.clip_groups = [list(m.parameters()) for m in modules]
        if recipe.clip == "joint":
            self.clip_groups = [[p for group in self.clip_groups for p in group]]
        self.noise = torch.Generator(device=self.device)
        self.progress = Progress()
        self.ends = (self.training.steps, *self.training.cooldown_steps)  # of the schedules: the trunk's, then the cooldowns'
        self.header: RunHeader | None = None
        self._last_streams: Streams | None = None
        self._loss = self._losses
        if self.training.compile:
            keep_from_tracing()
            self._loss = torch.compile(self._losses)

    def fit(self, header: RunHeader, scratch: Path, records: Path, weights: Path) -> Summary:
        """Train to the end, from the last checkpoint if there is one, and publish what was made.

        Args:
            scratch: ignored folder named by the fingerprint; holds the checkpoint. A finished run stays there, marked, until
                :func:`~lolm.training.scratch.clear_finished`, so that a kill before the caller has recorded the rest costs
                nothing.
            records: folder that receives ``config.json``, ``metrics.jsonl.xz`` and ``summary.json``.
            weights: folder that receives ``model.safetensors``, ``snapshots/`` and ``cooldowns/``.

        Raises:
            DivergenceError: loss or gradient is not finite.
            TrainingError: another process trains this run.
        """
        self.header = header
        self.train(scratch)
        return publish(scratch, records, weights)

    def train(self, scratch: Path) -> None:
        """Train to the end and leave everything in the scratch folder: without a header, which :meth:`fit` brings, the series and
        the weights alone. That is what short trials are made for.

        Raises:
            DivergenceError, TrainingError: as :meth:`fit`.
        """
        self.scratch = scratch
        self.scratch.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.scratch.with_suffix(".lock"), timeout=0)
        try:
            with lock:
                self._train()
        except Timeout:
            raise TrainingError(
                f"{self.run.name}: another process is training this run (lock {lock.lock_file}); a killed dvc leaves its stage "
                "running: wait for it, or end it, and run `dvc repro` again"
            ) from None

    def _train(self) -> None:
        if (self.scratch / FINISHED).exists():
            print(f"{self.run.name}: was finished already", file=sys.stderr, flush=True)
            return
        checkpoint = self.scratch / "checkpoint.pt"
        if checkpoint.exists():
            self._restore(load_checkpoint(checkpoint))
        if self.header is not None:
            write(self.scratch / "config.json", self.header)
        records = SeriesWriter(self.scratch / "metrics.jsonl", self.progress.records_length)
        bar = tqdm(total=self.training.steps, desc=self.run.name, unit="step", disable=None, dynamic_ncols=True)
        if self.progress.step == 0:
            self._record_evaluation(records)
        self._warm_up()
        while True:
            self._run_schedule(records, checkpoint, bar)
            self._end_schedule(records)
            if self.progress.schedule + 1 == len(self.ends):
                break
            self._begin_cooldown(self.progress.schedule + 1)
            self._save(checkpoint, records)
        bar.close()
        records.close()
        (self.scratch / FINISHED).touch()  # first, so that a kill from here on loses nothing
        checkpoint.unlink()
        shutil.rmtree(self.scratch / BRANCHES, ignore_errors=True)

    def _run_schedule(self, records: SeriesWriter, checkpoint: Path, bar: tqdm) -> None:
        """Take steps to the end of the schedule under way; only the trunk writes its course into the series."""
        progress, end = self.progress, self.ends[self.progress.schedule]
        bar.reset(total=end)
        bar.update(progress.step)
        while progress.step < end:
            self._step(end)
            last = progress.step == end
            if progress.schedule == 0 and (progress.step % self.training.log_every == 0 or last):
                self._record_window(records)
            # A schedule inside the model is a function of the step as well; weights, buffers and measurements must agree on it.
            self.model.set_step(progress.step)  # what is measured and kept from here on has this step's temperature
            if progress.schedule == 0:
                if progress.step % self.training.eval_every == 0 or last:
                    self._record_evaluation(records)
                if progress.step in self.training.snapshot_steps:
                    save_weights(snapshot_path(self.scratch, progress.step), self.model, self.heads)
                for cooldown_end in self.ends[1:]:
                    if progress.step == self.training.decay_starts(cooldown_end):
                        save_checkpoint(self._branch_point(cooldown_end), self._state())
            if progress.step % self.training.checkpoint_every == 0 or last:
                self._save(checkpoint, records)
            self._show(bar, end)

    def _end_schedule(self, records: SeriesWriter) -> None:
        """Keep the weights and the held-out loss at the end of a schedule."""
        progress, end = self.progress, self.ends[self.progress.schedule]
        if progress.schedule:
            values = self._evaluated()
            save_weights(cooldown_path(self.scratch, end), self.model, self.heads)
        else:
            values = progress.last_evaluation
            save_weights(self.scratch / "model.safetensors", self.model, self.heads)
        if self.header is not None:
            path = self.scratch / "summary.json"
            spent = progress.annealing_seconds + progress.seconds - progress.seconds_at_branch
            summary = replace(read(path, Summary), annealing_seconds=round(spent, 3)) if progress.schedule else self._summary()
            write(path, summary)
        records.write(self._axes() | {names.annealed(name): value for name, value in values.items()})

    def _begin_cooldown(self, schedule: int) -> None:
        """Go back to where a cooldown leaves the trunk."""
        ended = self.progress
        # Optimiser state and step come back too, so a cooldown is what a shorter run would have done, bit for bit on a CPU.
        self._restore(load_checkpoint(self._branch_point(self.ends[schedule])), quiet=True)
        self.progress.schedule, self.progress.seconds_at_branch = schedule, self.progress.seconds
        if ended.schedule:
            self.progress.annealing_seconds = ended.annealing_seconds + ended.seconds - ended.seconds_at_branch

    def _branch_point(self, end: int) -> Path:
        return self.scratch / BRANCHES / f"step-{end:06d}.pt"

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

    def _step(self, end: int) -> None:
        """One optimiser step of a schedule that ends at step ``end``."""
        start = time.perf_counter()
        step, accumulation = self.progress.step, self.training.accumulation
        self.model.train()
        self.model.set_step(step)
        lr = learning_rate_at(step, self.training, self.run.size.learning_rate, end)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        streams = None
        for micro in range(accumulation):
            # Noise is a function of (seed, step), not of what came before, so a resumed run draws what it would have drawn.
            # Micro-batches hold equally many tokens, so the mean over them is the mean over the step's tokens.
            torch.manual_seed(stream_seed(self.run.seed, f"dropout/{step}/{micro}") % 2**63)
            self.noise.manual_seed(stream_seed(self.run.seed, f"gumbel/{step}/{micro}") % 2**63)
            x_BT, y_BT = (t.to(self.device) for t in self.sampler.batch(step * accumulation + micro))
            total, terms, streams = self._loss(x_BT, y_BT)
            (total / accumulation).backward()
            for name, term in terms.items():
                sums[name] += term.detach() / accumulation
        norms = [torch.nn.utils.clip_grad_norm_(group, self.training.clip) for group in self.clip_groups]
        values = {names.train_term(name): float(value) for name, value in sums.items()} | {names.TRAIN_GRAD_NORM: float(norms[0])}
        self._check_finite(step, values | {f"gradient norm of group {i}": float(norm) for i, norm in enumerate(norms)})
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        progress = self.progress
        progress.step += 1
        seconds = time.perf_counter() - start
        progress.seconds += seconds
        progress.window_seconds += seconds
        progress.window_steps += 1
        progress.last_loss = values[names.TRAIN_LOSS]
        for name, value in values.items():
            progress.window[name] = progress.window.get(name, 0.0) + value
        self._last_streams = streams

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            good = self.scratch / "checkpoint.pt"
            kept = f"last good checkpoint: {good}" if good.exists() else "no checkpoint was made yet"
            raise DivergenceError(
                f"{self.run.name}: not finite at step {step + 1}: {', '.join(wrong)}; {kept}. Lower "
                f"scales.{self.run.scale}.sizes.{self.run.arm}.learning_rate (where a sweep chooses the rate, the largest of "
                f"scales.{self.run.scale}.sweep.factors) or training.clip and run `dvc repro`",
                step + 1,
            )

    # ------------------------------------------------------------------------------------------ records

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs of one token, from the accounting; 0 for a trial, whose costs nobody asks for."""
        return 0.0 if self.header is None else self.header.flops_per_token.training

    def _axes(self) -> dict[str, Any]:
        tokens = self.progress.step * self.training.tokens_per_step
        return {
            "step": self.progress.step,
            "tokens": tokens,
            "flops": tokens * self.flops_per_token,
            "seconds": round(self.progress.seconds, 3),
        }

    def _record_window(self, records: SeriesWriter) -> None:
        progress = self.progress
        row = self._axes() | {name: value / progress.window_steps for name, value in progress.window.items()}
        progress.last_window_loss = row[names.TRAIN_LOSS]
        row[names.TRAIN_LEARNING_RATE] = self.optimizer.param_groups[0]["lr"]
        row[names.TOKENS_PER_SECOND] = progress.window_steps * self.training.tokens_per_step / progress.window_seconds
        if self._last_streams is not None:
            row |= stream_metrics(self._last_streams, self.model)
        records.write(row)
        progress.window, progress.window_steps, progress.window_seconds = {}, 0, 0.0

    def _evaluated(self) -> dict[str, float]:
        self.model.eval()
        values = self.evaluate(self.model)
        self._check_finite(self.progress.step - 1, values)
        return values

    def _record_evaluation(self, records: SeriesWriter) -> None:
        self.progress.last_evaluation = self._evaluated()
        records.write(self._axes() | self.progress.last_evaluation)

    def _show(self, bar: tqdm, end: int) -> None:
        progress = self.progress
        bar.update(1)
        speed = progress.step * self.training.tokens_per_step / max(progress.seconds, 1e-9)
        held_out = ", ".join(f"{name} {value:.3f}" for name, value in list(progress.last_evaluation.items())[:1])
        bar.set_postfix_str(f"loss {progress.last_loss:.3f}, {held_out}, {speed:,.0f} tok/s", refresh=False)
        if bar.disable and (progress.step == end or progress.schedule == 0 and progress.step % max(1, end // 10) == 0):
            left = (end - progress.step) * progress.seconds / progress.step
            print(
                f"{self.run.name}: step {progress.step}/{end}, loss {progress.last_loss:.3f}, {held_out}, "
                f"{speed:,.0f} tok/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    # ------------------------------------------------------------------------------------------ checkpoints

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict() if self.heads is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }

    def _save(self, path: Path, records: SeriesWriter) -> None:
        # The series first: a checkpoint that knew of lines which are not on the disk could not be resumed from.
        self.progress.records_length = records.flush()
        save_checkpoint(path, self._state())
        self.on_checkpoint(self.scratch)

    def _restore(self, state: dict[str, Any], quiet: bool = False) -> None:
        self.model.load_state_dict(state["model"])
        if self.heads is not None:
            self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        if not quiet:
            copy = f" of the copy annealed to step {self.ends[self.progress.schedule]}" if self.progress.schedule else ""
            print(f"{self.run.name}: going on from step {self.progress.step}{copy}", file=sys.stderr, flush=True)

    def _summary(self) -> Summary:
        assert self.header is not None
        axes, last = self._axes(), self.progress.last_evaluation
        return Summary(
            arm=self.run.arm,
            seed=self.run.seed,
            step=self.progress.step,
            tokens=axes["tokens"],
            flops=axes["flops"],
            seconds=axes["seconds"],
            annealing_seconds=0.0,
            parameters=self.header.parameters.total,
            flops_per_token=self.flops_per_token,
            learning_rate=self.run.size.learning_rate,
            train_loss=self.progress.last_window_loss,
            tokens_per_second=axes["tokens"] / max(axes["seconds"], 1e-9),
            val_nats=last[names.VAL_NATS],
            val_bits_per_byte=last[names.VAL_BITS_PER_BYTE],
            val_accuracy=last[names.VAL_ACCURACY],
            val_gate_mean=last.get(names.VAL_GATE_MEAN),
            backends=chosen_kernels(self.device.type, self.training.kernels),
        )
