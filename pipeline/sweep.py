"""Choose each arm's peak learning rate by the validation loss of short runs, each with a whole schedule of its own. Every arm of
the study that has a sweep of its own, or whose sweep another arm takes its rate from, or one of them."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lolm.config import ConfigError, RunConfig, SweepConfig, tuned_arm
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.stream import TokenStream
from lolm.evaluation.held_out import validation_metrics
from lolm.records import fingerprint_of, from_record, names, read, read_mapping, write, write_json
from lolm.records.schema import Rate, Sweep, Trial
from lolm.training.progress import DivergenceError
from lolm.training.scratch import SCRATCH, remove
from lolm.training.sweep import choose, search
from lolm.training.trial import run_trial
from pipeline.configured import untuned
from pipeline.environment import FORCE, said
from pipeline.identity import data_of, inputs_of
from pipeline.runs import per_arm
from pipeline.stage import Stage, main, training_device


def sweep(stage: Stage, arm: str) -> None:
    run, config = untuned(stage, arm), stage.preset.sweep
    notes = SCRATCH / f"sweep-{stage.scale}-{arm}.json"
    if config.factors:
        record = _swept(stage, run, config, notes)
    else:
        rate = run.size.learning_rate
        record = Sweep(arm, rate, inside=None, steps=0, seeds=(), trials=(), rates=(), inputs=inputs(stage, arm))
    write(stage.layout.sweep(arm), record)
    notes.unlink(missing_ok=True)


def _swept(stage: Stage, run: RunConfig, config: SweepConfig, notes: Path) -> Sweep:
    """Make the trials; those that are done stand in ``notes``, so that a killed sweep makes none twice."""
    training = replace(
        run.training,
        steps=config.steps,
        schedule_steps=None,
        warmup_steps=min(run.training.warmup_steps, max(1, config.steps // 10)),
        cooldowns=(),
        snapshots=(),
        eval_every=config.steps,
        checkpoint_every=min(run.training.checkpoint_every, config.steps),
    )
    if training.threads:
        torch.set_num_threads(training.threads)
    device, base = training_device(), inputs(stage, run.arm)
    stream = TokenStream.open(stage.layout.shards, "train")
    held_out = EvaluationSet(TokenStream.open(stage.layout.shards, "validation"), training.eval_tokens, training.seq_len)
    for text in (stream, held_out.stream):
        text.verify()
    evaluate = partial(validation_metrics, held_out=held_out, batch_size=training.eval_batch_size)
    noted: dict[str, Any] = read_mapping(notes, trials=list) if notes.exists() else {}
    trials = (
        [from_record(Trial, trial, notes) for trial in noted["trials"]]
        if noted.get("base") == base
        else _recorded(stage, run.arm, base)
    )

    def trial(rate: float, seed: int) -> float:
        for done in trials:
            if (done.learning_rate, done.seed) == (rate, seed):
                return math.inf if done.nats is None else done.nats
        one = replace(run, seed=seed, training=training, size=replace(run.size, learning_rate=rate))
        sampler = BatchSampler(stream, training.batch_size, training.seq_len, seed)
        scratch = SCRATCH / fingerprint_of(base, rate, seed)
        try:
            nats = run_trial(one, sampler, evaluate, scratch, device)[names.VAL_NATS]
        except DivergenceError as error:
            print(f"learning rate {rate:g}: {error}", file=sys.stderr)
            remove(scratch)
            nats = None
        trials.append(Trial(rate, seed, nats))
        write_json(notes, {"base": base, "trials": [vars(done) for done in trials]})
        return math.inf if nats is None else nats

    def loss_of(rate: float) -> float:
        losses = [trial(rate, seed) for seed in config.seeds]
        print(f"{run.arm} · {run.scale}: learning rate {rate:.3g}: {math.fsum(losses) / len(losses):.4f} nats", file=sys.stderr)
        return math.fsum(losses) / len(losses)

    try:
        found = search([run.size.learning_rate * factor for factor in config.factors], loss_of, config.extensions, config.tie)
    except ValueError as error:
        raise ConfigError(f"scales.{run.scale}.sizes.{run.arm}.learning_rate: {error}; lower it") from None
    return Sweep(
        arm=run.arm,
        chosen=found.chosen,
        inside=found.inside,
        steps=config.steps,
        seeds=tuple(config.seeds),
        trials=tuple(trials),
        rates=tuple(Rate(rate, None if math.isinf(loss) else loss) for rate, loss in found.losses.items()),
        inputs=base,
    )


def _recorded(stage: Stage, arm: str, base: str) -> list[Trial]:
    """The trials of the arm's record where they are those of now, so that another ``tie`` is judged anew without training; none
    where all is to be made again."""
    path = stage.layout.sweep(arm)
    record = read(path, Sweep) if path.exists() and not said(FORCE) else None
    return list(record.trials) if record is not None and record.inputs == base else []


def inputs(stage: Stage, arm: str) -> str:
    """Of the trials; what is chosen among them is not part of it."""
    data = data_of(stage.layout)
    return inputs_of("sweep", [untuned(stage, arm), replace(stage.preset.sweep, tie=0.0)], data.train, data.validation)


def why(stage: Stage, arm: str) -> str | None:
    path = stage.layout.sweep(arm)
    if not path.exists():
        return "no record"
    record = read(path, Sweep)
    if record.inputs != inputs(stage, arm):
        return "other parameters, data or code"
    losses = {rate.learning_rate: rate.nats for rate in record.rates if rate.nats is not None}
    return None if not losses or choose(losses, stage.preset.sweep.tie) == record.chosen else "another tie"


def arms(stage: Stage) -> list[str]:
    """Those whose sweep chooses a rate for an arm of the study."""
    return list(dict.fromkeys(tuned_arm(stage.params, stage.scale, arm) for arm in stage.study.arms))


if __name__ == "__main__":
    main(lambda: per_arm("sweep", __doc__, sweep, why, inputs, arms))
