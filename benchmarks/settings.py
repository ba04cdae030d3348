"""What is measured, at which sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.timing import BenchmarkError
from lolm.accounting.resolve import resolve_run
from lolm.config import Params, RunConfig, SizeConfig, arms_of, scale_of
from pipeline.jobs import available_cores

ARMS = ("lolm", "transformer", "transformer_modern", "mamba", "samba", "mamba2")
BASELINE = "transformer"  # the other arms' shares of the peak are held against its share
GROWING = ("lolm", "transformer")  # arms whose growth with length is measured
END = 10**9  # step at which a measured schedule ends: never


@dataclass(frozen=True)
class Settings:
    """Sizes of everything that is measured; lengths in tokens, scan shapes as (B, T, I, N)."""

    params: Params
    scale: str
    arms: tuple[str, ...] = ARMS
    matmul: int = 1024
    copy_bytes: int = 256_000_000
    wide_tokens: int = 2048  # tokens a step of the wider models
    scan_shapes: tuple[tuple[int, int, int, int], ...] = ((2, 256, 256, 16), (2, 2048, 512, 16))
    memory_lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    layer_width: int = 128  # D of the layers that are compared with peers
    growth_lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    growth_tokens: int = 2048  # tokens a step, whatever the length
    growth_factors: tuple[int, ...] = (1, 2, 4)  # of the width
    text_bytes: int = 2_000_000
    worker_steps: int = 40
    generation_lengths: tuple[int, ...] = (128, 1024, 4096)  # tokens so far
    generation_tokens: int = 64
    is_quick: bool = False  # the smallest of everything, see :meth:`quick`

    @classmethod
    def quick(cls, params: Params, scale: str, arms: tuple[str, ...]) -> Settings:
        """The smallest of everything, to see that it works; the numbers say nothing about speed."""
        return cls(
            params, scale, arms, matmul=64, copy_bytes=100_000, wide_tokens=64, scan_shapes=((1, 16, 16, 4),),
            memory_lengths=(256, 512, 1024), layer_width=32, growth_lengths=(16, 32), growth_tokens=32, growth_factors=(1, 2),
            text_bytes=60_000, worker_steps=2, generation_lengths=(16, 32, 64), generation_tokens=8,
            is_quick=True,
        )  # fmt: skip

    def __post_init__(self) -> None:
        sizes = arms_of(self.params, self.scale)
        unknown = [arm for arm in self.arms if arm not in sizes]
        if unknown or not self.arms or len(set(self.arms)) != len(self.arms):
            raise BenchmarkError(
                f"arms {', '.join(self.arms) or 'none'}: give each once, at least one; "
                f"scale {self.scale!r} has {', '.join(sizes)}"
            )

    def run(self, arm: str, factor: int = 1, length: int | None = None, tokens: int | None = None, **training: Any) -> RunConfig:
        """An arm at this scale, its widths multiplied, in steps of ``tokens`` tokens in sequences of ``length``.

        Its schedule never ends, so that any number of steps can be measured.
        """
        run = resolve_run(self.params, self.scale, arm, seed=1)
        old = run.training
        length = old.seq_len if length is None else length
        if tokens is not None:
            training = {"batch_size": max(1, tokens // length), "accumulation": 1} | training
        new = replace(old, steps=END, cooldowns=(), seq_len=length, **training)
        return replace(run, training=new, size=widened(run.size, factor))

    @property
    def threads(self) -> int:
        """Threads of one run, as the preset says."""
        return scale_of(self.params, self.scale).training.threads or available_cores()


def widened(size: SizeConfig, factor: int) -> SizeConfig:
    """Every width times ``factor``, heads of the same width: about factor² as many parameters. Depth and states stay."""

    def times(config: Any, *names: str) -> Any:
        if config is None:
            return None
        wider = {name: factor * getattr(config, name) for name in names if getattr(config, name) is not None}
        return replace(config, **wider)

    mixers = {
        name: {key: value * factor if key in ("d_inner", "kv_heads") else value for key, value in options.items()}
        for name, options in size.mixers.items()
    }
    return replace(
        times(size, "d_model", "n_heads", "d_ff"),
        mixers=mixers,
        latent=times(size.latent, "d_ff"),
        regime=times(size.regime, "width"),
        future=times(size.future, "hidden", "width"),
    )
