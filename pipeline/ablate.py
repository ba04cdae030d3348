"""Force the gate, remove streams or skip blocks, at every kept set of weights of a run, on the test split."""

from __future__ import annotations

from lolm.evaluation.ablate import score_interventions
from lolm.interventions import standard_set, stream_means
from lolm.records import write_json
from pipeline.opening import open_run
from pipeline.stage import arguments, main


def ablate() -> None:
    opened = open_run(arguments(__doc__, run=True))
    config, run, paths = opened.config.ablation, opened.run, opened.paths
    held_out = opened.held_out("test", config.tokens)
    conditions = []
    for step in opened.trained.steps:
        model = opened.trained.at(step)
        means = stream_means(model, (x for x, _ in held_out.batches(config.batch_size)))
        interventions = standard_set(model, config.gate_values, means)
        conditions += [{"step": step} | row for row in score_interventions(model, interventions, held_out, config.batch_size)]
    references = opened.references({"test": held_out})["test"]
    record = {
        **opened.header,
        "split": "test",
        "tokens": held_out.n_tokens,
        "bytes": held_out.n_bytes,
        "references": references,
        "conditions": conditions,
    }
    final = {_key(row): row["nats"] for row in conditions if row["step"] == run.training.steps}
    write_json(paths.metrics(run.arm, run.seed, "ablate"), {"nats": final, "uniform": references["uniform"]})
    write_json(paths.ablation(run.arm, run.seed), record)


def _key(row: dict) -> str:
    return row["intervention"] if row["value"] is None else f"{row['intervention']}={row['value']:g}"


if __name__ == "__main__":
    main(ablate)
