"""Score final weights on the validation and test splits beside n-gram references: by position, in longer windows, at each end of
a schedule; describe streams and the texts a model writes. Every run of the study that is not scored, or one of them."""

from __future__ import annotations

from typing import Any

from lolm.corpus.tokenizer import Tokenizer
from lolm.data.batches import EvaluationSet
from lolm.evaluation.held_out import score_model
from lolm.evaluation.lengths import score_lengths
from lolm.evaluation.position import score_positions
from lolm.evaluation.samples import sample_texts
from lolm.evaluation.streams import describe_streams
from lolm.evaluation.training_stream import BATCHES, score_training_stream
from lolm.records import RunKey, names, read_series, write
from lolm.records.schema import Evaluation, ScheduleEnd
from pipeline.context import RunContext, open_run
from pipeline.identity import inputs_of, measured_from, text_hashes, weights_hash
from pipeline.runs import per_run
from pipeline.stage import Stage, main


def evaluate(stage: Stage, key: RunKey) -> None:
    context = open_run(stage, key, inputs(stage, key))
    config, run, trained, layout = context.preset.evaluation, context.run, context.trained, context.layout
    sets = {split: context.held_out(split, config.tokens) for split in ("validation", "test")}
    test, seq_len, batch_size = sets["test"], run.training.seq_len, config.batch_size
    ends = _schedule_ends(context, sets, batch_size)
    references = context.references(sets)
    stream = tuple(score_training_stream(trained.at(step), context.first_batches(BATCHES), step) for step in trained.steps)
    model = trained.at(run.training.steps)
    streams = describe_streams(model, trained.heads, run.architecture.objectives, test, batch_size, run.seed)
    record = Evaluation(
        **context.identity,
        step=run.training.steps,
        split="test",
        tokens=test.n_tokens,
        bytes=test.n_bytes,
        validation=ends[-1].validation,
        test=ends[-1].test,
        references=references["test"],
        references_validation=references["validation"],
        objectives=streams.objectives,
        cpc=streams.cpc,
        gate=streams.gate,
        regime=streams.regime,
        positions=score_positions(model, test, batch_size),
        lengths=score_lengths(model, test.stream, config.tokens, seq_len, config.lengths, batch_size),
        samples=sample_texts(
            model,
            Tokenizer.load(layout.tokenizer),
            test.stream,
            config.samples,
            config.prompt_tokens,
            config.sample_tokens,
            seq_len,
            run.seed,
        ),
        schedule_ends=tuple(ends),
        training_stream=stream,
    )
    write(layout.evaluation(*key), record)


def _schedule_ends(context: RunContext, sets: dict[str, EvaluationSet], batch_size: int) -> list[ScheduleEnd]:
    """Costs and scores where a learning-rate schedule ended, by ascending step; the run's own end is the last."""
    rows = {row["step"]: row for row in read_series(context.series) if names.ANNEALED_NATS in row}
    ends = []
    for step in context.trained.schedule_ends:
        model = context.trained.at_end(step)
        scores: dict[str, Any] = {name: score_model(model, held_out, batch_size)[0] for name, held_out in sets.items()}
        row = rows[step]
        ends.append(ScheduleEnd(step, int(row["tokens"]), float(row["flops"]), float(row["seconds"]), **scores))
    return ends


def inputs(stage: Stage, key: RunKey) -> str:
    return inputs_of("evaluate", stage.preset.evaluation, weights_hash(stage.layout, key), *text_hashes(stage.layout))


def why(stage: Stage, key: RunKey) -> str | None:
    layout = stage.layout
    return measured_from(layout, key, layout.evaluation(*key), Evaluation, inputs(stage, key))


if __name__ == "__main__":
    main(lambda: per_run("evaluate", __doc__, evaluate, why))
