"""What holds for every registered mixer."""

import inspect

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lolm.config import ConfigError, MixerConfig
from lolm.config.mixers import NAMES
from lolm.mixers.cache import Cache
from lolm.mixers.registry import MIXERS, build_mixer

# Every registered mixer at least once, and every option that changes what is computed: label -> (name, options).
SMALL = {"d_state": 4}
VARIANTS = {
    "attention": ("attention", {}),
    "attention, window 4": ("attention", {"window": 4}),
    "attention, window 1": ("attention", {"window": 1}),
    "attention, one key head": ("attention", {"kv_heads": 1}),
    "attention, wide heads": ("attention", {"head_width": 6}),
    "attention, half RoPE": ("attention", {"rope": 0.5}),
    "attention, no positions": ("attention", {"rope": 0}),
    "attention, as in Griffin": ("attention", {"kv_heads": 1, "rope": 0.5, "window": 3, "out_bias": True}),
    "attention, convolution": ("attention", {"kv_heads": 1, "window": 4, "conv": 3}),
    "gated_conv": ("gated_conv", {}),
    "gated_conv, width 12": ("gated_conv", {"d_inner": 12, "d_conv": 3}),
    "mamba1": ("mamba1", SMALL),
    "mamba1, inner norms": ("mamba1", SMALL | {"inner_norms": True}),
    "mamba1, expand 3": ("mamba1", SMALL | {"expand": 3}),
    "mamba1, width 12": ("mamba1", SMALL | {"d_inner": 12, "d_conv": 3, "dt_rank": 2}),
    "plain_ssm": ("plain_ssm", SMALL),
    "plain_ssm, expand 3": ("plain_ssm", SMALL | {"expand": 3}),
    "mamba2": ("mamba2", SMALL | {"head_width": 4}),
    "mamba2, two groups, short chunks": (
        "mamba2",
        SMALL | {"head_width": 4, "groups": 2, "chunk": 4, "d_inner": 24, "d_conv": 3},
    ),
    "rglru": ("rglru", {}),
    "rglru, width 12": ("rglru", {"width": 12, "blocks": 3, "d_conv": 3}),
    "hymba": ("hymba", SMALL),
    "hymba, window 3, one key head": ("hymba", SMALL | {"window": 3, "kv_heads": 1, "d_inner": 24, "d_conv": 4, "dt_rank": 2}),
}

# How many tokens a mixer without a state sees, with its own, by its options.
REACH = {
    "attention": lambda options: options.get("window", 6) + max(0, options.get("conv", 0) - 1),
    "gated_conv": lambda options: options.get("d_conv", 4),
}


def build(variant: str, d_model: int = 8, n_heads: int = 2):
    torch.manual_seed(0)
    return build_mixer(MixerConfig(*VARIANTS[variant]), d_model, n_heads, 0.0).eval()


def tensors_of(state) -> list[torch.Tensor]:
    """The tensors of a state, which may be nested and may hold counters."""
    if torch.is_tensor(state) or isinstance(state, Cache):
        return [state if torch.is_tensor(state) else state.entries]
    return [t for part in state for t in tensors_of(part)] if isinstance(state, tuple | list) else []


every_mixer = pytest.mark.parametrize("variant", VARIANTS)


def test_every_registered_mixer_is_tested():
    assert {name for name, _ in VARIANTS.values()} == set(MIXERS)
    assert set(FLOPS_BY_HAND) == set(VARIANTS)


@every_mixer
@pytest.mark.parametrize("position", [0, 11, 36])
def test_a_token_changes_nothing_before_it(variant, position):
    mixer = build(variant)
    x = torch.randn(2, 37, 8)
    changed = x.clone()
    changed[:, position] += 1
    before, after = mixer(x), mixer(changed)
    torch.testing.assert_close(before[:, :position], after[:, :position], rtol=0, atol=0)
    assert (before[:, position] != after[:, position]).any()


@every_mixer
def test_no_gradient_flows_from_the_future(variant):
    x = torch.randn(1, 12, 8, requires_grad=True)
    build(variant)(x)[:, 5].sum().backward()
    assert x.grad[:, 6:].abs().max() == 0
    name, options = VARIANTS[variant]
    reach = REACH[name](options) if name in REACH else 6  # a state reaches back to the start
    oldest = max(0, 6 - reach)
    assert x.grad[:, :oldest].abs().sum() == 0
    reached = x.grad[:, oldest:6].abs().sum(dim=-1) > 0
    assert reached.all()


@every_mixer
@pytest.mark.parametrize("length", [1, 3, 37])
def test_step_by_step_equals_all_at_once(variant, length):
    mixer = build(variant)
    x = torch.randn(3, length, 8)
    state, steps = mixer.initial_state(3), []
    with torch.no_grad():
        for t in range(length):
            y, state = mixer.step(x[:, t], state)
            steps.append(y)
        torch.testing.assert_close(torch.stack(steps, dim=1), mixer(x), rtol=1e-5, atol=1e-6)


@every_mixer
@pytest.mark.parametrize("length", [1, 3, 66])  # 66 is beyond a block of the scans' last states
def test_a_prefill_leaves_the_state_that_steps_leave(variant, length):
    mixer = build(variant).double()
    x = torch.randn(2, length + 5, 8, dtype=torch.float64)
    with torch.no_grad():
        prompt, state = mixer.prefill(x[:, :length])
        torch.testing.assert_close(prompt, mixer(x[:, :length]), rtol=0, atol=0)
        stepped, own = mixer.initial_state(2), 0
        for x_BD in x[:, :length].unbind(1):
            own, stepped = mixer.step(x_BD, stepped)
        torch.testing.assert_close(own, prompt[:, -1], rtol=0, atol=1e-12)
        for a, b in zip(tensors_of(state), tensors_of(stepped), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        for x_BD in x[:, length:].unbind(1):
            (y, state), (own, stepped) = mixer.step(x_BD, state), mixer.step(x_BD, stepped)
            torch.testing.assert_close(y, own, rtol=0, atol=1e-12)


@every_mixer
@pytest.mark.parametrize(("d_model", "n_heads"), [(8, 2), (48, 4)])
def test_parameter_formula_equals_the_count(variant, d_model, n_heads):
    mixer = build(variant, d_model, n_heads)
    assert mixer.num_params() == sum(p.numel() for p in mixer.parameters())


@every_mixer
def test_every_parameter_is_used(variant):
    mixer = build(variant)
    mixer(torch.randn(1, 12, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mixer.parameters())


@every_mixer
@pytest.mark.parametrize("length", [1, 9])
def test_state_size_equals_the_real_state(variant, length):
    mixer = build(variant)
    state = mixer.initial_state(2)
    for x in torch.randn(length, 2, 8):
        _, state = mixer.step(x, state)
    assert mixer.state_size(length) == sum(t[0].numel() for t in tensors_of(state))


# Label -> (FLOPs of matrix products, the rest) of one token, by hand. D = 8, T = 5 and, where nothing else is said, H = 2, P = 4,
# I = 16, N = 4, R = 1, K = 4; a multiply-add is 2. Five queries meet (1 + 2 + 3 + 4 + 5) / 5 = 3 keys on average.
FLOPS_BY_HAND = {
    "attention": (2 * 8 * 24 + 2 * 8 * 8, 3 * (2 * 8 + 2 * 8)),  # qkv, out; query · key and weight · value
    "attention, window 4": (512, (1 + 2 + 3 + 4 + 4) / 5 * 32),
    "attention, window 1": (512, 1 * 32),
    "attention, one key head": (2 * 8 * (8 + 4 + 4) + 2 * 8 * 8, 3 * 32),
    "attention, wide heads": (2 * 8 * 36 + 2 * 12 * 8, 3 * (2 * 12 + 2 * 12)),
    "attention, half RoPE": (512, 96),
    "attention, no positions": (512, 96),
    "attention, as in Griffin": (2 * 8 * 16 + 2 * 8 * 8, (1 + 2 + 3 + 3 + 3) / 5 * 32),
    "attention, convolution": (2 * 8 * 16 + 2 * 8 * 8, (1 + 2 + 3 + 4 + 4) / 5 * 32 + 2 * 3 * 16),
    "gated_conv": (2 * 8 * 32 + 2 * 16 * 8, 2 * 4 * 16 + 2 * 16),  # in_proj, out_proj; convolution, gate
    "gated_conv, width 12": (2 * 8 * 24 + 2 * 12 * 8, 2 * 3 * 12 + 2 * 12),
    # in_proj, x_proj, dt_proj, out_proj; convolution, scan, skip and gate
    "mamba1": (2 * 8 * 32 + 2 * 16 * 9 + 2 * 1 * 16 + 2 * 16 * 8, 2 * 4 * 16 + 9 * 16 * 4 + 4 * 16),
    "mamba1, inner norms": (2 * 8 * 32 + 2 * 16 * 9 + 2 * 1 * 16 + 2 * 16 * 8, 2 * 4 * 16 + 9 * 16 * 4 + 4 * 16),
    "mamba1, expand 3": (2 * 8 * 48 + 2 * 24 * 9 + 2 * 1 * 24 + 2 * 24 * 8, 2 * 4 * 24 + 9 * 24 * 4 + 4 * 24),
    "mamba1, width 12": (2 * 8 * 24 + 2 * 12 * 10 + 2 * 2 * 12 + 2 * 12 * 8, 2 * 3 * 12 + 9 * 12 * 4 + 4 * 12),
    "plain_ssm": (2 * 8 * 32 + 2 * 16 * 16 + 2 * 16 * 4 * 2 + 2 * 16 * 8, 9 * 16 * 4 + 4 * 16),
    "plain_ssm, expand 3": (2 * 8 * 48 + 2 * 24 * 24 + 2 * 24 * 4 * 2 + 2 * 24 * 8, 9 * 24 * 4 + 4 * 24),
    # in_proj, out_proj; convolution of x, B and C, scan, skip and gate
    "mamba2": (2 * 8 * (16 + 24 + 4) + 2 * 16 * 8, 2 * 4 * 24 + 6 * 16 * 4 + 4 * 16),
    "mamba2, two groups, short chunks": (2 * 8 * (24 + 40 + 6) + 2 * 24 * 8, 2 * 3 * 40 + 6 * 24 * 4 + 4 * 24),
    # linear_x, linear_y, linear_out; blocks of the gates (batched, so not in the count below), convolution, recurrence
    "rglru": (3 * 2 * 8 * 8, 2 * 2 * (2 * 4 * 4) + 2 * 4 * 8 + 10 * 8),
    "rglru, width 12": (3 * 2 * 8 * 12, 2 * 3 * (2 * 4 * 4) + 2 * 3 * 12 + 10 * 12),
    # qkv; in_proj, x_proj, dt_proj; out_proj. Scores and values of width 16; convolution of width 3, scan, skip and gate
    "hymba": (2 * 8 * 48 + 2 * 8 * 32 + 2 * 16 * 9 + 2 * 16 + 2 * 16 * 8, 3 * 64 + 2 * 3 * 16 + 9 * 16 * 4 + 4 * 16),
    "hymba, window 3, one key head": (
        2 * 8 * (24 + 12 + 12) + 2 * 8 * 48 + 2 * 24 * 10 + 2 * 2 * 24 + 2 * 24 * 8,
        12 / 5 * 96 + 2 * 4 * 24 + 9 * 24 * 4 + 4 * 24,
    ),
}


@every_mixer
def test_flops_equal_a_hand_count(variant):
    products, rest = FLOPS_BY_HAND[variant]
    mixer = build(variant)
    assert mixer.flops_per_token(5) == pytest.approx(products + rest, rel=1e-12)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mixer(torch.randn(2, 5, 8))
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if str(op).split(".")[1] in ("mm", "addmm"))
    assert counted / 10 == products


def test_attention_cost_grows_with_length_and_ssm_cost_does_not():
    assert build("attention").flops_per_token(101) - build("attention").flops_per_token(1) == 50 * 32
    assert build("mamba1").flops_per_token(1000) == build("mamba1").flops_per_token(1)


def test_unknown_mixer_and_unknown_option_are_named():
    with pytest.raises(ConfigError, match="did you mean 'mamba1'"):
        build_mixer(MixerConfig("mamba_1"), 8, 2, 0.0)
    with pytest.raises(ConfigError, match="unknown key 'options.windows'"):
        build_mixer(MixerConfig("attention", {"windows": 4}), 8, 2, 0.0)


def test_the_parameter_file_knows_every_option_of_every_mixer():
    own = {"self", "d_model", "n_heads", "dropout", "output_map"}  # what a block or another mixer gives
    assert {name: set(inspect.signature(MIXERS[name]).parameters) - own for name in MIXERS} == {
        name: set(options) for name, options in NAMES.items()
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("attention", {"kv_heads": 3}, "kv_heads 3 must divide n_heads 2"),
        ("attention", {"window": 0}, "window: must be at least 1"),
        ("attention", {"window": 2.5}, "window: expected int, got float 2.5"),
        ("attention", {"head_width": 5}, "even number of dimensions"),
        ("attention", {"rope": 0.25}, "rope 0.25 of head width 4"),
        ("attention", {"rope": 1.5}, "rope: must be at least 0 and at most 1"),
        ("mamba1", {"d_inner": 0}, "d_inner: must be at least 1"),
        ("hymba", {"d_inner": 15}, "inner width 15 must be a multiple of n_heads 2"),
        ("hymba", {"kv_heads": 3}, "kv_heads 3"),
    ],
)
def test_options_that_clash_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_mixer(MixerConfig(name, options), 8, 2, 0.0)


@pytest.mark.parametrize("variant", ["rglru", "mamba2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_decays_and_step_sizes_are_float32_or_better_whatever_the_weights_are(variant, dtype):
    mixer, wide = build(variant).to(dtype), torch.promote_types(dtype, torch.float32)
    x = torch.randn(2, 5, 8, dtype=dtype)
    if variant == "rglru":
        found, exact = mixer._gated(x), build(variant).to(dtype).to(wide)._gated(x.to(wide))
    else:
        found, exact = (mixer._project(x)[2], mixer._rates()), None
    assert {part.dtype for part in found} == {wide}
    if exact is not None:  # the gates' product rounds, as every map's; what is made of it does not
        torch.testing.assert_close(found[0], exact[0], rtol=0, atol=0.02)
    with torch.no_grad():
        _, state = mixer.prefill(x)
        y, state = mixer.step(x[:, 0], state)
    assert y.dtype == dtype
    assert state[0].dtype == wide
