"""Losses and gates of single tokens of one text."""

import numpy as np
import pytest
import torch
from builders import ArrayStream, make_model
from known_models import WIDTH, reader

from lolm.data.errors import DataError
from lolm.evaluation.held_out import token_losses
from lolm.interventions import (
    Intervention,
    InterventionError,
    force_gate,
    measure,
    replace_branch,
    replace_writes,
    skip_last_blocks,
    swap_gate,
    writes,
)
from lolm.laboratory.token_losses import losses_by_token

EOS = WIDTH - 1
TEXT = ArrayStream(40, WIDTH, seed=3).tokens
OTHER = ArrayStream(200, WIDTH, seed=4)


def statistics(model):
    return measure(model, [torch.from_numpy(OTHER.tokens[None])])


@pytest.mark.parametrize("arm", ["lolm", "lolm_published"])  # the second cuts what it reads into a fixed number of chunks
def test_each_token_is_predicted_from_those_before_it(arm):
    model = make_model(arm, vocab_size=WIDTH)
    text = TEXT[:39]  # one more would make all chunks longer
    full, same = losses_by_token(model, text, EOS, Intervention("none"))
    expected, _ = token_losses(model, np.concatenate([[EOS], text])[None], 1)
    assert full.nats == pytest.approx(expected[0], abs=1e-6)
    assert np.array_equal(full.nats, same.nats)
    assert full.ids.tolist() == text.tolist()


@pytest.mark.parametrize("arm", ["lolm", "lolm_published"])
def test_the_gate_is_that_of_the_position_that_reads_the_token(arm):
    model = make_model(arm, vocab_size=WIDTH)
    full, swapped = losses_by_token(model, TEXT, EOS, swap_gate())
    g = model.streams(torch.from_numpy(np.concatenate([[EOS], TEXT]))[None]).g
    assert full.gate == pytest.approx(g[0, 1:].mean(dim=-1).tolist(), abs=1e-6)
    assert swapped.gate == pytest.approx(1 - full.gate, abs=1e-6)
    assert losses_by_token(model, TEXT, EOS, force_gate(0.25))[1].gate == pytest.approx(0.25)


def test_a_branch_that_is_not_read_is_not_missed():
    model = reader(surface=True, latent=False)
    for by in ("zero", "mean", "resample"):
        surface, latent = (
            losses_by_token(model, TEXT, EOS, replace_branch(branch, by), statistics(model), OTHER)
            for branch in ("surface", "latent")
        )
        assert latent[1].nats == pytest.approx(latent[0].nats, abs=1e-5)
        assert surface[1].nats.mean() > surface[0].nats.mean() + 0.5
        assert np.array_equal(surface[0].gate, surface[1].gate)


def test_plain_stack_has_no_gate_and_can_lose_blocks():
    model = make_model("transformer", vocab_size=WIDTH)
    full, shorter = losses_by_token(model, TEXT, EOS, skip_last_blocks(1))
    assert full.gate is None
    assert not np.allclose(full.nats, shorter.nats)


def test_writes_inside_the_stack_may_be_those_of_another_text():
    model = make_model("lolm", vocab_size=WIDTH)
    change = replace_writes(writes(model, "mlp"), "resample")
    intact, changed = losses_by_token(model, TEXT, EOS, change, None, OTHER)
    assert np.isfinite(changed.nats).all()
    assert not np.allclose(intact.nats, changed.nats)
    place = len(OTHER.tokens) // 2  # where it is taken
    same, unchanged = losses_by_token(model, OTHER.tokens[place + 1 :][:40], int(OTHER.tokens[place]), change, None, OTHER)
    np.testing.assert_allclose(same.nats, unchanged.nats, rtol=1e-5)


def test_what_cannot_be_read():
    model = make_model("lolm", vocab_size=WIDTH)
    with pytest.raises(DataError, match="no token"):
        losses_by_token(model, TEXT[:0], EOS, Intervention("none"))
    with pytest.raises(DataError, match="another tokenizer"):
        losses_by_token(model, TEXT + WIDTH, EOS, Intervention("none"))
    short = ArrayStream(10, WIDTH)
    with pytest.raises(DataError, match="another text, which has 10 tokens, fewer than the 41"):
        losses_by_token(model, TEXT, EOS, replace_branch("latent", "resample"), elsewhere=short)
    alone, beside = (losses_by_token(model, TEXT, EOS, swap_gate(), elsewhere=other) for other in (None, short))
    assert np.array_equal(alone[1].nats, beside[1].nats), "what needs no other text asks for none"
    with pytest.raises(InterventionError, match="statistics"):
        losses_by_token(model, TEXT, EOS, replace_branch("latent", "mean"))
    with pytest.raises(InterventionError, match="other documents"):
        losses_by_token(model, TEXT, EOS, replace_branch("latent", "resample"))
