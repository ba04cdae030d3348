"""The few numbers of a run that `dvc metrics show` prints, from its records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from lolm.analysis import layers
from lolm.analysis.dependency import RemovalMethod, latent_share, statistic
from lolm.analysis.recall import mean_accuracy
from lolm.config import AnalysisConfig
from lolm.records import Layout, RecordError, RunKey, read_json, write_json
from lolm.records.results import RunRecord, load_run

ReadRun = Callable[[Layout, RunKey], RunRecord | None]


def write_headline(layout: Layout, key: RunKey, analysis: AnalysisConfig, read_run: ReadRun = load_run) -> None:
    """Write ``metrics/<arm>-<seed>.json``, if it changes, from what the run's stages have left so far; take it away where the run
    left no record.

    Losses are of the test split once it was scored, of the validation split before. ``inversion`` is S by the declared statistic,
    nats a token, at the final weights, ``latent_share`` the latent branch's share of the gated signal beside it;
    ``type_statistic`` is S_type; ``recall`` the mean accuracy over the recall tasks, left out where one of them diverged.
    """
    run, path = read_run(layout, key), layout.metrics(*key)
    if run is None:
        path.unlink(missing_ok=True)
        return
    summary, evaluation = run.summary, run.evaluation
    values: dict[str, float | int | None] = {"parameters": summary.parameters, "seconds": round(summary.seconds, 1)}
    if evaluation is None:
        values["validation_nats"] = summary.val_nats
    else:
        score = evaluation.test
        values |= {"test_nats": score.nats, "bits_per_byte": score.bits_per_byte, "accuracy": score.accuracy}
        values["gate_mean"] = run.gate_mean
    values["inversion"] = statistic(run, RemovalMethod(analysis.inversion_statistic))
    values["latent_share"] = latent_share(run)
    values["type_statistic"] = layers.statistic(run.by_layer, analysis.type_statistic)
    values["recall"] = mean_accuracy(run)
    kept = {name: value if isinstance(value, int) else round(value, 4) for name, value in values.items() if value is not None}
    with suppress(RecordError):  # none yet, or a broken one
        if read_json(path) == kept:
            return
    write_json(path, kept)
