"""Every form of the linear scan against the recurrence as written, and that against numerical differentiation."""

import pytest
import torch

from lolm.config import ConfigError
from lolm.ops.linear_scan import linear_scan, linear_scan_reference, scan_by_doubling

FORMS = {  # dtype and backend that lead to each; a float64 scan is never the compiled one
    "compiled": (torch.float32, "auto", 1e-6),
    "doubling": (torch.float64, "auto", 1e-13),
}


def make_inputs(batch=2, length=37, channels=5, low=0.0, high=1.0, seed=0):
    torch.manual_seed(seed)
    a = torch.empty(batch, length, channels, dtype=torch.float64).uniform_(low, high)
    return a.float().double(), torch.randn(batch, length, channels).double()


def forward_and_gradients(a, b, dtype, backend):
    leaves = [x.to(dtype).requires_grad_() for x in (a, b)]
    h = linear_scan(*leaves, backend=backend)
    weights = torch.linspace(-1, 1, h.numel(), dtype=torch.float64).view_as(h).sin().to(h.dtype)
    return h.detach(), *torch.autograd.grad((h * weights).sum(), leaves)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 2, 3, 64, 101])
@pytest.mark.parametrize("channels", [1, 64, 130])
def test_forward_and_gradients_equal_the_recurrence(form, length, channels):
    dtype, backend, bound = FORMS[form]
    inputs = make_inputs(2, length, channels)
    exact = forward_and_gradients(*inputs, torch.float64, "reference")
    for got, wanted in zip(forward_and_gradients(*inputs, dtype, backend), exact, strict=True):
        assert got.dtype == dtype
        assert float((got.double() - wanted).abs().max()) <= bound * max(float(wanted.abs().max()), 1.0)


@pytest.mark.parametrize(("low", "high"), [(0.999, 1.0), (0.0, 1e-30), (-1.0, 1.0)])
@pytest.mark.parametrize("form", FORMS)
def test_extreme_factors(form, low, high):
    dtype, backend, bound = FORMS[form]
    inputs = make_inputs(1, 300, 3, low, high)
    exact = forward_and_gradients(*inputs, torch.float64, "reference")
    for got, wanted in zip(forward_and_gradients(*inputs, dtype, backend), exact, strict=True):
        assert torch.isfinite(got).all()
        assert float((got.double() - wanted).abs().max()) <= 4 * bound * max(float(wanted.abs().max()), 1.0)


def test_doubling_in_float32_is_as_exact_as_the_recurrence_in_float32():
    a, b = make_inputs(2, 500, 7, 0.9, 1.0)
    exact = linear_scan_reference(a, b)
    error = (scan_by_doubling(a.float(), b.float()) - exact).abs().max()
    sequential_error = (linear_scan_reference(a.float(), b.float()) - exact).abs().max()
    assert error <= 4 * sequential_error


def test_the_gradient_is_that_of_numerical_differentiation():
    inputs = [x.requires_grad_() for x in make_inputs(2, 6, 3)]
    assert torch.autograd.gradcheck(linear_scan, inputs)
    assert torch.autograd.gradcheck(linear_scan_reference, inputs)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_recurrence_by_hand(backend):
    a, b = torch.tensor([[[9.0], [0.5], [2.0]]]), torch.tensor([[[4.0], [1.0], [-1.0]]])
    assert linear_scan(a, b, backend).flatten().tolist() == [4.0, 0.5 * 4 + 1, 2 * 3 - 1]


def test_inputs_may_be_views():
    a, b = (x.float() for x in make_inputs(2, 35, 12))
    views = [a.transpose(1, 2).contiguous().transpose(1, 2), torch.cat((b, b + 1), dim=-1).chunk(2, dim=-1)[0]]
    assert not any(v.is_contiguous() for v in views)
    for got, wanted in zip(
        forward_and_gradients(*views, torch.float32, "cpu"), forward_and_gradients(a, b, torch.float32, "cpu"), strict=True
    ):
        assert torch.equal(got, wanted)


def test_one_and_two_threads_give_the_same_bits():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(forward_and_gradients(*make_inputs(3, 50, 150), torch.float32, "cpu"))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_only_factors_and_states_are_kept_for_the_gradient(form):
    dtype, backend, _ = FORMS[form]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        linear_scan(*(x.to(dtype).requires_grad_() for x in make_inputs(2, 100, 5)), backend=backend)
    assert sum(kept) == 2 * 2 * 100 * 5


def test_half_precision_is_scanned_in_float32():
    a, b = (x.bfloat16() for x in make_inputs(1, 200, 3, 0.99, 1.0))
    h = linear_scan(a, b)
    assert h.dtype == torch.float32
    torch.testing.assert_close(h.double(), linear_scan_reference(a.double(), b.double()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spoilt", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_a_nan_is_not_hidden(form, spoilt):
    dtype, backend, _ = FORMS[form]
    inputs = [x.to(dtype) for x in make_inputs(1, 5, 3)]
    inputs[spoilt][0, 2, 1] = float("nan")
    h = linear_scan(*inputs, backend=backend)
    assert h[0, 2:, 1].isnan().all()
    assert h.isnan().sum() == 3


def test_double_backward_is_refused():
    a, b = (x.float().requires_grad_() for x in make_inputs(1, 4, 3))
    (gradient,) = torch.autograd.grad(linear_scan(a, b).square().sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
        gradient.sum().backward()


def test_a_backend_that_cannot_run_is_an_error():
    with pytest.raises(ConfigError, match="on the CPU"):
        linear_scan(*make_inputs(), backend="cuda")
