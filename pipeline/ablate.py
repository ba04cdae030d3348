"""The dependency laboratory: every intervention and what the fusion adds up, at every kept set of weights, on the test split;
what a refitted readout wins back, and the gate by class of token, at the final ones. Every run of the study that is not measured,
or one of them."""

from __future__ import annotations

from lolm.corpus.tokenizer import tokenizer_of
from lolm.data.batches import EvaluationSet
from lolm.interventions import EMPTY, Context, Intervention, force_gate, full_set, fusion_of, measure, replace_branch
from lolm.laboratory.boundaries import score_boundaries
from lolm.laboratory.contributions import contributions
from lolm.laboratory.readouts import Effort, readouts_of, refit_readouts
from lolm.laboratory.scoring import score_interventions
from lolm.laboratory.token_classes import gate_by_class
from lolm.models.language_model import LanguageModel
from lolm.records import RunKey, names, write
from lolm.records.schema import Ablation, Boundary, Condition, Contribution, Readout, TokenClass
from pipeline.context import RunContext, open_run
from pipeline.identity import inputs_of, measured_from, text_hashes, weights_hash
from pipeline.runs import per_run
from pipeline.stage import Stage, main


def ablate(stage: Stage, key: RunKey) -> None:
    write(stage.layout.ablation(*key), ablation(open_run(stage, key, inputs(stage, key))))


def ablation(context: RunContext) -> Ablation:
    """All that is measured on one run."""
    config, run = context.preset.ablation, context.run
    test = context.held_out("test", config.tokens)
    conditions: list[Condition] = []
    addends: list[Contribution] = []
    trained = context.trained
    for step in trained.schedule_ends if config.annealed else trained.steps:
        model = trained.at_end(step) if config.annealed else trained.at(step)
        statistics = _statistics(context, model)
        conditions += _scores(context, model, statistics, test, step)
        if fusion_of(model) is not None:
            addends.append(contributions(model, test, config.batch_size, step=step))
    end = run.training.steps  # where the loop has left model and statistics
    return Ablation(
        **context.identity,
        split="test",
        tokens=test.n_tokens,
        bytes=test.n_bytes,
        references=context.references({"test": test})["test"],
        conditions=tuple(conditions),
        contributions=tuple(addends),
        readouts=tuple(_refits(context, model, statistics, end)),
        token_classes=tuple(_token_classes(context, model, statistics, test, end)),
        boundaries=tuple(_boundaries(context, model, statistics)),
        annealed=config.annealed,
    )


def _statistics(context: RunContext, model: LanguageModel) -> Context:
    """Of validation text, so that what a removed branch is replaced by is known without the text it is scored on."""
    config = context.preset.ablation
    if fusion_of(model) is None:
        return EMPTY
    batches = (x_BT for x_BT, _ in context.held_out("validation", config.tokens).batches(config.batch_size))
    return Context(measure(model, batches), seed=context.run.seed)


def _scores(context: RunContext, model: LanguageModel, statistics: Context, test: EvaluationSet, step: int) -> list[Condition]:
    config = context.preset.ablation
    # What is computed through costs as much as half a forward; over training one replacement is enough.
    last = step == context.run.training.steps
    ways = names.RECOMPUTED if last else (names.MEAN,)
    by_window = [removal for both in names.REMOVALS.values() for removal in both] if last else []
    interventions = full_set(
        model, statistics, config.gate_values, config.dimension_shares, config.dimension_draws, config.split_draws, ways
    )
    calibration = context.held_out("validation", config.calibration_tokens)
    return score_interventions(
        model, interventions, test, config.batch_size, statistics, calibration, step=step, by_window=by_window
    )


def _refits(context: RunContext, model: LanguageModel, statistics: Context, step: int) -> list[Readout]:
    config, rate, fusion = context.preset.ablation, context.run.size.learning_rate, fusion_of(model)
    if fusion is None or fusion.latent is None:
        return []
    effort = Effort(
        config.refit_steps, config.refit_rate, config.fine_tune_steps, config.fine_tune_rate * rate, config.refit_checks
    )
    interventions = [Intervention(names.NONE), *(replace_branch(branch, names.MEAN) for branch in names.BRANCHES)]
    if "gate" in model.components():
        interventions += [force_gate(0.0), force_gate(1.0)]
    test = context.held_out("test", min(config.tokens, config.refit_tokens))
    validation = context.held_out("validation", config.refit_validation_tokens)
    train = context.training_batches(config.refit_tokens)
    texts = train, validation, test
    return refit_readouts(model, interventions, *texts, config.batch_size, effort, statistics, readouts_of(model), step=step)


def _token_classes(
    context: RunContext, model: LanguageModel, statistics: Context, test: EvaluationSet, step: int
) -> list[TokenClass]:
    if fusion_of(model) is None:
        return []
    tokenizer = tokenizer_of(context.layout, context.run.vocab_size)
    return gate_by_class(model, test, tokenizer, context.preset.ablation.batch_size, statistics, step=step)


def _boundaries(context: RunContext, model: LanguageModel, statistics: Context) -> list[Boundary]:
    config = context.preset.ablation
    if not config.boundary_tokens:
        return []
    test = context.held_out("test", config.boundary_tokens)
    return score_boundaries(model, test, tokenizer_of(context.layout, context.run.vocab_size), config.batch_size, statistics)


def inputs(stage: Stage, key: RunKey) -> str:
    return inputs_of("ablate", stage.preset.ablation, weights_hash(stage.layout, key), *text_hashes(stage.layout))


def why(stage: Stage, key: RunKey) -> str | None:
    layout = stage.layout
    return measured_from(layout, key, layout.ablation(*key), Ablation, inputs(stage, key))


if __name__ == "__main__":
    main(lambda: per_run("ablate", __doc__, ablate, why, inputs))
