"""Score a run's final weights on the validation and test splits, beside n-gram references, and describe its streams."""

from __future__ import annotations

import dataclasses

import torch

from lolm.config import load_params, scale_of
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.shards import TokenStream
from lolm.evaluation.held_out import score_model
from lolm.evaluation.ngram import reference_losses
from lolm.evaluation.streams import describe_streams
from lolm.records import write_json
from lolm.training.checkpoint import load_run
from pipeline.stage import Paths, arguments, flat_scalars, main


def evaluate() -> None:
    args = arguments(__doc__, run=True)
    paths = Paths(args.scale)
    config = scale_of(load_params(), args.scale).evaluation
    trained = load_run(paths.run(args.arm, args.seed))
    run, training = trained.run, trained.run.training
    torch.set_num_threads(training.threads or torch.get_num_threads())
    model = trained.at(training.steps).to("cuda" if torch.cuda.is_available() else "cpu")

    def held_out_set(split: str) -> EvaluationSet:
        return EvaluationSet(TokenStream.open(paths.shards, split), config.tokens, training.seq_len)

    sets = {split: held_out_set(split) for split in ("validation", "test")}
    sampler = BatchSampler(TokenStream.open(paths.shards, "train"), training.batch_size, training.seq_len, run.seed)
    references = reference_losses(sampler, training.steps * training.accumulation, sets)
    record = {
        "arm": run.arm,
        "seed": run.seed,
        "name": run.name,
        "fingerprint": trained.header["fingerprint"],
        "step": training.steps,
        "split": "test",
        "tokens": sets["test"].n_tokens,
        "bytes": sets["test"].n_bytes,
        **{split: dataclasses.asdict(score_model(model, held_out, config.batch_size)[0]) for split, held_out in sets.items()},
        "references": references["test"],
        "references_validation": references["validation"],
        **describe_streams(model, trained.heads, run.architecture.objectives, sets["test"], config.batch_size, run.seed),
    }
    write_json(paths.metrics(run.arm, run.seed, "evaluate"), flat_scalars(record))
    write_json(paths.evaluation(run.arm, run.seed), record)


if __name__ == "__main__":
    main(evaluate)
