"""The training loop: one for every arm.

A run is a function of its configuration, data and code. Batches, dropout and Gumbel noise are functions of (seed, step), so a
run that is killed and goes on from its checkpoint takes the same steps, bit for bit on a CPU.

A run has *legs*. The first is the run itself. Under a ``wsd`` schedule each of ``training.cooldowns`` adds one: a copy of the run
as it was when a schedule ending there would have begun to decay, annealed to that end. It gives the loss of a shorter run with a
whole schedule of its own for the cost of its decay alone.
"""

from __future__ import annotations

import math
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
from lolm.data.batches import Sampler, stream_seed
from lolm.models.experts import load_metrics
from lolm.models.language_model import LanguageModel, Streams, build_model
from lolm.objectives import (
    COMPETITIVE_HORIZON,
    auxiliary_losses,
    build_heads,
    competitive_target,
    entropy,
    token_loss,
    total_loss,
)
from lolm.ops.backends import keep_from_tracing
from lolm.records import SeriesWriter, read_json, write_json
from lolm.training.checkpoint import (
    cooldown_path,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    snapshot_path,
)
from lolm.training.optimizer import build_optimizer, learning_rate_at
from lolm.training.scratch import FINISHED, FORKS, publish

Evaluate = Callable[[LanguageModel], dict[str, float]]


class TrainingError(LolmError):
    """Training cannot go on; the message says why and where the last good checkpoint lies."""


class DivergenceError(TrainingError):
    """A loss or gradient that is not finite."""


@dataclass
class Progress:
    """What a checkpoint must remember besides weights and optimiser."""

    step: int = 0
    leg: int = 0  # 0: the run itself; then its annealed copies
    seconds: float = 0.0  # spent training up to this step; evaluation and checkpoints are not counted
    forked_seconds: float = 0.0  # of which before the leg began
    annealing_seconds: float = 0.0  # spent on the legs that are done, the run itself apart
    window: dict[str, float] = field(default_factory=dict)  # sums since the last log line
    window_steps: int = 0
    window_seconds: float = 0.0
    records_length: int = 0
    last_evaluation: dict[str, float] = field(default_factory=dict)
    last_loss: float = 0.0  # of the last step
    last_window_loss: float = 0.0  # mean over the last log window


class Trainer:
    """Trains one run and leaves its records and weights in ``output``.

    Args:
        run: the resolved configuration.
        sampler: batches of the training split.
        evaluate: scores the model on the fixed held-out set; gives ``val/...`` values.
        output: folder that receives ``config.json``, ``metrics.jsonl``, ``summary.json``, the final weights, snapshots, and the
            weights at the other horizons.
        on_checkpoint: called with the scratch folder after each checkpoint.
        device: where to train.
    """

    def __init__(
        self,
        run: RunConfig,
        sampler: Sampler,
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
        self.legs = (self.training.steps, *self.training.cooldown_steps)  # where each ends
        self._last_streams: Streams | None = None
        self._loss = self._losses
        if self.training.compile:
            keep_from_tracing()
            self._loss = torch.compile(self._losses)

    def fit(self, header: dict[str, Any], flops_per_token: float, scratch: Path) -> dict[str, Any]:
        """Train to the end, from the last checkpoint if there is one.

        Args:
            header: what goes into ``config.json``, fingerprint and parameter counts included.
            flops_per_token: training FLOPs of one token, from the accounting.
            scratch: ignored folder named by the fingerprint; holds the checkpoint. A finished run stays there, marked, until
                :func:`~lolm.training.scratch.clear_finished`, so that a kill before the caller has recorded ``output``
                costs nothing.

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
        if (self.scratch / FINISHED).exists():
            print(f"{self.run.name}: was finished already", file=sys.stderr, flush=True)
            return publish(self.scratch, self.output)
        checkpoint = self.scratch / "checkpoint.pt"
        if checkpoint.exists():
            self._restore(load_checkpoint(checkpoint))
        write_json(self.scratch / "config.json", self.header)
        records = SeriesWriter(self.scratch / "metrics.jsonl", self.progress.records_length)
        bar = tqdm(total=self.training.steps, desc=self.run.name, unit="step", disable=None, dynamic_ncols=True)
        if self.progress.step == 0:
            self._record_evaluation(records)
        self._warm_up()
        while True:
            self._run_leg(records, checkpoint, bar)
            self._end_leg(records)
            if self.progress.leg + 1 == len(self.legs):
                break
            self._begin_leg(self.progress.leg + 1)
            self._save(checkpoint, records)
        bar.close()
        records.close()
        (self.scratch / FINISHED).touch()  # first, so that a kill from here on loses nothing
        checkpoint.unlink()
        shutil.rmtree(self.scratch / FORKS, ignore_errors=True)
        return publish(self.scratch, self.output)

    def _run_leg(self, records: SeriesWriter, checkpoint: Path, bar: tqdm) -> None:
        """Take steps to the end of the leg under way; only the run itself writes its course into the records."""
        progress, end = self.progress, self.legs[self.progress.leg]
        bar.reset(total=end)
        bar.update(progress.step)
        while progress.step < end:
            self._step(end)
            last = progress.step == end
            if progress.leg == 0 and (progress.step % self.training.log_every == 0 or last):
                self._record_window(records)
            self.model.set_step(progress.step)  # what is measured and kept from here on has this step's temperature
            if progress.leg == 0:
                if progress.step % self.training.eval_every == 0 or last:
                    self._record_evaluation(records)
                if progress.step in self.training.snapshot_steps:
                    save_weights(snapshot_path(self.scratch, progress.step), self.model, self.heads)
                for horizon in self.legs[1:]:
                    if progress.step == self.training.decay_starts(horizon):
                        save_checkpoint(self._fork(horizon), self._state())
            if progress.step % self.training.checkpoint_every == 0 or last:
                self._save(checkpoint, records)
            self._show(bar, end)

    def _end_leg(self, records: SeriesWriter) -> None:
        """Keep the weights and the held-out loss at the end of a schedule."""
        progress, end = self.progress, self.legs[self.progress.leg]
        if progress.leg:
            values = self._evaluated()
            save_weights(cooldown_path(self.scratch, end), self.model, self.heads)
            summary = read_json(self.scratch / "summary.json")
            spent = progress.annealing_seconds + progress.seconds - progress.forked_seconds
            summary["annealing_seconds"] = round(spent, 3)
        else:
            values = progress.last_evaluation
            save_weights(self.scratch / "model.safetensors", self.model, self.heads)
            summary = self._summary()
        write_json(self.scratch / "summary.json", summary)
        records.write(self._axes() | {name.replace("val/", "annealed/", 1): value for name, value in values.items()})

    def _begin_leg(self, leg: int) -> None:
        """Go back to where the schedule of another leg begins to decay."""
        ended = self.progress
        self._restore(load_checkpoint(self._fork(self.legs[leg])), quiet=True)
        self.progress.leg, self.progress.forked_seconds = leg, self.progress.seconds
        if ended.leg:
            self.progress.annealing_seconds = ended.annealing_seconds + ended.seconds - ended.forked_seconds

    def _fork(self, horizon: int) -> Path:
        return self.scratch / FORKS / f"step-{horizon:06d}.pt"

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
        self._check_finite(step, values | {f"gradient norm of group {i}": float(norm) for i, norm in enumerate(norms)})
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
        self._last_streams = streams

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            good = self.scratch / "checkpoint.pt"
            kept = f"last good checkpoint: {good}" if good.exists() else "no checkpoint was made yet"
            raise DivergenceError(
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

    def _record_window(self, records: SeriesWriter) -> None:
        progress = self.progress
        row = self._axes() | {name: value / progress.window_steps for name, value in progress.window.items()}
        progress.last_window_loss = row["train/loss"]
        row["train/lr"] = self.optimizer.param_groups[0]["lr"]
        row["speed/tokens_per_second"] = progress.window_steps * self.training.tokens_per_step / progress.window_seconds
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
        if bar.disable and (progress.step == end or progress.leg == 0 and progress.step % max(1, end // 10) == 0):
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
            leg = f" of the copy annealed to step {self.legs[self.progress.leg]}" if self.progress.leg else ""
            print(f"{self.run.name}: going on from step {self.progress.step}{leg}", file=sys.stderr, flush=True)

    def _summary(self) -> dict[str, Any]:
        axes = self._axes()
        return {
            "arm": self.run.arm,
            "seed": self.run.seed,
            **axes,
            "parameters": self.header["parameters"]["total"],
            "flops_per_token": self.flops_per_token,
            "learning_rate": self.run.size.learning_rate,
            "train_loss": self.progress.last_window_loss,
            "tokens_per_second": axes["tokens"] / max(axes["seconds"], 1e-9),
            "annealing_seconds": 0.0,
            **{name.replace("/", "_"): value for name, value in self.progress.last_evaluation.items()},
        }


@torch.no_grad()
def stream_metrics(streams: Streams, model: LanguageModel) -> dict[str, float]:
    """Gate, regime and experts' load of one micro-batch, as the published logs define them.

    ``regime/alive`` counts distinct argmax codes of the Gumbel samples, and the usage entropy is that of their shares;
    ``gate/mean`` is over all positions and dimensions.
    """
    row: dict[str, float] = {}
    if streams.g is not None and streams.z is not None:
        row["gate/mean"] = float(streams.g.float().mean())
        if streams.h.shape[1] > COMPETITIVE_HORIZON:
            row["gate/target"] = float(competitive_target(streams.h, streams.z).mean())
    if streams.p is not None:
        counts = torch.bincount(streams.p.argmax(dim=-1).flatten(), minlength=streams.p.shape[-1]).double()
        row["regime/alive"] = float((counts > 0).sum())
        row["regime/usage_entropy"] = float(entropy(counts / counts.sum()))
        row["regime/tau"] = float(model.get_buffer("regime.tau"))
    if streams.load is not None:
        row |= load_metrics(streams.load)
    return row
