"""What holds for every registered mixer."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lolm.config import ConfigError, MixerConfig
from lolm.mixers.registry import MIXERS, build_mixer

OPTIONS = {"mamba1": {"d_state": 4}, "plain_ssm": {"d_state": 4}}  # small states where a mixer has them


def build(name: str, d_model: int = 8, n_heads: int = 2, **options):
    torch.manual_seed(0)
    return build_mixer(MixerConfig(name, OPTIONS.get(name, {}) | options), d_model, n_heads, 0.0).eval()


every_mixer = pytest.mark.parametrize("name", sorted(MIXERS))


@every_mixer
@pytest.mark.parametrize("position", [0, 11, 36])
def test_a_token_changes_nothing_before_it(name, position):
    mixer = build(name)
    x = torch.randn(2, 37, 8)
    changed = x.clone()
    changed[:, position] += 1
    before, after = mixer(x), mixer(changed)
    torch.testing.assert_close(before[:, :position], after[:, :position], rtol=0, atol=0)
    assert (before[:, position] != after[:, position]).any()


@every_mixer
def test_no_gradient_flows_from_the_future(name):
    x = torch.randn(1, 12, 8, requires_grad=True)
    build(name)(x)[:, 5].sum().backward()
    assert x.grad[:, 6:].abs().max() == 0
    assert (x.grad[:, :6].abs().sum(dim=-1) > 0).all()


@every_mixer
@pytest.mark.parametrize("length", [1, 3, 37])
def test_step_by_step_equals_all_at_once(name, length):
    mixer = build(name)
    x = torch.randn(3, length, 8)
    state, steps = mixer.initial_state(3), []
    with torch.no_grad():
        for t in range(length):
            y, state = mixer.step(x[:, t], state)
            steps.append(y)
        torch.testing.assert_close(torch.stack(steps, dim=1), mixer(x), rtol=1e-5, atol=1e-6)


@every_mixer
@pytest.mark.parametrize(("d_model", "n_heads", "options"), [(8, 2, {}), (48, 4, {}), (16, 1, {"expand": 3})])
def test_parameter_formula_equals_the_count(name, d_model, n_heads, options):
    if options and name == "attention":
        options = {}
    mixer = build(name, d_model, n_heads, **options)
    assert mixer.num_params() == sum(p.numel() for p in mixer.parameters())


@every_mixer
@pytest.mark.parametrize("length", [1, 9])
def test_state_size_equals_the_real_state(name, length):
    mixer = build(name)
    state = mixer.initial_state(2)
    for x in torch.randn(length, 2, 8):
        _, state = mixer.step(x, state)
    tensors = [state] if torch.is_tensor(state) else list(state)
    assert mixer.state_size(length) == sum(t[0].numel() for t in tensors)


# D = 8, I = 16, N = 4, R = 1, K = 4, T = 5; a multiply-add is 2.
FLOPS_BY_HAND = {
    "attention": 2 * 8 * 24 + 2 * 8 * 8 + (1 + 2 + 3 + 4 + 5) / 5 * (2 * 8 + 2 * 8),  # qkv, out; query·key and weight·value
    "mamba1": 2 * 8 * 32 + 2 * 4 * 16 + 2 * 16 * 9 + 2 * 1 * 16 + 9 * 16 * 4 + 2 * 16 + 2 * 16 + 2 * 16 * 8,
    "plain_ssm": 2 * 8 * 32 + 2 * 16 * 16 + 2 * 16 * 4 * 2 + 9 * 16 * 4 + 2 * 16 + 2 * 16 + 2 * 16 * 8,
}
BESIDES_PRODUCTS = {  # what a counter of matrix products cannot see
    "attention": 3 * 32,  # three keys on average over five positions
    "mamba1": 2 * 4 * 16 + 9 * 16 * 4 + 4 * 16,  # convolution; scan; skip and gate
    "plain_ssm": 9 * 16 * 4 + 4 * 16,
}


@every_mixer
def test_flops_equal_a_hand_count(name):
    mixer = build(name)
    assert mixer.flops_per_token(5) == FLOPS_BY_HAND[name]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mixer(torch.randn(2, 5, 8))
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if str(op).split(".")[1] in ("mm", "addmm"))
    assert products / 10 + BESIDES_PRODUCTS[name] == FLOPS_BY_HAND[name]


def test_attention_cost_grows_with_length_and_ssm_cost_does_not():
    assert build("attention").flops_per_token(101) - build("attention").flops_per_token(1) == 50 * 32
    assert build("mamba1").flops_per_token(1000) == build("mamba1").flops_per_token(1)


def test_unknown_mixer_and_unknown_option_are_named():
    with pytest.raises(ConfigError, match="did you mean 'mamba1'"):
        build_mixer(MixerConfig("mamba"), 8, 2, 0.0)
    with pytest.raises(ConfigError, match="'attention'.*window"):
        build_mixer(MixerConfig("attention", {"window": 4}), 8, 2, 0.0)
