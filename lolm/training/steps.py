"""Optimiser steps of a run, by one process or by its share of several (:mod:`lolm.training.ranks`).

Nothing in a step waits for a GPU: batches are fetched while it computes, and what the steps measured comes in one transfer when
it is written, :meth:`Steps.collect`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from lolm.config import RunConfig
from lolm.data.batches import IGNORED, Sampler, stream_seed
from lolm.models.build import build_model
from lolm.models.language_model import Streams
from lolm.objectives import auxiliary_losses, build_heads, token_loss, total_loss
from lolm.ops.backends import keep_from_tracing
from lolm.records import names
from lolm.training import ranks
from lolm.training.checkpoint import checkpointed
from lolm.training.optimizer import build_optimizer, learning_rate_at
from lolm.training.progress import DivergenceError, Progress, TrainingError
from lolm.training.recorded import WARM_UP, Recorded, refuse_recording

Part = tuple[str, torch.Tensor, torch.Tensor]  # of a step: its name, inputs and targets


class Steps:
    """Model, heads and optimiser of a run, and what an optimiser step does with them.

    Args:
        sampler: batches of the training split.
        device: where to train. Where processes were joined (:func:`lolm.training.ranks.joined`), each builds the same, and the
            model is sharded over them.

    Attributes:
        pieces: into how many parts a micro-batch is cut to fit into the device's memory, see :meth:`warm_up`.

    Raises:
        TrainingError: the data have another vocabulary.
    """

    scratch: Path  # of the run

    def __init__(self, run: RunConfig, sampler: Sampler, device: str = "cpu") -> None:
        self.run, self.sampler = run, sampler
        self.training, self.device = run.training, torch.device(device)
        recipe = run.architecture.recipe
        if sampler.stream.vocab_size != run.vocab_size:
            raise TrainingError(
                f"the data have {sampler.stream.vocab_size} tokens, tokenizer.vocab_size is {run.vocab_size}; "
                f"run `make repro SCALE={run.scale}`, which makes them again"
            )

        torch.manual_seed(stream_seed(run.seed, "init") % 2**63)
        self.model = build_model(run).to(self.device)
        self.heads = build_heads(run.architecture, run.size, run.training.kernels)
        if self.heads is not None:
            self.heads.to(self.device)
        if self.training.compile:
            keep_from_tracing()
            for unit in self.model.units():  # the method, so that weights keep their names and sharding its hooks around it
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
        self.pieces = 1
        self.recording = self.training.cuda_graph and self.device.type == "cuda"
        if self.recording:
            refuse_recording(run, self.model)
        self.forget_recorded()
        self._sums: dict[str, torch.Tensor | float] = {}  # terms of the step under way
        self._pending: list[torch.Tensor] = []  # what each step since the last transfer measured, by self._names
        self._names: list[str] = []
        self._last_streams: Streams | None = None

    def warm_up(self) -> None:
        """One forward and backward pass that is thrown away, so that compiling kernels is not counted as training time.

        Where a GPU has too little memory for a micro-batch, it is cut: the published batch stays, and statistics of a micro-batch
        (code balance, routing) are then of a piece.

        Raises:
            TrainingError: it does not fit, and may not be cut.
        """
        batch, length = self.training.batch_size, self.training.seq_len
        while not self._fits():
            smaller = [size for size in range(batch // self.pieces - 1, 0, -1) if batch % size == 0][:1]
            if self.sharded or not smaller or (self.heads is not None and self.heads.negatives != "sequence"):
                raise TrainingError(
                    f"{self.run.name}: a micro-batch of {batch} x {length} tokens does not fit into the device's memory; lower "
                    "training.batch_size and raise accumulation, or set activation_checkpointing: true"
                )
            self.pieces = batch // smaller[0]
            torch.cuda.empty_cache()
            print(f"{self.run.name}: {smaller[0]} of {batch} sequences fit at a time", file=sys.stderr, flush=True)

    def _fits(self) -> bool:
        self.model.train()
        missing = self.device.type == "cuda" and not self.optimizer.state
        moments = 2 * sum(p.numel() for p in self.model.parameters()) // ranks.count() if missing else 0
        try:
            room = torch.empty(moments, device=self.device)  # for what the first step will add
            name, x_BT, y_BT = self._parts(0, range(1))[0]
            self._backward(name, x_BT, y_BT, 1.0, 1)
            del room
        except torch.OutOfMemoryError:
            return False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return True

    def forget_recorded(self) -> None:
        """Record anew: the optimiser's state lies elsewhere."""
        self._recorded: Recorded[tuple[torch.Tensor, Streams]] | None = None
        self._inputs: tuple[torch.Tensor, ...] = ()
        self._warm = 0  # steps since then

    def _parts(self, step: int, micros: range) -> list[Part]:
        """The micro-batches of a step, or the pieces that they are cut into."""
        parts: list[Part] = []
        for micro in micros:
            x_BT, y_BT = self.sampler.batch(step * self.training.accumulation + micro)
            cut = zip(x_BT.chunk(self.pieces), y_BT.chunk(self.pieces), strict=True)
            parts += [(f"{step}/{micro}" + (f"/{i}" if self.pieces > 1 else ""), *piece) for i, piece in enumerate(cut)]
        return parts

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

    def _shares(self, parts: Sequence[Part]) -> torch.Tensor:
        """Weight of each of this process's parts in the token loss: its scored tokens over the mean of all the step's parts, so
        that the mean over these is the mean over all scored tokens. Exactly 1 where all are scored."""
        scored = self._to_device(torch.stack([(y_BT != IGNORED).sum() for _, _, y_BT in parts]).double())
        every = ranks.sum_over(scored.sum())
        return (scored * (self.training.accumulation * self.pieces) / every.clamp(min=1)).float()

    def _seed(self, name: str) -> None:
        """Noise is a function of (seed, ``name``), not of what came before, so a resumed run draws what it would have drawn."""
        torch.manual_seed(stream_seed(self.run.seed, f"dropout/{name}") % 2**63)
        self.noise.manual_seed(stream_seed(self.run.seed, f"gumbel/{name}") % 2**63)

    def _backward(self, name: str, x_BT: torch.Tensor, y_BT: torch.Tensor, share: torch.Tensor | float, parts: int) -> Streams:
        """Add one part of the step's gradient, of so many, and of its terms; returns its streams."""
        self._seed(name)
        return self._accumulate(self._to_device(x_BT), self._to_device(y_BT), share, parts)

    def _accumulate(self, x_BT: torch.Tensor, y_BT: torch.Tensor, share: torch.Tensor | float, parts: int) -> Streams:
        total, terms, streams = self._losses(x_BT, y_BT, share)
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
        self._set_rate(learning_rate_at(step, self.training, self.run.size.learning_rate, end))
        # In turn from the end, so that the last micro-batch is the lead's, which writes what its streams were.
        parts = self._parts(step, range(accumulation)[ranks.count() - 1 - ranks.rank() :: ranks.count()])
        shares, self._last_streams = self._shares(parts), None
        if self.recording and len(parts) == 1:
            row, streams = self._step_recorded(*parts[0], shares)
            if self.logged(step + 1):
                self._last_streams = streams.detached()
        else:
            self._sums = {}
            for number, (part, share) in enumerate(zip(parts, shares, strict=True), 1):
                streams = self._backward(*part, share, len(parts))
                if number == len(parts) and self.logged(step + 1):
                    self._last_streams = streams.detached()
                del streams  # with what the next part needs the room of
            row = self._update()
        self._pending.append(row)
        self.progress.step += 1
        self.progress.window_steps += 1
        self._spend(start)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if not self.recording:
                group["lr"] = rate
            elif self._warm:
                group["lr"].fill_(rate)
            else:  # in memory that a recording reads
                group["lr"], group["capturable"] = torch.tensor(rate, device=self.device), True

    def _update(self) -> torch.Tensor:
        """Clip, and let the optimiser step; returns what was measured of the whole step, by ``_names``."""
        norms = [self._clipped(group) for group in self.clip_groups]
        self._names = [*map(names.train_term, self._sums), *(f"gradient norm of group {i}" for i in range(len(norms)))]
        row = torch.stack([*self._sums.values(), *norms])  # type: ignore[list-item]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return row

    def _clipped(self, group: list[torch.nn.Parameter]) -> torch.Tensor:
        """The norm of a group's gradient before it was clipped, on the device also where the group has none."""
        if all(parameter.grad is None for parameter in group):
            return torch.zeros((), device=self.device)
        return ranks.whole(torch.nn.utils.clip_grad_norm_(group, self.training.clip))

    def _step_recorded(
        self, name: str, x_BT: torch.Tensor, y_BT: torch.Tensor, shares: torch.Tensor
    ) -> tuple[torch.Tensor, Streams]:
        """The step of one part, recorded once the first ones are done; what it returns is overwritten by the next."""

        def step() -> tuple[torch.Tensor, Streams]:
            self._sums = {}
            x, y, share = self._inputs
            streams = self._accumulate(x, y, share[0], 1)
            return self._update(), streams.detached()

        new = (self._to_device(x_BT), self._to_device(y_BT), shares)
        if not self._inputs:
            self._inputs = tuple(map(torch.clone, new))
        for kept, given in zip(self._inputs, new, strict=True):
            kept.copy_(given)
        if self._recorded is None and self._warm == WARM_UP:
            self._recorded = Recorded(step, [self.noise])
        self._warm += self._recorded is None
        self._seed(name)
        row, streams = step() if self._recorded is None else self._recorded()
        return row.clone(), streams

    def _spend(self, start: float) -> None:
        seconds = time.perf_counter() - start
        self.progress.seconds += seconds
        self.progress.window_seconds += seconds

    def logged(self, step: int) -> bool:
        """Whether the series has a row of this step: only of the trunk."""
        return self.progress.schedule == 0 and (step % self.training.log_every == 0 or step == self.training.steps)

    def collect(self) -> None:
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
            self.check_finite(step, values)
            terms = row[: -len(self.clip_groups)]
            values = dict(zip(self._names, terms, strict=False)) | {names.TRAIN_GRAD_NORM: row[len(terms)]}
            for name, value in values.items():
                progress.window[name] = progress.window.get(name, 0.0) + value
            progress.last_loss = values[names.TRAIN_LOSS]
        self._spend(start)

    def check_finite(self, step: int, values: dict[str, float]) -> None:
        wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            good = checkpointed(self.scratch / "checkpoint.pt")
            kept = f"last good checkpoint: {good}" if good else "no checkpoint was made yet"
            raise DivergenceError(
                f"{self.run.name}: not finite at step {step + 1}: {', '.join(wrong)}; {kept}. Lower "
                f"scales.{self.run.scale}.sizes.{self.run.arm}.learning_rate (where a sweep chooses the rate, the largest of "
                f"scales.{self.run.scale}.sweep.factors) or training.clip and run `make repro SCALE={self.run.scale}`",
                step + 1,
            )
