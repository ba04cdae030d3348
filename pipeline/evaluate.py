"""Score a run's final weights on the validation and test splits beside n-gram references: by position, in longer windows, at each
end of a schedule; describe its streams and the texts it writes."""

from __future__ import annotations

import dataclasses

from lolm.corpus.tokenizer import Tokenizer
from lolm.data.batches import EvaluationSet
from lolm.evaluation.held_out import score_model
from lolm.evaluation.lengths import score_lengths
from lolm.evaluation.position import score_positions
from lolm.evaluation.samples import sample_texts
from lolm.evaluation.streams import describe_streams
from lolm.records import AXES, read_series, write_json
from lolm.training.checkpoint import TrainedRun
from pipeline.opening import open_run
from pipeline.stage import arguments, flat_scalars, main


def evaluate() -> None:
    opened = open_run(arguments(__doc__, run=True))
    config, run, trained, paths = opened.config.evaluation, opened.run, opened.trained, opened.paths
    sets = {split: opened.held_out(split, config.tokens) for split in ("validation", "test")}
    test, seq_len, batch_size = sets["test"], run.training.seq_len, config.batch_size
    ends = _schedule_ends(trained, sets, batch_size)
    references = opened.references(sets)
    tokenizer = Tokenizer.load(paths.tokenizer)
    model = trained.at(run.training.steps)
    record = {
        **opened.header,
        "step": run.training.steps,
        "split": "test",
        "tokens": test.n_tokens,
        "bytes": test.n_bytes,
        **{split: ends[-1][split] for split in sets},
        "references": references["test"],
        "references_validation": references["validation"],
        **describe_streams(model, trained.heads, run.architecture.objectives, test, batch_size, run.seed),
        "positions": score_positions(model, test, batch_size),
        "lengths": score_lengths(model, test.stream, config.tokens, seq_len, config.lengths, batch_size),
        "samples": sample_texts(
            model, tokenizer, test.stream, config.samples, config.prompt_tokens, config.sample_tokens, seq_len, run.seed
        ),
        "schedule_ends": ends,
    }
    write_json(paths.metrics(run.arm, run.seed, "evaluate"), flat_scalars(record))
    write_json(paths.evaluation(run.arm, run.seed), record)


def _schedule_ends(trained: TrainedRun, sets: dict[str, EvaluationSet], batch_size: int) -> list[dict]:
    """Costs and scores where a learning-rate schedule ended, by ascending step; the run's own end is the last."""
    ends = {row["step"]: row for row in read_series(trained.folder / "metrics.jsonl") if "annealed/nats" in row}
    rows = []
    for step in trained.schedule_ends:
        model = trained.at_end(step)
        scores = {name: dataclasses.asdict(score_model(model, held_out, batch_size)[0]) for name, held_out in sets.items()}
        rows.append({axis: ends[step][axis] for axis in AXES} | scores)
    return rows


if __name__ == "__main__":
    main(evaluate)
