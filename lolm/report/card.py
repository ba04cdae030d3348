"""The card of an exported model: what it is, what it was trained on, how well it predicts, what was found, what it is not for."""

from __future__ import annotations

import math

import numpy as np

from lolm.analysis.uncertainty import TextSample
from lolm.claims.ledger import decided_with, read_ledger
from lolm.claims.numbers import show_interval, show_level
from lolm.config import AnalysisConfig
from lolm.records import Layout, names, read_mapping
from lolm.records.results import RunRecord
from lolm.records.schema import Score
from lolm.report.render import render, si

_COUNT = {"documents": int, "bytes": int}
LEAST_UNITS = 10  # of text; the spread of draws from fewer says little of how far other text would move a loss
CORPUS = {  # of the record, as far as a card reads it
    "splits": {"train": _COUNT},
    "sources": {"*": {"train_documents?": int}},
    "licences": [{"licence": str, "documents": int}],
}


def model_card(
    run: RunRecord,
    layout: Layout,
    native: str,
    differs: str,
    analysis: AnalysisConfig,
    step: int | None = None,
    annealed: bool = False,
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads, all of it from the run's records.

    Args:
        native: class of the ``transformers`` library that computes the model; empty where it is this project's own.
        differs: where none does, what the model has that none has.
        analysis: confidence, and how text is resampled for the interval of the test loss.
        step, annealed: whose weights, as in :func:`lolm.export.export`.
    """
    config = run.header.run
    training = config.training
    path = layout.corpus_record
    corpus = read_mapping(path, **CORPUS) if path.exists() else None
    tokens = (step or training.steps) * training.accumulation * training.batch_size * training.seq_len
    return render(
        "card.md",
        run=run,
        config=config,
        native=native,
        differs=differs,
        tokens=tokens,
        flops=run.summary.flops if step is None else tokens * run.header.flops_per_token.training,
        step=step,
        annealed=annealed,
        scores=_scores(run, step, annealed),
        corpus=corpus,
        interval=None if step else _over_text(run, analysis),
        level=show_level(analysis.confidence),
        claims=decided_with(run, read_ledger(ledger) if (ledger := layout.reports / "claims.json").exists() else []),
        si=si,
    )


def _scores(run: RunRecord, step: int | None, annealed: bool) -> dict[str, Score]:
    """What was measured of these weights, by the text."""
    if step is None:
        found = run.evaluation
        return {f"test, {found.tokens:,} tokens": found.test, "validation": found.validation} if found else {}
    ends = run.evaluation.schedule_ends if annealed and run.evaluation is not None else ()
    keys = [names.annealed(key) if annealed else key for key in (names.VAL_NATS, names.VAL_BITS_PER_BYTE, names.VAL_ACCURACY)]
    scores = [("test, the part scored where schedules end", end.test) for end in ends if end.step == step]
    rows = [row for row in run.rows if row["step"] == step and keys[0] in row]
    return dict(scores + [("validation, the part scored in training", Score(*(row[key] for key in keys))) for row in rows])


def _over_text(run: RunRecord, analysis: AnalysisConfig) -> str | None:
    """Interval of the test loss over passages of the text that was scored; None where losses by piece were not kept, or the text
    is worth fewer than LEAST_UNITS of them."""
    sample = TextSample.of([run], analysis)
    if sample is None or sample.units < LEAST_UNITS:
        return None
    drawn_D, tail = sample.final(run), 50 * (1 - analysis.confidence)
    wider = math.sqrt(sample.units / (sample.units - 1))  # a bootstrap's variance is that of the sample, not of the source
    low, high = drawn_D.mean() + wider * (np.percentile(drawn_D, (tail, 100 - tail)) - drawn_D.mean())
    return f"{show_interval(float(low), float(high), 'nats')}, over {sample.unit} of the text"
