"""The dependency laboratory: every intervention and what the fusion adds up, at every kept set of weights of a run, on the test
split; what a refitted readout wins back, and the gate by class of token, at the final ones."""

from __future__ import annotations

from typing import Any

from lolm.config import AblationConfig
from lolm.corpus.tokenizer import Tokenizer
from lolm.data.batches import EvaluationSet
from lolm.interventions import EMPTY, Context, Intervention, force_gate, full_set, fusion_of, measure, replace_branch
from lolm.laboratory.contributions import contributions
from lolm.laboratory.inversion import REMOVALS, inversion
from lolm.laboratory.readouts import Effort, refit_readouts
from lolm.laboratory.scoring import score_interventions
from lolm.laboratory.token_classes import gate_by_class
from lolm.models.language_model import LanguageModel
from lolm.records import write_json
from pipeline.opening import Opened, open_run
from pipeline.stage import arguments, main

MAIN = ("none", "memory_mean", "regime_mean", "skip_last_blocks=1")  # in the metrics file, beside the removals of a branch


def ablate() -> None:
    opened = open_run(arguments(__doc__, run=True))
    config, run, paths = opened.config.ablation, opened.run, opened.paths
    test = opened.held_out("test", config.tokens)
    conditions: list[dict[str, Any]] = []
    shares: list[dict[str, Any]] = []
    for step in opened.trained.steps:
        model = opened.trained.at(step)
        context = _context(opened, model)
        conditions += [{"step": step} | row for row in _scores(opened, model, context, test)]
        if fusion_of(model) is not None:
            shares.append({"step": step} | contributions(model, test, config.batch_size))
    at_the_end = {"step": run.training.steps}  # where the loop has left model and context
    references = opened.references({"test": test})["test"]
    record = {
        **opened.header,
        "split": "test",
        "tokens": test.n_tokens,
        "bytes": test.n_bytes,
        "references": references,
        "conditions": conditions,
        "contributions": shares,
        "readouts": [at_the_end | row for row in _refits(opened, model, context)],
        "token_classes": [at_the_end | row for row in _token_classes(opened, model, context, test)],
    }
    write_json(paths.metrics(run.arm, run.seed, "ablate"), _metrics(record, run.training.steps))
    write_json(paths.ablation(run.arm, run.seed), record)


def _context(opened: Opened, model: LanguageModel) -> Context:
    """Statistics of validation text, so that what a removed branch is replaced by is known without the text it is scored on."""
    config = opened.config.ablation
    if fusion_of(model) is None:
        return EMPTY
    batches = (x_BT for x_BT, _ in opened.held_out("validation", config.tokens).batches(config.batch_size))
    return Context(measure(model, batches), seed=opened.run.seed)


def _scores(opened: Opened, model: LanguageModel, context: Context, test: EvaluationSet) -> list[dict[str, Any]]:
    config: AblationConfig = opened.config.ablation
    interventions = full_set(
        model, context, config.gate_values, config.dimension_shares, config.dimension_draws, config.split_draws
    )
    calibration = opened.held_out("validation", config.calibration_tokens)
    return score_interventions(model, interventions, test, config.batch_size, context, calibration)


def _refits(opened: Opened, model: LanguageModel, context: Context) -> list[dict[str, Any]]:
    config, rate, fusion = opened.config.ablation, opened.run.size.learning_rate, fusion_of(model)
    if fusion is None or fusion.latent is None:
        return []
    effort = Effort(config.refit_steps, config.refit_rate, config.fine_tune_steps, config.fine_tune_rate * rate)
    interventions = [Intervention("none"), replace_branch("surface", "mean"), replace_branch("latent", "mean")]
    if "gate" in model.components():
        interventions += [force_gate(0.0), force_gate(1.0)]
    test = opened.held_out("test", min(config.tokens, config.refit_tokens))
    train = opened.training_batches(config.refit_tokens)
    return refit_readouts(model, interventions, train, test, config.batch_size, effort, context)


def _token_classes(opened: Opened, model: LanguageModel, context: Context, test: EvaluationSet) -> list[dict[str, Any]]:
    if fusion_of(model) is None:
        return []
    return gate_by_class(model, test, Tokenizer.load(opened.paths.tokenizer), opened.config.ablation.batch_size, context)


def _metrics(record: dict[str, Any], step: int) -> dict[str, Any]:
    """What `dvc metrics diff` is read for: final losses of the main interventions, and the inversion statistic in every way."""
    removals = {_label(*removal) for pair in REMOVALS.values() for removal in pair}
    final = {_label(row["intervention"], row["value"]): row["nats"] for row in record["conditions"] if row["step"] == step}
    kept = {name: nats for name, nats in final.items() if name in removals or name in MAIN}
    found = {"nats": kept, "inversion": inversion(record["conditions"], step), "uniform": record["references"]["uniform"]}
    return {name: value for name, value in found.items() if value != {}}


def _label(intervention: str, value: float | None) -> str:
    return intervention if value is None else f"{intervention}={value:g}"


if __name__ == "__main__":
    main(ablate)
