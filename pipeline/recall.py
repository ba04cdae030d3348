"""Train arms, at their own size, from scratch on the synthetic recall tasks of the scale. Every run of the study's recall arms
that is not made, or one of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from lolm.accounting.count import account_run
from lolm.config import RecallConfig, RunConfig
from lolm.data.synthetic import SyntheticSampler, SyntheticTask, build_task
from lolm.evaluation.recall import recall_batches, recall_evaluation
from lolm.laboratory.layers import recall_by_type
from lolm.models.language_model import LanguageModel
from lolm.ops.backends import choose_backend
from lolm.records import RunKey, fingerprint_of, names, read, write
from lolm.records.results import model_of
from lolm.records.schema import Recall, RecallTask, TypeRecall
from lolm.training.progress import DivergenceError
from lolm.training.scratch import SCRATCH, remove
from lolm.training.trial import run_trial
from pipeline.code import code_of
from pipeline.configured import run_of
from pipeline.identity import inputs_of
from pipeline.runs import per_run
from pipeline.stage import Stage, main, training_device

WARM_UP = 0.1  # share of the steps


def recall(stage: Stage, key: RunKey) -> None:
    config, text_run = stage.preset.recall, run_of(stage, key)
    run = task_run(text_run, config)
    torch.set_num_threads(run.training.threads or torch.get_num_threads())
    device = training_device()
    kernels = choose_backend(device, run.training.kernels)
    fingerprint = fingerprint_of(run, config, code_of("recall"), device, kernels)
    tasks: dict[str, RecallTask] = {
        name: train_on(build_task(name, config), run, config, SCRATCH / fingerprint_of(fingerprint, name), device)
        for name in config.tasks
    }
    state = account_run(run).state_elements
    record = Recall(key.arm, key.seed, run.name, fingerprint, model_of(text_run), state, tasks, inputs=inputs(stage, key))
    write(stage.layout.recall(*key), record)


def task_run(run: RunConfig, config: RecallConfig) -> RunConfig:
    """The run with the tasks' vocabulary, lengths, steps and learning rate, and a cosine schedule; all else is as for text."""
    training = replace(
        run.training,
        steps=config.steps,
        seq_len=config.seq_len,
        batch_size=config.batch_size,
        accumulation=1,
        devices=1,
        nodes=1,
        schedule="cosine",
        schedule_steps=None,
        warmup_steps=int(WARM_UP * config.steps),
        cooldowns=(),
        snapshots=(),
        eval_every=config.steps,
        checkpoint_every=min(run.training.checkpoint_every, config.steps),
    )
    size = replace(run.size, learning_rate=config.learning_rate)
    return replace(run, vocab_size=config.vocab_size, training=training, size=size)


def train_on(task: SyntheticTask, run: RunConfig, config: RecallConfig, scratch: Path, device: str) -> RecallTask:
    """Accuracy and nats at the positions a task asks, after training on it, beside what guessing reaches."""
    sampler = SyntheticSampler(task, run.training.batch_size, run.seed)
    last: dict[str, float] = {}
    score = recall_evaluation(task, config.eval_sequences, run.seed)
    held_out, others = (list(recall_batches(task, config.eval_sequences, run.seed, split)) for split in ("test", "validation"))

    def evaluate(model: LanguageModel) -> dict[str, float]:
        removed = recall_by_type(model, held_out, [x_BT for x_BT, _ in others], run.seed)
        return score(model) | {
            key: value for row in removed for key, value in zip(_keys(row.type, row.by), (row.accuracy, row.nats), strict=True)
        }

    try:
        last = run_trial(run, sampler, evaluate, scratch, device)
    except DivergenceError as error:
        print(f"recall task {task.name}, recall.learning_rate {config.learning_rate:g}: {error}", file=sys.stderr)
        remove(scratch)
    return RecallTask(
        steps=run.training.steps,
        seq_len=task.seq_len,
        pairs=getattr(task, "pairs", None),
        chance=task.chance,
        order_zero=task.order_zero,
        accuracy=last.get(names.RECALL_ACCURACY),
        nats=last.get(names.RECALL_NATS),
        diverged=not last,
        removed=tuple(
            TypeRecall(kind, by, last[accuracy], last[nats])
            for kind in names.LAYER_TYPES
            for by in names.REPLACEMENTS
            for accuracy, nats in [_keys(kind, by)]
            if accuracy in last
        ),
    )


def _keys(kind: str, by: str) -> tuple[str, str]:
    """Where the row of a trial has accuracy and nats without a type of layer."""
    return f"{names.RECALL_ACCURACY}/{kind}/{by}", f"{names.RECALL_NATS}/{kind}/{by}"


def inputs(stage: Stage, key: RunKey) -> str:
    return inputs_of("recall", [run_of(stage, key), stage.preset.recall])


def why(stage: Stage, key: RunKey) -> str | None:
    path = stage.layout.recall(*key)
    if not path.exists():
        return "no record"
    return None if read(path, Recall).inputs == inputs(stage, key) else "other parameters or code"


if __name__ == "__main__":
    main(lambda: per_run("recall", __doc__, recall, why, inputs, arms=lambda stage: stage.study.recall_arms))
