"""The training loop: one for every arm.

A run is a function of its configuration, data and code. Batches, dropout and Gumbel noise are functions of (seed, step), so a
run that is killed and goes on from its checkpoint takes the same steps, bit for bit on a CPU.

A run has a *trunk*, the run itself. Under a ``wsd`` schedule each of ``training.cooldowns`` adds a copy of the trunk as it was
when a schedule ending there would have begun to decay, annealed to that end. It gives the loss of a shorter run with a whole
schedule of its own for the cost of its decay alone: until then the two are the same (Hägele et al. 2024, arXiv 2405.18392).

Several processes make one run by the same loop (:mod:`lolm.training.ranks`): each takes its share of a step's micro-batches,
and the first of them, the lead, writes. Nothing in a step waits for a GPU; what the steps measured comes in one transfer when it
is written, :meth:`Trainer._collect`.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from lolm.config import RunConfig
from lolm.data.batches import IGNORED, Sampler, stream_seed
from lolm.models.build import build_model
from lolm.models.language_model import LanguageModel, Streams
from lolm.objectives import auxiliary_losses, build_heads, token_loss, total_loss
from lolm.ops.backends import keep_from_tracing
from lolm.records import SeriesWriter, names, read, write
from lolm.records.schema import RunHeader, Summary
from lolm.training import ranks
from lolm.training.checkpoint import checkpointed, cooldown_path, remove_checkpoint, restore, save, save_weights, snapshot_path
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
        device: where to train. Where processes were joined (:func:`lolm.training.ranks.joined`), all build the same trainer, and
            it shards the model over them.
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
        if self.training.compile:
            keep_from_tracing()
            for unit in self.model.units():
                unit.forward = torch.compile(unit.forward)  # type: ignore[method-assign]
        self.sharded = ranks.count() > 1
        if self.sharded:  # after every process has drawn the same weights
            ranks.shard(self.model, self.heads, self.training.precision == "bf16")
        modules = [self.model] + ([self.heads] if self.heads is not None else [])
        self.optimizer = build_optimizer(modules, recipe.weight_decay, self.training, run.size.learning_rate)
        self.clip_groups = [list(m.parameters()) for m in modules]
        if recipe.clip == "joint":
            self.clip_groups = [[p for group in self.clip_groups for p in group]]
        self.noise = torch.Generator(device=self.device)
        self.progress = Progress()
        self.ends = (self.training.steps, *self.training.cooldown_steps)  # of the schedules: the trunk's, then the cooldowns'
        self.header: RunHeader | None = None
        self.records: SeriesWriter | None = None  # the lead's
        self._pending: list[torch.Tensor] = []  # what each step since the last transfer measured, by self._names
        self._names: list[str] = []
        self._sums: dict[str, torch.Tensor | float] = {}  # terms of the step under way
        self._last_streams: Streams | None = None

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
                "running: wait for it, or end it, and run `dvc repro` again"
            ) from None

    def _train(self) -> None:
        if (self.scratch / FINISHED).exists():
            print(f"{self.run.name}: was finished already", file=sys.stderr, flush=True)
            return
        self.checkpoint, lead = self.scratch / "checkpoint.pt", ranks.is_lead()
        if checkpointed(self.checkpoint):
            self._restore(self.checkpoint)
        if lead:
            if self.header is not None:
                write(self.scratch / "config.json", self.header)
            self.records = SeriesWriter(self.scratch / "metrics.jsonl", self.progress.records_length)
        hidden = None if lead else True
        bar = tqdm(total=self.training.steps, desc=self.run.name, unit="step", disable=hidden, dynamic_ncols=True)
        if self.progress.step == 0:
            self._record_evaluation()
        self._warm_up()
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
            if self._logged(progress.step) or evaluated or kept or branches or progress.step in self.training.snapshot_steps:
                self._collect()  # nothing that is written may rest on a step that was not finite
            if self._logged(progress.step):
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
            save_weights(self.scratch / "model.safetensors", self.model, self.heads)
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

    def _warm_up(self) -> None:
        """One forward and backward pass that is thrown away, so that compiling kernels is not counted as training time."""
        self.model.train()
        x_BT, y_BT = self.sampler.batch(0)
        self._backward("warm-up", x_BT, y_BT, 1.0, 1)
        self.optimizer.zero_grad(set_to_none=True)

    # ------------------------------------------------------------------------------------------ one step

    def _losses(
        self, x_BT: torch.Tensor, y_BT: torch.Tensor, share: torch.Tensor | float = 1.0
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], Streams]:
        """Total loss, its unweighted terms and the streams of a micro-batch; ``share``: see :meth:`_shares`."""
        # What autocast rounds is used once; a cache would keep all gathered weights.
        enabled, cached = self.training.precision == "bf16", not self.sharded
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled, cache_enabled=cached):
            streams = self.model.streams(x_BT, self.model.noise(x_BT, self.noise))
            token = token_loss(self.model, self.model.fuse(streams), y_BT) * share
            terms = auxiliary_losses(self.run.architecture.objectives, streams, self.heads)
            total = total_loss(self.run.architecture.objectives, token, terms)
        return total, {"loss": token, "total": total, **terms}, streams

    def _shares(self, targets: Sequence[torch.Tensor]) -> torch.Tensor:
        """Weight of each micro-batch of this process in the token loss: its scored tokens over the mean of the step's
        micro-batches, so that the mean over these is the mean over all scored tokens. Exactly 1 where all are scored."""
        scored = self._to_device(torch.stack([(y_BT != IGNORED).sum() for y_BT in targets]).double())
        every = ranks.sum_over(scored.sum())
        return (scored * self.training.accumulation / every.clamp(min=1)).float()

    def _backward(self, name: str, x_BT: torch.Tensor, y_BT: torch.Tensor, share: torch.Tensor | float, parts: int) -> Streams:
        """Add a micro-batch's part of the step's gradient, and of its terms to ``self._sums``; returns its streams.

        Noise is a function of (seed, ``name``), not of what came before, so a resumed run draws what it would have drawn.
        """
        torch.manual_seed(stream_seed(self.run.seed, f"dropout/{name}") % 2**63)
        self.noise.manual_seed(stream_seed(self.run.seed, f"gumbel/{name}") % 2**63)
        total, terms, streams = self._losses(self._to_device(x_BT), self._to_device(y_BT), share)
        (total / parts).backward()
        for key, term in terms.items():
            self._sums[key] = self._sums.get(key, 0.0) + term.detach().float() / parts
        return streams

    def _to_device(self, x: torch.Tensor) -> torch.Tensor:
        """A copy that a GPU fetches by itself, while the next batch is made."""
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x.to(self.device)

    def _step(self, end: int) -> None:
        """One optimiser step of a schedule that ends at step ``end``."""
        start = time.perf_counter()
        step, accumulation = self.progress.step, self.training.accumulation
        self.model.train()
        self.model.set_step(step)
        lr = learning_rate_at(step, self.training, self.run.size.learning_rate, end)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        micros = range(accumulation)[ranks.count() - 1 - ranks.rank() :: ranks.count()]  # the last one is the lead's
        batches = [self.sampler.batch(step * accumulation + micro) for micro in micros]
        self._sums, self._last_streams = {}, None
        for micro, batch, share in zip(micros, batches, self._shares([y_BT for _, y_BT in batches]), strict=True):
            streams = self._backward(f"{step}/{micro}", *batch, share, len(micros))
            if micro == accumulation - 1 and self._logged(step + 1):
                self._last_streams = streams.detached()
            del streams  # with what the next micro-batch needs the room of
        norms = [ranks.whole(torch.nn.utils.clip_grad_norm_(group, self.training.clip)) for group in self.clip_groups]
        self._names = [*map(names.train_term, self._sums), *(f"gradient norm of group {i}" for i in range(len(norms)))]
        self._pending.append(torch.stack([*self._sums.values(), *norms]))  # type: ignore[list-item]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.window_steps += 1
        self._spend(start)

    def _spend(self, start: float) -> None:
        seconds = time.perf_counter() - start
        self.progress.seconds += seconds
        self.progress.window_seconds += seconds

    def _collect(self) -> None:
        """Take over what the steps since the last call measured, the mean over all processes, in one transfer.

        Raises:
            DivergenceError: one of them was not finite.
        """
        start, progress = time.perf_counter(), self.progress
        if not self._pending:
            return
        rows = (ranks.sum_over(torch.stack(self._pending)) / ranks.count()).tolist()
        self._pending = []
        for step, row in enumerate(rows, progress.step - len(rows)):
            values = dict(zip(self._names, row, strict=True))
            self._check_finite(step, values)
            values = {name: value for name, value in values.items() if not name.startswith("gradient")}
            values[names.TRAIN_GRAD_NORM] = row[len(values)]
            for name, value in values.items():
                progress.window[name] = progress.window.get(name, 0.0) + value
            progress.last_loss = values[names.TRAIN_LOSS]
        self._spend(start)

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            good = checkpointed(self.scratch / "checkpoint.pt")
            kept = f"last good checkpoint: {good}" if good else "no checkpoint was made yet"
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

    def _logged(self, step: int) -> bool:
        return self.progress.schedule == 0 and (step % self.training.log_every == 0 or step == self.training.steps)

    def _write(self, row: dict[str, Any]) -> None:
        if self.records is not None:
            self.records.write(self._axes() | row)

    def _record_window(self) -> None:
        progress = self.progress
        row: dict[str, Any] = {name: value / progress.window_steps for name, value in progress.window.items()}
        progress.last_window_loss = row[names.TRAIN_LOSS]
        row[names.TRAIN_LEARNING_RATE] = self.optimizer.param_groups[0]["lr"]
        row[names.TOKENS_PER_SECOND] = progress.window_steps * self.training.tokens_per_step / progress.window_seconds
        if self._last_streams is not None and ranks.is_lead():
            row |= stream_metrics(self._last_streams, self.model)
        self._write(row)
        progress.window, progress.window_steps, progress.window_seconds = {}, 0, 0.0
        self._last_streams = None

    def _evaluated(self) -> dict[str, float]:
        self.model.eval()
        values = self.evaluate(self.model)  # by every process alike
        ranks.reshard(self.model)
        self._check_finite(self.progress.step - 1, values)
        return values

    def _record_evaluation(self) -> None:
        self.progress.last_evaluation = self._evaluated()
        self._write(self.progress.last_evaluation)

    def _show(self, bar: tqdm, end: int) -> None:
        progress = self.progress
        bar.update(1)
        speed = progress.step * self.training.tokens_per_step / max(progress.seconds, 1e-9)
        held_out = ", ".join(f"{name} {value:.3f}" for name, value in list(progress.last_evaluation.items())[:1])
        bar.set_postfix_str(f"loss {progress.last_loss:.3f}, {held_out}, {speed:,.0f} tok/s", refresh=False)
        if (
            ranks.is_lead()
            and bar.disable
            and (progress.step == end or progress.schedule == 0 and progress.step % max(1, end // 10) == 0)
        ):
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
        self.progress.records_length = 0 if self.records is None else self.records.flush()
        save(self.checkpoint, self.model, self.heads, self.optimizer, vars(self.progress))
        if ranks.is_lead():
            self.on_checkpoint(self.scratch)

    def _restore(self, path: Path, quiet: bool = False) -> None:
        self.progress = Progress(**restore(path, self.model, self.heads, self.optimizer))
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
        )
