"""Memory and regime in another order."""

import pytest
import torch
from builders import make_model
from known_models import TOKENS, context_of, fused

from lolm.interventions import Intervention, InterventionError, StreamMeans, change_stream, permute_stream, remove_stream

FIELD = {"memory": "m", "regime": "r"}


@torch.no_grad()
@pytest.mark.parametrize("stream", ["memory", "regime"])
def test_permuting_moves_whole_vectors_within_a_sequence(stream):
    model = make_model("lolm")
    s = model.streams(TOKENS)
    changed = permute_stream(stream).apply(s, context_of(model))
    before, after = getattr(s, FIELD[stream]), getattr(changed, FIELD[stream])
    assert not torch.equal(before, after)
    for one, other in zip(before, after, strict=True):
        assert sorted(map(tuple, one.tolist())) == sorted(map(tuple, other.tolist()))
    assert all(getattr(changed, name) is getattr(s, name) for name in "hzmrg" if name != FIELD[stream])


@torch.no_grad()
@pytest.mark.parametrize("stream", ["memory", "regime"])
def test_permuting_or_averaging_what_is_the_same_everywhere_changes_nothing(stream):
    model = make_model("lolm")
    constant = change_stream(stream, "constant", lambda kept, _: kept[:1, :1].expand_as(kept))
    assert torch.equal(fused(model, constant | permute_stream(stream)), fused(model, constant))
    assert not torch.equal(fused(model, constant), fused(model, Intervention("none")))


def test_a_stream_that_is_none_is_an_error():
    for make in (
        permute_stream, remove_stream, lambda name: remove_stream(name, StreamMeans(None, None)),
        lambda name: change_stream(name, "same", lambda x, _: x),
    ):  # fmt: skip
        with pytest.raises(InterventionError, match="no stream 'latent' to change here; it is one of memory, regime"):
            make("latent")


def test_a_missing_stream_is_an_error():
    model = make_model("lolm", regime={"enabled": False})
    for intervention in (permute_stream("regime"), remove_stream("regime")):
        with pytest.raises(InterventionError, match="no regime to change"):
            intervention.apply(model.streams(TOKENS), context_of(model))
