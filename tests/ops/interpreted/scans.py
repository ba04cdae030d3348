"""Scans and convolution in Triton against the references: forward and every gradient, within 1e-5 of the largest value."""

import interpreter  # noqa: F401  (before anything that defines a kernel)
import pytest
import torch
from test_contract import VARIANTS, build
from test_linear_scan import forward_and_gradients as linear_gradients
from test_linear_scan import make_inputs as linear_inputs
from test_scan import NAMES, forward_and_gradients, make_inputs, relative

from lolm.mixers.base import Mixer
from lolm.ops.backends import chosen_kernels
from lolm.ops.causal_conv import causal_conv
from lolm.ops.linear_scan import linear_scan
from lolm.ops.scan import selective_scan
from lolm.ops.triton.scan import _scan, _scan_backward

BOUND = 1e-5
MIXERS = "mamba1", "plain_ssm", "rglru", "gated_conv", "hymba"
HALF = 2**-7  # one conversion to bfloat16, at the end: the interpreter cuts off where a GPU rounds


def check_scan(inputs):
    y, gradients = forward_and_gradients(inputs, "triton")
    exact, exact_gradients = forward_and_gradients(inputs, "reference", torch.float64)
    assert relative(y, exact) < BOUND
    for name, gradient, wanted in zip(NAMES, gradients, exact_gradients, strict=True):
        assert relative(gradient, wanted) < BOUND, name


@pytest.mark.parametrize("sizes", [(2, 1, 5, 1), (1, 15, 130, 3), (1, 70, 9, 16), (1, 17, 35, 24)])  # 70 is beyond a chunk
def test_selective_scan(sizes):
    check_scan(make_inputs(*sizes))
    assert chosen_kernels("cpu", "triton")["selective_scan"] == "triton"


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1.01e-4), (1e-4, 50.0)])
def test_extreme_step_sizes(low, high):
    check_scan(make_inputs(1, 11, 9, 16, low, high))


@pytest.mark.parametrize("left_out", [{5, 6, 7}, {6, 7}, {5, 7}, {5, 6}])
def test_skip_gate_and_bias_may_be_left_out_and_series_may_be_views(left_out):
    u, delta, A, B, C, skip, gate, bias = (x.detach() for x in make_inputs(2, 9, 12, 4))
    u, gate = torch.cat((u, gate), dim=-1).chunk(2, dim=-1)  # slices, as the input projection gives them
    delta = delta.transpose(1, 2).contiguous().transpose(1, 2)
    B, C = torch.cat((B, C), dim=-1).chunk(2, dim=-1)
    given = [None if i in left_out else x.requires_grad_() for i, x in enumerate((u, delta, A, B, C, skip, gate, bias))]
    leaves = [x for x in given if x is not None]
    results = []
    for backend in ("triton", "reference"):
        y = selective_scan(*given, backend=backend)
        results.append((y.detach(), *torch.autograd.grad(y.sin().sum(), leaves)))
    assert all(relative(a, b) < BOUND for a, b in zip(*results, strict=True))


def test_bfloat16_series_are_scanned_in_float32():
    inputs = [x.detach().bfloat16() if x.dim() > 2 else x.detach() for x in make_inputs(1, 20, 9, 16)]
    results = []
    for backend in ("triton", "reference"):
        leaves = [x.clone().requires_grad_() for x in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            y = selective_scan(*leaves, backend=backend)
        assert y.dtype == torch.bfloat16
        weights = torch.linspace(-1, 1, y.numel()).view_as(y)
        results.append((y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)))
    for ours, exact in zip(*results, strict=True):
        assert ours.dtype == exact.dtype
        assert relative(ours, exact) < (BOUND if ours.dtype == torch.float32 else HALF)


def test_a_nan_is_not_hidden_and_double_backward_is_refused():
    inputs = make_inputs(1, 5, 3, 2)
    (gradient,) = torch.autograd.grad(selective_scan(*inputs, backend="triton").square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula|does not require grad"):
        gradient.sum().backward()
    inputs[1].data[0, 1, 1] = float("nan")
    assert selective_scan(*inputs, backend="triton")[0, 1:, 1].isnan().all()


def test_what_torch_compile_is_told_of_the_kernels_is_true():
    u, delta, A, B, C, skip, gate, bias = (x.detach() for x in make_inputs(1, 6, 5, 2))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(_scan, (u, delta, A, B, C, skip, gate, bias, True), test_utils=tests)
    _, starts = _scan(u, delta, A, B, C, skip, gate, bias, True)
    torch.library.opcheck(_scan_backward, (gate, u, delta, A, B, C, skip, gate, bias, starts), test_utils=tests)


@pytest.mark.parametrize(("sizes", "low", "high"), [((2, 1, 5), 0, 1), ((2, 37, 33), 0, 1), ((1, 19, 3), 0.999, 1)])
def test_linear_scan(sizes, low, high):
    inputs = linear_inputs(*sizes, low, high)
    found = linear_gradients(*inputs, torch.float32, "triton")
    exact = linear_gradients(*inputs, torch.float64, "reference")
    for got, wanted in zip(found, exact, strict=True):
        assert got.dtype == torch.float32
        assert float((got.double() - wanted).abs().max()) <= BOUND * max(float(wanted.abs().max()), 1.0)
    half = [x.bfloat16() for x in inputs]
    assert relative(linear_scan(*half, backend="triton"), linear_scan(*(x.double() for x in half), backend="reference")) < BOUND


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("sizes", [(2, 37, 5, 4), (1, 2, 33, 4), (2, 20, 32, 1), (1, 260, 70, 3), (1, 18, 40, 7)])
def test_causal_convolution(sizes, silu):  # 260 steps are two stretches
    batch, length, channels, taps = sizes
    torch.manual_seed(0)
    inputs = torch.randn(batch, length, 2 * channels), torch.randn(channels, taps), torch.randn(channels)
    results = []
    for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        x, weight, bias = (m.detach().to(dtype).requires_grad_() for m in inputs)
        y = causal_conv(x[..., channels:], weight, bias, silu, backend)
        weights = 1 + torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)  # sums that do not cancel
        results.append((y.detach(), *torch.autograd.grad((y * weights).sum(), (x, weight, bias))))
    assert all(relative(a, b) < BOUND for a, b in zip(*results, strict=True))
    half = [m.bfloat16() for m in inputs]
    y = causal_conv(half[0][..., channels:], *inputs[1:], silu, "triton")
    assert y.dtype == torch.bfloat16
    assert relative(y, causal_conv(half[0][..., channels:].float(), *inputs[1:], silu, "reference")) < HALF


@pytest.mark.parametrize("variant", [variant for variant, (name, _) in VARIANTS.items() if name in MIXERS])
def test_mixers_of_the_contract(variant):
    mixer, x = build(variant), torch.randn(1, 37, 8, requires_grad=True)
    results = []
    for backend in ("triton", "reference"):
        for module in mixer.modules():
            if isinstance(module, Mixer):
                module.kernels = backend
        y = mixer(x)
        results.append((y.detach(), *torch.autograd.grad(y.square().sum(), (x, *mixer.parameters()))))
    assert all(relative(a, b) < BOUND for a, b in zip(*results, strict=True))
