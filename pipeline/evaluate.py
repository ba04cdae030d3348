"""Score final weights on the test split beside n-gram references, by position and by piece of text, and on a subset of each split
at each end of a schedule, in longer windows; describe streams and the texts a model writes. Every run of the study that is not
scored, or one of them."""

from __future__ import annotations

import numpy as np

from lolm.corpus.tokenizer import tokenizer_of
from lolm.data.batches import EvaluationSet
from lolm.evaluation.documents import sums_by_piece
from lolm.evaluation.held_out import score_model, score_of, set_losses
from lolm.evaluation.lengths import score_lengths
from lolm.evaluation.position import describe_positions
from lolm.evaluation.samples import sample_texts
from lolm.evaluation.streams import describe_streams
from lolm.evaluation.training_stream import BATCHES, score_training_stream
from lolm.records import RunKey, names, read_series, write
from lolm.records.schema import Evaluation, ScheduleEnd, TextLosses
from pipeline.context import RunContext, open_run
from pipeline.identity import inputs_of, measured_from, text_hashes, weights_hash
from pipeline.runs import per_run
from pipeline.stage import Stage, main


def evaluate(stage: Stage, key: RunKey) -> None:
    context = open_run(stage, key, inputs(stage, key))
    config, run, trained, layout = context.preset.evaluation, context.run, context.trained, context.layout
    part = config.subset_tokens or config.tokens
    validation, subset, whole = (
        context.held_out(split, tokens) for split, tokens in (("validation", part), ("test", part), ("test", config.tokens))
    )
    seq_len, batch_size = run.training.seq_len, config.batch_size
    ends, losses = _schedule_ends(context, validation, subset, batch_size)
    references = context.references({"validation": validation, "test": whole})
    stream = tuple(score_training_stream(trained.at(step), context.first_batches(BATCHES), step) for step in trained.steps)
    model = trained.at(run.training.steps)
    streams = describe_streams(model, trained.heads, run.architecture.objectives, subset, batch_size, run.seed)
    nats_NT, correct_NT = set_losses(model, whole, batch_size)
    record = Evaluation(
        **context.identity,
        step=run.training.steps,
        split="test",
        tokens=whole.n_tokens,
        bytes=whole.n_bytes,
        validation=ends[-1].validation,
        test=score_of(nats_NT, correct_NT, whole.n_bytes),
        references=references["test"],
        references_validation=references["validation"],
        objectives=streams.objectives,
        cpc=streams.cpc,
        gate=streams.gate,
        regime=streams.regime,
        positions=describe_positions(nats_NT, correct_NT, whole.target_bytes()),
        lengths=score_lengths(model, whole.stream, part, seq_len, config.lengths, batch_size),
        samples=sample_texts(
            model,
            tokenizer_of(layout, run.vocab_size),
            whole.stream,
            config.samples,
            config.prompt_tokens,
            config.sample_tokens,
            seq_len,
            run.seed,
        ),
        schedule_ends=tuple(ends),
        subset_tokens=subset.n_tokens,
        training_stream=stream,
    )
    write(layout.text_losses(*key), TextLosses(**context.identity, **sums_by_piece(whole, nats_NT, subset, losses)))
    write(layout.evaluation(*key), record)  # last: with it the run counts as evaluated


def _schedule_ends(
    context: RunContext, validation: EvaluationSet, test: EvaluationSet, batch_size: int
) -> tuple[list[ScheduleEnd], dict[int, np.ndarray]]:
    """Where a learning-rate schedule ended, by ascending step, the run's own end last: costs and scores; and by step the loss of
    every test target, nats (N, T)."""
    rows = {row["step"]: row for row in read_series(context.series) if names.ANNEALED_NATS in row}
    ends, losses = [], {}
    for step in context.trained.schedule_ends:
        model, row = context.trained.at_end(step), rows[step]
        losses[step], correct_NT = set_losses(model, test, batch_size)
        scores = {
            "validation": score_model(model, validation, batch_size)[0],
            "test": score_of(losses[step], correct_NT, test.n_bytes),
        }
        ends.append(ScheduleEnd(step, int(row["tokens"]), float(row["flops"]), float(row["seconds"]), **scores))
    return ends, losses


def inputs(stage: Stage, key: RunKey) -> str:
    return inputs_of("evaluate", stage.preset.evaluation, weights_hash(stage.layout, key), *text_hashes(stage.layout))


def why(stage: Stage, key: RunKey) -> str | None:
    layout = stage.layout
    return measured_from(layout, key, layout.evaluation(*key), Evaluation, inputs(stage, key))


if __name__ == "__main__":
    main(lambda: per_run("evaluate", __doc__, evaluate, why, inputs))
