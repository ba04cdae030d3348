"""The training loop: one for every arm.

A run is a function of its configuration, data and code. Batches, dropout and Gumbel noise are functions of (seed, step), so a
run that is killed and goes on from its checkpoint takes the same steps, bit for bit on a CPU.

A run has a *trunk*, the run itself. Under a ``wsd`` schedule each of ``training.cooldowns`` adds a copy of the trunk as it was
when a schedule ending there would have begun to decay, annealed to that end. It gives the loss of a shorter run with a whole
schedule of its own for the cost of its decay alone: until then the two are the same (Hägele et al. 2024, arXiv 2405.18392).

Several processes make one run by the same loop (:mod:`lolm.training.ranks`); the first of them, the lead, writes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from lolm.accounting.gpus import peak_flops
from lolm.config import RunConfig
from lolm.data.batches import Sampler
from lolm.models.language_model import LanguageModel, half_precision
from lolm.ops.backends import chosen_kernels
from lolm.records import FINAL_WEIGHTS, SeriesWriter, cooldown_path, names, read, snapshot_path, write
from lolm.records.schema import RunHeader, Summary
from lolm.training import ranks
from lolm.training.checkpoint import checkpointed, remove_checkpoint, restore, save, save_weights
from lolm.training.metrics import Usage, stream_metrics
from lolm.training.progress import Progress, TrainingError
from lolm.training.scratch import BRANCHES, FINISHED, publish
from lolm.training.steps import Steps

Evaluate = Callable[[LanguageModel], dict[str, float]]


class Trainer(Steps):
    """Trains one run.

    Args:
        run: the resolved configuration.
        sampler: batches of the training split.
        evaluate: scores the model on the fixed held-out set, see :func:`lolm.evaluation.held_out.validation_metrics`.
        on_checkpoint: called with the scratch folder after each checkpoint.
        device: where to train, see :class:`~lolm.training.steps.Steps`.
        alone: whether no other run is being made beside this one.
    """

    def __init__(
        self,
        run: RunConfig,
        sampler: Sampler,
        evaluate: Evaluate,
        on_checkpoint: Callable[[Path], None] = lambda folder: None,
        device: str = "cpu",
        alone: bool = False,
    ) -> None:
        super().__init__(run, sampler, device)
        self.alone = alone
        self.evaluate, self.on_checkpoint = evaluate, on_checkpoint
        self.ends = (self.training.steps, *self.training.cooldown_steps)  # of the schedules: the trunk's, then the cooldowns'
        self.header: RunHeader | None = None
        self.records: SeriesWriter | None = None  # the lead's
        self.usage = Usage(self.device)
        self.peak = 0.0  # FLOP/s of all devices together, where known
        if self.device.type == "cuda":
            self.peak = ranks.count() * (peak_flops(torch.cuda.get_device_name(), self.training.precision) or 0.0)

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
        if ranks.is_lead():
            publish(scratch, records, weights)
        ranks.barrier()
        return read(records / "summary.json", Summary)

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
            with lock if ranks.is_lead() else nullcontext():
                ranks.barrier()  # a lead that is refused takes the others with it
                self._train()
        except Timeout:
            raise TrainingError(
                f"{self.run.name}: another process is training this run (lock {lock.lock_file}); a killed dvc leaves its stage "
                "running: wait for it, or end it, and start again"
            ) from None

    def _train(self) -> None:
        if (self.scratch / FINISHED).exists():
            if ranks.is_lead():
                print(f"{self.run.name}: was finished already", file=sys.stderr, flush=True)
            return
        self.checkpoint, lead = self.scratch / "checkpoint.pt", ranks.is_lead()
        if checkpointed(self.checkpoint):
            self._restore(self.checkpoint)
        self.warm_up()
        if lead:
            if self.header is not None:
                cut = self.training.batch_size // self.pieces if self.pieces > 1 else None
                write(self.scratch / "config.json", replace(self.header, micro_batch=cut))
            self.records = SeriesWriter(
                self.scratch / "metrics.jsonl", self.progress.records_length, self.progress.records_checksum
            )
        hidden = None if lead else True
        bar = tqdm(total=self.training.steps, desc=self.run.name, unit="step", disable=hidden, dynamic_ncols=True)
        if self.progress.step == 0:
            self._record_evaluation()
        while True:
            self._run_schedule(bar)
            self._end_schedule()
            if self.progress.schedule + 1 == len(self.ends):
                break
            self._begin_cooldown(self.progress.schedule + 1)
            self._save()
        bar.close()
        if self.records is not None:
            self.records.close()
            (self.scratch / FINISHED).touch()  # first, so that a kill from here on loses nothing
            remove_checkpoint(self.checkpoint)
            shutil.rmtree(self.scratch / BRANCHES, ignore_errors=True)

    def _run_schedule(self, bar: tqdm) -> None:
        """Take steps to the end of the schedule under way; only the trunk writes its course into the series."""
        progress, end = self.progress, self.ends[self.progress.schedule]
        bar.reset(total=end)
        bar.update(progress.step)
        while progress.step < end:
            self._step(end)
            last = progress.step == end
            evaluated = progress.schedule == 0 and (progress.step % self.training.eval_every == 0 or last)
            kept = progress.step % self.training.checkpoint_every == 0 or last
            branches = [e for e in self.ends[1:] if progress.schedule == 0 and progress.step == self.training.decay_starts(e)]
            if self.logged(progress.step) or evaluated or kept or branches or progress.step in self.training.snapshot_steps:
                self.collect()  # nothing that is written may rest on a step that was not finite
            if self.logged(progress.step):
                self._record_window()
            # A schedule inside the model is a function of the step as well; weights, buffers and measurements must agree on it.
            self.model.set_step(progress.step)  # what is measured and kept from here on has this step's temperature
            if evaluated:
                self._record_evaluation()
            if progress.schedule == 0 and progress.step in self.training.snapshot_steps:
                save_weights(snapshot_path(self.scratch, progress.step), self.model, self.heads)
            for cooldown_end in branches:
                save(self._branch_point(cooldown_end), self.model, self.heads, self.optimizer, vars(progress))
            if kept:
                self._save()
            self._show(bar, end)

    def _end_schedule(self) -> None:
        """Keep the weights and the held-out loss at the end of a schedule."""
        progress, end = self.progress, self.ends[self.progress.schedule]
        if progress.schedule:
            values = self._evaluated()
            save_weights(cooldown_path(self.scratch, end), self.model, self.heads)
        else:
            values = progress.last_evaluation
            save_weights(self.scratch / FINAL_WEIGHTS, self.model, self.heads)
        if self.header is not None and ranks.is_lead():
            path = self.scratch / "summary.json"
            spent = progress.annealing_seconds + progress.seconds - progress.seconds_at_branch
            summary = replace(read(path, Summary), annealing_seconds=round(spent, 3)) if progress.schedule else self._summary()
            write(path, summary)
        self._write({names.annealed(name): value for name, value in values.items()})

    def _begin_cooldown(self, schedule: int) -> None:
        """Go back to where a cooldown leaves the trunk."""
        ended = self.progress
        # Optimiser state and step come back too, so a cooldown is what a shorter run would have done, bit for bit on a CPU.
        self._restore(self._branch_point(self.ends[schedule]), quiet=True)
        self.progress.schedule, self.progress.seconds_at_branch = schedule, self.progress.seconds
        if ended.schedule:
            self.progress.annealing_seconds = ended.annealing_seconds + ended.seconds - ended.seconds_at_branch

    def _branch_point(self, end: int) -> Path:
        return self.scratch / BRANCHES / f"step-{end:06d}.pt"

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

    def _write(self, row: dict[str, Any]) -> None:
        if self.records is not None:
            self.records.write(self._axes() | row)

    def _record_window(self) -> None:
        progress = self.progress
        row: dict[str, Any] = {name: value / progress.window_steps for name, value in progress.window.items()}
        progress.last_window_loss = row[names.TRAIN_LOSS]
        row[names.TRAIN_LEARNING_RATE] = float(self.optimizer.param_groups[0]["lr"])
        speed = progress.window_steps * self.training.tokens_per_step / progress.window_seconds
        row[names.TOKENS_PER_SECOND] = speed
        if self.peak:
            row[names.MFU] = speed * self.flops_per_token / self.peak
        row |= self.usage.since_last()
        if self._last_streams is not None and ranks.is_lead():
            row |= stream_metrics(self._last_streams, self.model)
        self._write(row)
        progress.window, progress.window_steps, progress.window_seconds = {}, 0, 0.0
        self._last_streams = None

    def _evaluated(self) -> dict[str, float]:
        self.model.eval()
        with half_precision(self.device.type, self.training.precision, self.sharded):
            values = self.evaluate(self.model)  # by every process alike
        ranks.reshard(self.model)
        self.check_finite(self.progress.step - 1, values)
        return values

    def _record_evaluation(self) -> None:
        self.progress.last_evaluation = self._evaluated()
        self._write(self.progress.last_evaluation)

    def _show(self, bar: tqdm, end: int) -> None:
        progress = self.progress
        told = progress.step == end or progress.schedule == 0 and progress.step % max(1, end // 10) == 0
        if told:
            self.collect()
        bar.update(1)
        speed = progress.step * self.training.tokens_per_step / max(progress.seconds, 1e-9)
        held_out = ", ".join(f"{name} {value:.3f}" for name, value in list(progress.last_evaluation.items())[:1])
        bar.set_postfix_str(f"loss {progress.last_loss:.3f}, {held_out}, {speed:,.0f} tok/s", refresh=False)
        if told and bar.disable and ranks.is_lead():
            left = (end - progress.step) * progress.seconds / progress.step
            print(
                f"{self.run.name}: step {progress.step}/{end}, loss {progress.last_loss:.3f}, {held_out}, "
                f"{speed:,.0f} tok/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    # ------------------------------------------------------------------------------------------ checkpoints

    def _save(self) -> None:
        # The series first: a checkpoint that knew of lines which are not on the disk could not be resumed from.
        if self.records is not None:
            self.progress.records_length, self.progress.records_checksum = self.records.flush()
        save(self.checkpoint, self.model, self.heads, self.optimizer, vars(self.progress))
        if ranks.is_lead():
            self.on_checkpoint(self.scratch)

    def _restore(self, path: Path, quiet: bool = False) -> None:
        self.progress = Progress(**restore(path, self.model, self.heads, self.optimizer))
        self.forget_recorded()
        if not quiet and ranks.is_lead():
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
            alone=self.alone,
        )
