"""Train an arm, at its own size, from scratch on the synthetic recall tasks of its scale."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lolm.accounting.count import account_run
from lolm.config import RecallConfig, RunConfig, load_params, scale_of, to_mapping
from lolm.data.synthetic import SyntheticSampler, SyntheticTask, build_task
from lolm.evaluation.recall import recall_evaluation
from lolm.ops.backends import choose_backend
from lolm.records import fingerprint_of, write_json
from lolm.training.loop import DivergenceError
from lolm.training.scratch import remove
from lolm.training.trial import run_trial
from pipeline.code import code_hash
from pipeline.stage import Paths, arguments, flat_scalars, main, resolved, training_device

WARM_UP = 0.1  # share of the steps


def recall() -> None:
    args = arguments(__doc__, run=True)
    paths, params = Paths(args.scale), load_params()
    config = scale_of(params, args.scale).recall
    text_run = resolved(params, args.scale, args.arm, args.seed)
    run = task_run(text_run, config)
    torch.set_num_threads(run.training.threads or torch.get_num_threads())
    device = training_device()
    kernels = choose_backend(device, run.training.kernels)
    fingerprint = fingerprint_of(to_mapping(run), to_mapping(config), code_hash("pipeline.recall"), device, kernels)
    record = {
        "arm": run.arm,
        "seed": run.seed,
        "name": run.name,
        "fingerprint": fingerprint,
        "model": fingerprint_of(to_mapping(text_run.architecture), to_mapping(text_run.size)),
        "state_elements": account_run(run).state_elements,
        "tasks": {
            name: train_on(build_task(name, config), run, config, Path(".scratch") / fingerprint_of(fingerprint, name), device)
            for name in config.tasks
        },
    }
    write_json(paths.metrics(run.arm, run.seed, "recall"), flat_scalars(record))
    write_json(paths.recall(run.arm, run.seed), record)


def task_run(run: RunConfig, config: RecallConfig) -> RunConfig:
    """The run with the tasks' vocabulary, lengths, steps and learning rate, and a cosine schedule; all else is as for text."""
    training = replace(
        run.training,
        steps=config.steps,
        seq_len=config.seq_len,
        batch_size=config.batch_size,
        accumulation=1,
        schedule="cosine",
        warmup_steps=int(WARM_UP * config.steps),
        cooldowns=(),
        snapshots=(),
        eval_every=config.steps,
        checkpoint_every=min(run.training.checkpoint_every, config.steps),
    )
    size = replace(run.size, learning_rate=config.learning_rate)
    return replace(run, vocab_size=config.vocab_size, training=training, size=size)


def train_on(task: SyntheticTask, run: RunConfig, config: RecallConfig, scratch: Path, device: str) -> dict[str, Any]:
    """Accuracy and nats at the positions a task asks, after training on it, beside what guessing reaches; None if it diverged."""
    sampler = SyntheticSampler(task, run.training.batch_size, run.seed)
    try:
        last = run_trial(run, sampler, recall_evaluation(task, config.eval_sequences, run.seed), scratch, device)
    except DivergenceError as error:
        print(f"recall task {task.name}, recall.learning_rate {config.learning_rate:g}: {error}", file=sys.stderr)
        remove(scratch)
        last = {}
    return {
        "accuracy": last.get("recall/accuracy"),
        "nats": last.get("recall/nats"),
        "chance": task.chance,
        "order_zero": task.order_zero,
        "steps": run.training.steps,
        "seq_len": task.seq_len,
        "pairs": getattr(task, "pairs", None),
    }


if __name__ == "__main__":
    main(recall)
