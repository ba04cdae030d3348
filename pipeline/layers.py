"""Interventions by layer and by type of layer: what mixers and MLPs write into the residual stream replaced, and what follows
computed again, at every kept set of weights, on the test split. Every run of the study's arms that is not measured, or one."""

from __future__ import annotations

from lolm.laboratory.layers import joined, measure_layers
from lolm.records import RunKey, write
from lolm.records.schema import Layers
from pipeline.context import RunContext, open_run
from pipeline.identity import inputs_of, measured_from, text_hashes, weights_hash
from pipeline.runs import per_run
from pipeline.stage import Stage, main


def layers(stage: Stage, key: RunKey) -> None:
    write(stage.layout.layers(*key), measured(open_run(stage, key, inputs(stage, key))))


def measured(context: RunContext) -> Layers:
    """All that is measured on one run."""
    config, trained = context.preset.layers, context.trained
    # Of validation text, so that what a removed write is replaced by is known without the text it is scored on.
    test, others = (context.held_out(split, config.tokens) for split in ("test", "validation"))
    end, seed = context.run.training.steps, context.run.seed
    each = [measure_layers(trained.at(n), test, others, config, seed=seed, step=n, last=n == end) for n in trained.steps]
    return Layers(**context.identity, split="test", references=context.references({"test": test})["test"], measured=joined(each))


def inputs(stage: Stage, key: RunKey) -> str:
    return inputs_of("layers", stage.preset.layers, weights_hash(stage.layout, key), *text_hashes(stage.layout))


def why(stage: Stage, key: RunKey) -> str | None:
    layout = stage.layout
    return measured_from(layout, key, layout.layers(*key), Layers, inputs(stage, key))


if __name__ == "__main__":
    main(lambda: per_run("layers", __doc__, layers, why, inputs, arms=lambda stage: stage.params.layers_arms))
