"""The interval of a model card's test loss: over the text that was scored, where there is enough of it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lolm.analysis.uncertainty import text_weights
from lolm.records import Layout
from lolm.report.card import model_card


@pytest.mark.parametrize("blocks", [1, 2, 24])
def test_interval(results_of, tmp_path, blocks):
    """24 pieces of four documents; in one or two blocks of one document other text is not in sight."""
    results = results_of(seeds=(1,))
    run, analysis = results.of("lolm")[0], results.analysis
    if blocks < 24:
        piece = tuple(16 * (i % blocks) for i in range(24))
        run = replace(run, text=replace(run.text, document=(0,) * 24, piece=piece))
    card = model_card(run, Layout("smoke", tmp_path), "", "its own streams", analysis)
    assert f"{run.test_nats:.4f}" in card
    if blocks < 24:
        assert "(95 %: " not in card
        return
    nats, tokens = np.array(run.text.nats), np.array(run.text.tokens)
    weights = text_weights(24, analysis.bootstrap_draws, analysis.bootstrap_seed)
    drawn, units = weights @ nats / (weights @ tokens), tokens.sum() ** 2 / (tokens**2).sum()
    low, high = drawn.mean() + math.sqrt(units / (units - 1)) * (np.percentile(drawn, (2.5, 97.5)) - drawn.mean())
    assert f"(95 %: {low:.3f} to {high:.3f} nats, over blocks of the text)" in card
