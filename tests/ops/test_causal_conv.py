"""The causal convolution: kernel and shifted multiply-adds against PyTorch's grouped convolution."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lolm.ops import backends, libraries
from lolm.ops.causal_conv import causal_conv


def grouped(x_BTI, weight_IK, bias_I, silu):
    kernel = weight_IK.shape[1]
    y = F.conv1d(F.pad(x_BTI.transpose(1, 2), (kernel - 1, 0)), weight_IK[:, None], bias_I, groups=len(bias_I)).transpose(1, 2)
    return F.silu(y) if silu else y


def make(batch, length, channels, kernel):
    torch.manual_seed(0)
    return [torch.randn(batch, length, channels), torch.randn(channels, kernel), torch.randn(channels)]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("sizes", [(2, 37, 5, 4), (1, 2, 33, 4), (3, 20, 32, 1), (2, 70, 40, 7)])
def test_equals_a_grouped_convolution_in_output_and_every_gradient(sizes, silu, backend):
    inputs = [x.requires_grad_() for x in make(*sizes)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    y, wanted = causal_conv(*inputs, silu, backend), grouped(*exact, silu)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 1, y.numel()).view_as(y)
    gradients = torch.autograd.grad((y * weights).sum(), inputs)
    for gradient, right in zip(gradients, torch.autograd.grad((wanted * weights).sum(), exact), strict=True):
        torch.testing.assert_close(gradient.double(), right, rtol=1e-5, atol=1e-4)


def test_the_input_may_be_a_slice():
    x, weight, bias = make(2, 9, 24, 4)
    part = x[..., 4:20]
    torch.testing.assert_close(
        causal_conv(part, weight[4:20], bias[4:20], True), causal_conv(part.contiguous(), weight[4:20], bias[4:20], True)
    )


def test_other_precisions_take_the_shifted_sums():
    x, weight, bias = (m.double() for m in make(1, 6, 3, 4))
    assert causal_conv(x, weight, bias).dtype == torch.float64


def test_one_and_two_threads_give_the_same_bits():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        inputs = [x.requires_grad_() for x in make(3, 50, 70, 4)]
        y = causal_conv(*inputs, True, "cpu")
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("taps", "width", "taken"), [(4, 16, True), (2, 210, True), (5, 16, False), (1, 16, False)])
def test_the_library_gets_what_it_takes(monkeypatch, taps, width, taken):
    """Its own conditions, as causal_conv1d.cpp has them: two to four taps; with channels last, strides of eight."""
    calls = []

    def library(x_BIT, weight_IK, bias_I, activation):
        assert weight_IK.shape[1] in (2, 3, 4)
        assert x_BIT.stride(2) == 1 or not (x_BIT.stride(0) % 8 or x_BIT.stride(2) % 8)
        calls.append(activation)
        return causal_conv(x_BIT.transpose(1, 2), weight_IK, bias_I, activation == "silu", "reference").transpose(1, 2)

    monkeypatch.setitem(sys.modules, "causal_conv1d", SimpleNamespace(causal_conv1d_fn=library))
    monkeypatch.setitem(backends._chosen, ("causal_conv", "cpu", "auto"), ("causal-conv1d", libraries.causal_conv))
    x, weight, bias = make(2, 9, width, taps)
    for given in (x, torch.cat((x, x), dim=-1)[..., :width]):
        torch.testing.assert_close(causal_conv(given, weight, bias, True), causal_conv(given, weight, bias, True, "reference"))
    assert calls == ["silu"] * 2 * taken
