"""Choose an arm's peak learning rate by the validation loss of short runs, each with a whole schedule of its own."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch

from lolm.accounting.resolve import resolve_run
from lolm.config import ConfigError, RunConfig, SweepConfig, load_params, scale_of, to_mapping
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.stream import TokenStream
from lolm.evaluation.held_out import score_model
from lolm.models.language_model import LanguageModel
from lolm.ops.backends import choose_backend
from lolm.records import fingerprint_of, read_json, write_json
from lolm.training.loop import DivergenceError
from lolm.training.scratch import remove
from lolm.training.sweep import search
from lolm.training.trial import run_trial
from pipeline.code import code_hash
from pipeline.stage import Paths, arguments, main, training_device


def sweep() -> None:
    args = arguments(__doc__, arm=True)
    paths, params = Paths(args.scale), load_params()
    config = scale_of(params, args.scale).sweep
    run = resolve_run(params, args.scale, args.arm, config.seeds[0] if config.seeds else 0)
    notes = Path(".scratch") / f"sweep-{args.scale}-{args.arm}.json"
    record = _swept(run, config, paths, notes) if config.factors else _given(run)
    flat = {f"rate {rate['learning_rate']:.3g}": rate["nats"] for rate in record["rates"] if rate["nats"] is not None}
    write_json(paths.reports / "sweep" / f"{run.arm}.json", {"chosen": record["chosen"], **flat})
    write_json(paths.sweep(run.arm), record)
    notes.unlink(missing_ok=True)


def _given(run: RunConfig) -> dict:
    rate = run.size.learning_rate
    return {"arm": run.arm, "chosen": rate, "inside": None, "steps": 0, "seeds": [], "trials": [], "rates": []}


def _swept(run: RunConfig, config: SweepConfig, paths: Paths, notes: Path) -> dict:
    """Make the trials; those that are done stand in ``notes``, so that a killed sweep makes none twice."""
    training = replace(
        run.training,
        steps=config.steps,
        warmup_steps=min(run.training.warmup_steps, max(1, config.steps // 10)),
        cooldowns=(),
        snapshots=(),
        eval_every=config.steps,
        checkpoint_every=min(run.training.checkpoint_every, config.steps),
    )
    if training.threads:
        torch.set_num_threads(training.threads)
    device = training_device()
    stream = TokenStream.open(paths.shards, "train")
    held_out = EvaluationSet(TokenStream.open(paths.shards, "validation"), training.eval_tokens, training.seq_len)

    def evaluate(model: LanguageModel) -> dict[str, float]:
        return {"val/nats": score_model(model, held_out, training.eval_batch_size)[0].nats}

    data = {"train": stream.checksum, "validation": held_out.stream.checksum}
    kernels = choose_backend(device, training.kernels)
    base = fingerprint_of(to_mapping(replace(run, training=training)), data, code_hash("pipeline.sweep"), device, kernels)
    noted = read_json(notes) if notes.exists() else {}
    trials: list[dict] = noted["trials"] if noted.get("base") == base else []

    def trial(rate: float, seed: int) -> float:
        for done in trials:
            if (done["learning_rate"], done["seed"]) == (rate, seed):
                return math.inf if done["nats"] is None else done["nats"]
        one = replace(run, seed=seed, training=training, size=replace(run.size, learning_rate=rate))
        sampler = BatchSampler(stream, training.batch_size, training.seq_len, seed)
        scratch = Path(".scratch") / fingerprint_of(base, rate, seed)
        try:
            nats = run_trial(one, sampler, evaluate, scratch, device)["val/nats"]
        except DivergenceError as error:
            print(f"learning rate {rate:g}: {error}", file=sys.stderr)
            remove(scratch)
            nats = None
        trials.append({"learning_rate": rate, "seed": seed, "nats": nats})
        write_json(notes, {"base": base, "trials": trials})
        return math.inf if nats is None else nats

    def loss_of(rate: float) -> float:
        losses = [trial(rate, seed) for seed in config.seeds]
        print(f"{run.arm} · {run.scale}: learning rate {rate:.3g}: {math.fsum(losses) / len(losses):.4f} nats", file=sys.stderr)
        return math.fsum(losses) / len(losses)

    try:
        found = search([run.size.learning_rate * factor for factor in config.factors], loss_of, config.extensions)
    except ValueError as error:
        raise ConfigError(f"scales.{run.scale}.sizes.{run.arm}.learning_rate: {error}; lower it") from None
    rates = [{"learning_rate": rate, "nats": None if math.isinf(loss) else loss} for rate, loss in found.losses.items()]
    return {
        "arm": run.arm,
        "chosen": found.chosen,
        "inside": found.inside,
        "steps": config.steps,
        "seeds": list(config.seeds),
        "trials": trials,
        "rates": rates,
    }


if __name__ == "__main__":
    main(sweep)
