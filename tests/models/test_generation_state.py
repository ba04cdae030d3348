"""Prefill and step of whole models: cached equals the full forward pass, token by token."""

import copy
from dataclasses import replace

import pytest
import torch
from builders import ARMS, PARAMS, make_model, random_tokens

from lolm.accounting.count import account
from lolm.config import ConfigError, ObjectiveConfig
from lolm.mixers.cache import Cache

PROMPT, LENGTH = 18, 40  # past chunks of 16, windows of 8 and the regime's convolution


def lively(model):
    """Weights as training leaves them, not as it finds them: nothing is so small that an error in it would not be seen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "A_log" not in name:
                weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * (0.5 * weight.shape[-1] ** -0.5))
    return model


def cached(model, tokens, prompt):
    """Scores behind each token from the prompt's last on, (B, T - prompt + 1, V), and the state."""
    scores, state = model.prefill(tokens[:, :prompt])
    rows = [scores]
    for token in tokens[:, prompt:].unbind(1):
        scores, state = model.step(token, state)
        rows.append(scores)
    return torch.stack(rows, dim=1), state


def full(model, tokens, lengths):
    """The same by a forward pass over exactly the tokens so far, each time, (B, lengths, V)."""
    with torch.no_grad():
        return torch.stack([model(tokens[:, :length])[:, -1] for length in lengths], dim=1)


def same_computation(arm):
    """What an arm computes, apart from how it is trained."""
    architecture = PARAMS.architectures[arm]
    recipe = replace(architecture.recipe, weight_decay="all", clip="joint")
    regime = replace(architecture.regime, isolate=True)
    return repr(replace(architecture, label="", recipe=recipe, regime=regime, objectives=ObjectiveConfig(), detach=()))


DISTINCT = list({same_computation(arm): arm for arm in reversed(ARMS)}.values())


@pytest.mark.parametrize("arm", DISTINCT)
def test_cached_equals_the_full_pass_token_by_token(arm):
    model, tokens = lively(make_model(arm).double()), random_tokens(2, LENGTH)
    scores, state = cached(model, tokens, PROMPT)
    lengths = [PROMPT, *range(PROMPT + 4, LENGTH, 5), LENGTH - 1, LENGTH]
    torch.testing.assert_close(scores[:, [n - PROMPT for n in lengths]], full(model, tokens, lengths), rtol=0, atol=1e-9)
    assert state.length == LENGTH
    streams = model.streams(tokens)
    for name in ("h", "z", "m", "p", "g"):
        found, whole = getattr(state.streams, name), getattr(streams, name)
        assert (found is None) == (whole is None)
        if whole is not None:
            torch.testing.assert_close(found, whole[:, -1:].detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("arm", ["lolm", "lolm_published", "lolm_v0", "transformer_modern", "jamba_moe", "samba"])
def test_in_single_precision(arm):
    model, tokens = make_model(arm), random_tokens(2, LENGTH)
    lengths = [PROMPT, 32, 33, LENGTH]
    scores = cached(model, tokens, PROMPT)[0][:, [n - PROMPT for n in lengths]]
    torch.testing.assert_close(scores, full(model, tokens, lengths), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arm", ["lolm", "griffin", "hymba"])
def test_any_cut_between_prompt_and_steps_gives_the_same(arm):
    model, tokens = lively(make_model(arm).double()), random_tokens(2, LENGTH)
    expected = full(model, tokens, [LENGTH])[:, 0]
    for prompt in (1, 7, 16, 33, LENGTH):
        torch.testing.assert_close(cached(model, tokens, prompt)[0][:, -1], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("arm", ["lolm", "lolm_published", "jamba_moe"])
def test_rows_of_a_batch_do_not_meet(arm):
    model, tokens = lively(make_model(arm).double()), random_tokens(3, LENGTH)
    alone = torch.cat([cached(model, row[None], PROMPT)[0] for row in tokens])
    torch.testing.assert_close(cached(model, tokens, PROMPT)[0], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("arm", ["lolm", "lolm_published", "samba"])
def test_a_copied_state_goes_on_alone(arm):
    model, tokens = make_model(arm), random_tokens(2, LENGTH)
    _, state = cached(model, tokens, PROMPT)
    kept = copy.deepcopy(state)
    first, _ = model.step(tokens[:, 0], state)
    for token in random_tokens(20, 2, seed=3):
        _, state = model.step(token, state)
    assert torch.equal(model.step(tokens[:, 0], kept)[0], first)


def sizes(part):
    """Elements of all tensors of a state, buffers of caches whole."""
    if isinstance(part, Cache):
        return part._buffer.numel()
    if torch.is_tensor(part):
        return part.numel()
    return sum(map(sizes, part.values() if isinstance(part, dict) else part)) if isinstance(part, dict | list | tuple) else 0


@pytest.mark.parametrize("arm", DISTINCT)
@pytest.mark.parametrize("length", [5, 64])
def test_the_size_of_the_state_is_what_a_prefill_keeps(arm, length):
    model = make_model(arm)
    assert model.state_size(length) == sizes(model.prefill(random_tokens(1, length))[1].parts)


@pytest.mark.parametrize("arm", ["mamba", "mamba2", "hawk", "lolm_parallel", "samba", "transformer"])
def test_only_attention_without_a_window_grows(arm):
    model, tokens = make_model(arm), random_tokens(1, 140)
    early, late = (sizes(cached(model, tokens[:, :length], 20)[1].parts) for length in (65, 140))
    assert (late > early) == (arm in ("lolm_parallel", "transformer"))  # whose surface is attention without a window
    assert late <= 6 * early  # doubled, and not made anew each time


def test_a_prompt_with_fewer_tokens_than_counted_chunks_is_refused_as_a_forward_pass_is():
    model = make_model("lolm_published")
    with pytest.raises(ConfigError, match=r"memory\.chunks"):
        model.prefill(random_tokens(1, model.memory.size.chunks - 1))


# Weights in half precision: what decays are read from is float32, so the state is, and steps go on from a prompt.
@pytest.mark.parametrize("arm", ["griffin", "hawk", "mamba", "mamba2", "hymba", "lolm", "lolm_published"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_step_as_they_read_a_whole_text(arm, dtype):
    model, tokens = make_model(arm).to(dtype), random_tokens(2, LENGTH)
    lengths = [PROMPT, LENGTH]
    scores = cached(model, tokens, PROMPT)[0][:, [n - PROMPT for n in lengths]]
    assert scores.dtype == dtype
    torch.testing.assert_close(scores.float(), full(model, tokens, lengths).float(), rtol=0.05, atol=0.1)


def nbytes(part):
    """Bytes of all tensors of a state, buffers of caches whole."""
    if isinstance(part, dict | list | tuple):
        return sum(map(nbytes, part.values() if isinstance(part, dict) else part))
    if isinstance(part, Cache):
        return part._buffer.nbytes
    return part.nbytes if isinstance(part, torch.Tensor) else 0


@pytest.mark.parametrize("arm", DISTINCT)
def test_bytes_in_half_precision_are_those_that_generation_carries(arm):
    """What a recurrence or a memory adds up stays float32."""
    model = make_model(arm)
    with torch.autocast("cpu", torch.bfloat16):
        parts = model.prefill(random_tokens(1, 40))[1].parts
    assert account(model, None, 40, "bf16").state_bytes == nbytes(parts)
