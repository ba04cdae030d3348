"""What a run costs before it starts: memory a device, hours, disk; and what would fit where it does not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lolm.accounting.count import account_run
from lolm.accounting.gpus import GPUS, UTILISATION, gpu_of, peak_flops
from lolm.config import ConfigError, CorpusConfig, RunConfig

if TYPE_CHECKING:
    from lolm.accounting.memory import StepMemory

GIB = 2**30
USABLE = 0.92  # share of a memory; the rest is the driver's, the libraries', and lost between the allocator's blocks
SURELY_FITS = 5e10  # FLOPs of a micro-batch's forward pass below which a step is a matter of a few GB: nothing to check
TEXT_BYTES = 4.3  # of English a token, at a vocabulary of 50,257
_taken: dict[str, StepMemory] = {}  # by all that it rests on


@dataclass(frozen=True)
class Target:
    """Devices that are to run something: their name, bytes of memory of each, and whether they are GPUs."""

    name: str
    memory: float
    gpu: bool

    @classmethod
    def of(cls, gpu: str) -> Target:
        """A GPU of the table; raises ConfigError as :func:`lolm.accounting.gpus.gpu_of`."""
        return cls(gpu, gpu_of(gpu).memory * GIB, True)

    @classmethod
    def here(cls) -> Target:
        """This machine: its first GPU, or without one the memory that its processes may use."""
        import torch

        if torch.cuda.is_available():
            return cls(torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory, True)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = Path("/sys/fs/cgroup/memory.max")
        if limit.exists() and (most := limit.read_text(encoding="ascii").strip()).isdecimal():
            memory = min(memory, int(most))
        return cls("this machine", memory, False)

    @property
    def usable(self) -> float:
        return USABLE * self.memory


def memory_of(run: RunConfig, gpu: bool, devices: int = 1, **training: object) -> StepMemory:
    """:func:`lolm.accounting.memory.step_memory` of a run, with other training settings if given; each is taken once."""
    from lolm.accounting.memory import step_memory

    run = replace(run, seed=0, training=replace(run.training, **training))  # type: ignore[arg-type]
    key = repr((run, gpu, devices))
    if key not in _taken:
        _taken[key] = step_memory(run, gpu, devices)
    return _taken[key]


def largest_micro_batch(run: RunConfig, target: Target, devices: int = 1, **training: object) -> int:
    """The most sequences of a micro-batch that fit where whole micro-batches make up the step's batch; 0 where none does.

    Where a loss takes negatives from the micro-batch it is the run's own or none: another has another loss.
    """
    sequences = run.training.batch_size * run.training.accumulation
    sizes = [run.training.batch_size] if run.contrasts_sequences else range(1, max(1, sequences // devices) + 1)
    shares = [n for n in sizes if sequences % (n * devices) == 0]

    def bytes_at(batch: int) -> int:
        return memory_of(run, target.gpu, devices, batch_size=batch, accumulation=sequences // batch, **training).peak

    fitting = [0, *shares]
    while len(fitting) > 1:  # bytes grow with the batch
        middle = len(fitting) // 2
        fitting = fitting[middle:] if bytes_at(fitting[middle]) <= target.usable else fitting[:middle]
    return fitting[0]


def what_fits(run: RunConfig, target: Target, devices: int = 1) -> str | None:
    """None where a run's step fits into each of the target's devices, else how much it needs and which settings would fit."""
    training = run.training
    if account_run(run).flops_per_token.forward * training.seq_len * training.batch_size < SURELY_FITS:
        return None
    need = memory_of(run, target.gpu, devices).peak
    if need <= target.usable:
        return None
    offers = []
    for checkpointing in sorted({training.activation_checkpointing, True}):
        if batch := largest_micro_batch(run, target, devices, activation_checkpointing=checkpointing):
            offers.append(_settings(run, batch, devices, checkpointing))
    more = 2 * devices
    while not offers and more <= 64 and target.gpu:
        if batch := largest_micro_batch(run, target, more, activation_checkpointing=True):
            offers.append(f"devices: {more}, {_settings(run, batch, more, True)}")
        more *= 2
    nothing = "not even one sequence fits: choose larger or more devices"
    if run.contrasts_sequences:
        nothing = "nothing fits with that batch_size, the texts that a loss contrasts: choose devices with more memory"
    return (
        f"scales.{run.scale}.training: a step of {run.arm} takes {need / GIB:,.1f} GiB a device with batch_size "
        f"{training.batch_size}, and {target.name} has {target.usable / GIB:,.1f} GiB for it; "
        f"{'what fits: ' + '; or '.join(offers) if offers else nothing}"
    )


def _settings(run: RunConfig, batch: int, devices: int, checkpointing: bool) -> str:
    """The same step in other portions."""
    training = run.training
    accumulation = training.batch_size * training.accumulation // batch  # of all devices, which take them in turn
    parts = f"batch_size: {batch}, accumulation: {accumulation}"
    return parts + (", activation_checkpointing: true" if checkpointing else "")


def gpu_hours(flops: float, gpu: str, precision: str, utilisation: float = UTILISATION) -> float:
    """Hours that one GPU of the table takes for so many model FLOPs."""
    peak = peak_flops(gpu, precision)
    if peak is None:
        raise ConfigError(f"no GPU {gpu!r}; known are {', '.join(GPUS)}")
    return flops / (peak * utilisation * 3600)


def disk(run: RunConfig, parameters: int) -> Mapping[str, float]:
    """Bytes that a run leaves, ``weights`` in fp32 (its end, snapshots, annealed copies), and what it needs on the way:
    ``checkpoints`` with AdamW's moments, the last two and one for each copy that is to be annealed."""
    training = run.training
    copies = len(training.cooldown_steps)
    return {
        "weights": 4.0 * parameters * (1 + len(training.snapshot_steps) + copies),
        "checkpoints": 12.0 * parameters * (2 + copies),
    }


def shard_bytes(corpus: CorpusConfig, vocab_size: int) -> float | None:
    """Bytes of the token files, roughly, where the settings bound the text."""
    return None if corpus.max_bytes is None else corpus.max_bytes / TEXT_BYTES * (2 if vocab_size <= 65_536 else 4)
