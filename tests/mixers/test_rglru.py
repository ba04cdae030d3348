"""Griffin's recurrent block against the implementation in the transformers package and against its equations."""

import math

import pytest
import torch
import torch.nn.functional as F

from lolm.config import ConfigError
from lolm.mixers.base import keeps_init
from lolm.mixers.rglru import RGLRU, BoundedSqrt

D, W, BLOCKS = 24, 36, 3
RENAMED = {"Lambda": "rg_lru.recurrent_param", "conv_bias": "conv_1d.bias"}


def make_mixer(**options) -> RGLRU:
    """Every parameter away from the special values of its construction."""
    torch.manual_seed(0)
    mixer = RGLRU(D, **({"width": W, "blocks": BLOCKS} | options))
    with torch.no_grad():
        mixer.conv_weight.normal_(0, 0.5)
        for bias in (mixer.conv_bias, mixer.gate_bias, mixer.linear_x.bias, mixer.linear_y.bias, mixer.linear_out.bias):
            bias.normal_(0, 0.5)
    return mixer


def oracle_of(mixer: RGLRU):
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    config = RecurrentGemmaConfig(
        hidden_size=D, lru_width=mixer.width, num_attention_heads=mixer.blocks, conv1d_width=mixer.d_conv, num_hidden_layers=1
    )
    oracle = RecurrentGemmaRecurrentBlock(config, layer_idx=0)
    oracle.load_state_dict(in_their_form(mixer, {name: p.detach() for name, p in mixer.named_parameters()}))
    return oracle


def in_their_form(mixer: RGLRU, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    half = mixer.width // mixer.blocks
    theirs = {RENAMED.get(name, name): value for name, value in values.items() if "gate" not in name and name != "conv_weight"}
    theirs["conv_1d.weight"] = values["conv_weight"][:, None]
    for kind in ("weight", "bias"):
        theirs[f"rg_lru.recurrent_gate_{kind}"] = values[f"gate_{kind}"][..., :half]
        theirs[f"rg_lru.input_gate_{kind}"] = values[f"gate_{kind}"][..., half:]
    return theirs


def compare_with_oracle(mixer, length):
    oracle = oracle_of(mixer)
    x = torch.randn(2, length, D)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = mixer(ours)
    wanted, _ = oracle(theirs, torch.arange(length)[None], None, use_cache=False)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    gradients = in_their_form(mixer, {name: p.grad for name, p in mixer.named_parameters()})
    parameters = dict(oracle.named_parameters())
    assert set(gradients) == set(parameters)
    for name, gradient in gradients.items():
        wanted = parameters[name].grad
        scale = float(wanted.abs().max())
        assert scale > 0 or length == 1, name
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("length", [1, 3, 45])
@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_forward_and_every_gradient_equal_transformers(length, kernels):
    mixer = make_mixer()
    mixer.kernels = kernels
    compare_with_oracle(mixer, length)


def test_the_gradient_of_the_square_root_is_bounded_as_in_transformers():
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import SqrtBoundDerivative

    ours = torch.tensor([0.0, 1e-12, 2e-7, 3e-7, 1e-3, 1.0], requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    BoundedSqrt.apply(ours).sum().backward()
    SqrtBoundDerivative.apply(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad[:3].tolist() == pytest.approx([1000.0] * 3)


def test_a_perfect_memory_has_a_gradient():
    mixer = make_mixer()
    with torch.no_grad():
        mixer.Lambda[::2] = -200.0  # a = 1 exactly: √(1 − a²) is 0 and its derivative infinite
    compare_with_oracle(mixer, 20)
    assert all(torch.isfinite(p.grad).all() for p in mixer.parameters())


def by_the_equations(mixer: RGLRU, x_BTD: torch.Tensor) -> torch.Tensor:
    """Token by token in float64."""
    p = {name: value.double() for name, value in mixer.named_parameters()}
    x = x_BTD.double()
    half = mixer.width // mixer.blocks
    inputs = x @ p["linear_x.weight"].T + p["linear_x.bias"]
    h, outputs = torch.zeros(x.shape[0], mixer.width, dtype=torch.float64), []
    for t in range(x.shape[1]):
        u = p["conv_bias"].expand(x.shape[0], -1)
        for back in range(min(t + 1, mixer.d_conv)):
            u = u + p["conv_weight"][:, mixer.d_conv - 1 - back] * inputs[:, t - back]
        gates = []
        for block in range(mixer.blocks):
            mine = u[:, block * half : (block + 1) * half]
            gates.append(1 / (1 + (-(mine @ p["gate_weight"][block] + p["gate_bias"][block])).exp()))
        r, i = (torch.cat([g[:, side * half : (side + 1) * half] for g in gates], dim=1) for side in (0, 1))
        a = (1 + p["Lambda"].exp()) ** (-8 * r)
        h = a * h + (1 - a**2).sqrt() * i * u if t else i * u
        z = x[:, t] @ p["linear_y.weight"].T + p["linear_y.bias"]
        gelu = 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        outputs.append((h * gelu) @ p["linear_out.weight"].T + p["linear_out.bias"])
    return torch.stack(outputs, dim=1)


def test_forward_and_every_gradient_equal_the_equations():
    mixer = make_mixer()
    x = torch.randn(2, 70, D)
    y, wanted = mixer(x), by_the_equations(mixer, x)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(y)
    parameters = list(mixer.parameters())
    ours = torch.autograd.grad((y * weights).sum(), parameters)
    theirs = torch.autograd.grad((wanted * weights).sum(), parameters)
    for gradient, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))


def test_values_after_construction():
    torch.manual_seed(0)
    mixer = RGLRU(256, 4)
    a = torch.exp(-F.softplus(mixer.Lambda.detach()))
    assert 0.9 <= a.min() < 0.91
    assert 0.995 < a.max() <= 0.9990001
    assert float((a**2).mean()) == pytest.approx((0.9**2 + 0.999**2) / 2, abs=0.01)  # a² is uniform
    for tensor, deviation in (
        (mixer.linear_x.weight, 1 / 16),
        (mixer.linear_y.weight, 1 / 16),
        (mixer.linear_out.weight, 1 / 16),
        (mixer.gate_weight, 1 / 8),
        (mixer.conv_weight, 0.1 / 2),
    ):
        assert float(tensor.detach().std()) == pytest.approx(deviation, rel=0.06)
    assert not any(p.any() for name, p in mixer.named_parameters() if "bias" in name)
    assert all(keeps_init(m, name) for m in mixer.modules() for name, _ in m.named_parameters(recurse=False))
    assert mixer.undecayed == {"Lambda", "gate_bias", "conv_weight", "conv_bias"}


def test_size_of_recurrentgemma_2b():
    d, hidden, vocabulary, head = 2560, 7680, 256_000, 256
    with torch.device("meta"):
        recurrent = RGLRU(d, 10).num_params()
    attention = 2 * d * d + 2 * d * head + d
    mlp = 2 * (d * hidden + hidden) + hidden * d + d
    total = vocabulary * d + 18 * recurrent + 8 * attention + 26 * (mlp + 2 * d) + d
    assert total == pytest.approx(2.68e9, rel=0.002)


def test_state_is_float32_under_autocast():
    mixer = make_mixer()
    x = torch.randn(1, 300, D)
    with torch.autocast("cpu", torch.bfloat16):
        assert mixer._gated(torch.randn(2, W).bfloat16())[0].dtype == torch.float32
        y = mixer(x)
    exact = mixer(x)
    assert float(((y.float() - exact).norm() / exact.norm()).detach()) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 5}, "blocks 5.*must divide the width 36"),
        ({"width": 0}, "width must be"),
        ({"max_radius": 1.0}, "max_radius 1.0"),
        ({"c": 0.0}, "c 0.0"),
    ],
)
def test_options_that_clash_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        make_mixer(**options)
