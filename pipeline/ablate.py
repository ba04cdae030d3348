"""Force the gate, remove streams or skip blocks, at every kept set of weights of a run, on the test split."""

from __future__ import annotations

import torch

from lolm.config import load_params, scale_of
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.shards import TokenStream
from lolm.evaluation.ablate import score_interventions
from lolm.evaluation.ngram import reference_losses
from lolm.interventions import standard_set, stream_means
from lolm.records import write_json
from lolm.training.checkpoint import load_run
from pipeline.stage import Paths, arguments, main


def ablate() -> None:
    args = arguments(__doc__, run=True)
    paths = Paths(args.scale)
    config = scale_of(load_params(), args.scale).ablation
    trained = load_run(paths.run(args.arm, args.seed))
    run, training = trained.run, trained.run.training
    torch.set_num_threads(training.threads or torch.get_num_threads())
    trained.model.to("cuda" if torch.cuda.is_available() else "cpu")
    held_out = EvaluationSet(TokenStream.open(paths.shards, "test"), config.tokens, training.seq_len)
    conditions = []
    for step in trained.steps:
        model = trained.at(step)
        means = stream_means(model, (x for x, _ in held_out.batches(config.batch_size)))
        interventions = standard_set(model, config.gate_values, means)
        conditions += [{"step": step} | row for row in score_interventions(model, interventions, held_out, config.batch_size)]
    sampler = BatchSampler(TokenStream.open(paths.shards, "train"), training.batch_size, training.seq_len, run.seed)
    references = reference_losses(sampler, training.steps * training.accumulation, {"test": held_out})["test"]
    record = {
        "arm": run.arm,
        "seed": run.seed,
        "name": run.name,
        "fingerprint": trained.header["fingerprint"],
        "split": "test",
        "tokens": held_out.n_tokens,
        "bytes": held_out.n_bytes,
        "references": references,
        "conditions": conditions,
    }
    final = {_key(row): row["nats"] for row in conditions if row["step"] == training.steps}
    write_json(paths.metrics(run.arm, run.seed, "ablate"), {"nats": final, "uniform": references["uniform"]})
    write_json(paths.ablation(run.arm, run.seed), record)


def _key(row: dict) -> str:
    return row["intervention"] if row["value"] is None else f"{row['intervention']}={row['value']:g}"


if __name__ == "__main__":
    main(ablate)
