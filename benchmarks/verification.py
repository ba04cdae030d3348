"""What it costs a run that its bytes are compared with their checksums and that no second process may train it."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.settings import BASELINE, Settings
from benchmarks.steps import Stepper, measured
from benchmarks.timing import Part, Samples, Unavailable, summary
from lolm.config import scale_of
from lolm.data.stream import TokenStream
from lolm.records import FINAL_WEIGHTS, Layout, SeriesWriter, sha256_of
from lolm.training.checkpoint import load_checkpoint, save, save_weights

ROW = {"step": 1, "tokens": 512, "flops": 1.0, "seconds": 1.0} | {f"train/{i}": 1.0 for i in range(30)}  # as many as LOLM's


def verification(settings: Settings, stack: ExitStack) -> Part:
    """Seconds of each check, and the share of a run's training that all of them take: its splits once, the lock once, a killed
    run's checkpoint once, and at each checkpoint its share of the series' checksum; at the end the digest of every weight file.

    Raises:
        Unavailable: the scale has no shards here.
    """
    shards = Layout(settings.scale).shards
    if not (shards / "index.json").exists():
        raise Unavailable(f"no shards of scale {settings.scale!r} here: `dvc repro shards` makes them")
    arm = next((arm for arm in settings.arms if arm != BASELINE), settings.arms[0])
    stepper, preset = Stepper(settings.run(arm)), scale_of(settings.params, settings.scale).training
    trainer, folder = stepper.trainer, Path(stack.enter_context(tempfile.TemporaryDirectory()))
    stepper()  # so that the optimiser has its moments
    checkpoint, weights = folder / "checkpoint.pt", folder / FINAL_WEIGHTS
    save(checkpoint, trainer.model, trainer.heads, trainer.optimizer, {})
    save_weights(weights, trainer.model, trainer.heads)
    series = SeriesWriter(folder / "metrics.jsonl")
    for _ in range(preset.steps // preset.log_every):
        series.write(ROW)
    length, checksum = series.flush()
    files = 1 + len(preset.snapshot_steps) + len(preset.cooldown_steps)

    def splits() -> None:
        for split in ("train", "validation"):
            TokenStream.open(shards, split).verify()

    def lock() -> None:
        with FileLock(folder / "run.lock"):
            pass

    checks = {
        "splits": splits,
        "lock": lock,
        "checkpoint": lambda: load_checkpoint(checkpoint),
        "series": lambda: SeriesWriter(folder / "metrics.jsonl", length, checksum).close(),
        "weights": lambda: [sha256_of(weights) for _ in range(files)],
    }
    measures = {name: measured(check, 1) for name, check in checks.items()} | {"step": measured(stepper, settings.threads, 3)}

    def result(samples: Samples) -> dict[str, Any]:
        spent = [sum(seconds) for seconds in zip(*(samples[name] for name in checks), strict=True)]
        training = [seconds * preset.all_tokens / preset.tokens_per_step for seconds in samples["step"]]
        return {
            "arm": arm,
            "seconds": {name: summary(samples[name]) for name in checks},
            "share_of_training": summary([a / b for a, b in zip(spent, training, strict=True)]),
        }

    return Part(measures, result)
