"""The scan's compiled kernel against the recurrence as written, and the recurrence against numerical differentiation."""

import pytest
import torch

from lolm.config import ConfigError
from lolm.ops.backends import choose_backend
from lolm.ops.scan import last_state, selective_scan, selective_scan_reference
from lolm.ops.ssd import last_ssd_state

NAMES = ("u", "delta", "A", "B", "C", "skip", "gate", "delta_bias")
FORWARD_BOUND = 2e-6  # largest error over the largest value: a few units in the last place of float32, summed over T
GRADIENT_BOUND = 1e-5


def make_inputs(batch=2, length=37, channels=5, states=3, low=1e-3, high=1.0, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    step = torch.empty(batch, length, channels).uniform_(torch.tensor(low).log(), torch.tensor(high).log()).exp()
    bias = torch.randn(channels)
    delta = step + torch.log(-torch.expm1(-step)) - bias  # inverse of softplus
    A = -torch.arange(1, states + 1).float().repeat(channels, 1) * torch.empty(channels, states).uniform_(0.5, 1.5)
    B, C = torch.randn(batch, length, states), torch.randn(batch, length, states)
    u, gate = torch.randn(batch, length, channels), torch.randn(batch, length, channels)
    return [x.to(dtype).requires_grad_() for x in (u, delta, A, B, C, torch.randn(channels), gate, bias)]


def forward_and_gradients(inputs, backend, dtype=torch.float32):
    leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
    y = selective_scan(*leaves, backend=backend)
    weights = torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y).sin()
    return y.detach(), torch.autograd.grad((y * weights).sum(), leaves)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))


def check(inputs):
    y, gradients = forward_and_gradients(inputs, "cpu")
    exact, exact_gradients = forward_and_gradients(inputs, "reference", torch.float64)
    assert relative(y, exact) < FORWARD_BOUND
    for name, gradient, wanted in zip(NAMES, gradients, exact_gradients, strict=True):
        assert torch.isfinite(gradient).all(), name
        assert relative(gradient, wanted) < GRADIENT_BOUND, name


@pytest.mark.parametrize("length", [1, 15, 16, 17, 70])
@pytest.mark.parametrize(("channels", "states"), [(5, 1), (33, 8), (64, 16), (130, 24)])
def test_kernel_equals_the_recurrence_in_forward_and_every_gradient(length, channels, states):
    check(make_inputs(2, length, channels, states))


def test_skip_gate_and_bias_may_be_left_out():
    u, delta, A, B, C, skip, gate, bias = (x.detach() for x in make_inputs())
    needed = (u, delta, A, B, C)
    for arguments in (needed, (*needed, skip), (*needed, None, gate), (*needed, None, None, bias)):
        exact = selective_scan(*(x if x is None else x.double() for x in arguments))
        assert relative(selective_scan(*arguments, backend="cpu"), exact) < FORWARD_BOUND


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1.01e-4), (50.0, 51.0), (1e-4, 50.0)])
def test_extreme_step_sizes(low, high):
    check(make_inputs(1, 67, 9, 16, low, high))


def test_inputs_may_be_views():
    u, delta, A, B, C, skip, gate, bias = make_inputs(2, 35, 12, 4)
    wide = torch.cat((u, gate), dim=-1).detach()
    views = [
        wide.chunk(2, dim=-1)[0],  # a slice, as the input projection gives
        delta.detach().transpose(1, 2).contiguous().transpose(1, 2),  # a transpose
        A.detach().t().contiguous().t(),
        torch.stack((B, C), dim=-1)[..., 0].detach(),
        C.detach().expand(2, -1, -1),
        skip.detach().repeat_interleave(2)[::2],
        wide.chunk(2, dim=-1)[1],
        bias.detach().repeat_interleave(2)[::2],
    ]
    assert not all(v.is_contiguous() for v in views)
    for view in views:
        view.requires_grad_()
    y = selective_scan(*views, backend="cpu")
    gradients = torch.autograd.grad(y.square().sum(), views)
    again = selective_scan(*(plain := [v.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for v in views]))
    assert torch.equal(y, again)
    for a, b in zip(gradients, torch.autograd.grad(again.square().sum(), plain), strict=True):
        assert torch.equal(a, b)


def test_one_and_two_threads_give_the_same_bits():
    inputs = make_inputs(3, 50, 70, 8)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y, gradients = forward_and_gradients(inputs, "cpu")
        results.append((y, *gradients))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_recurrence_has_the_derivatives_of_numerical_differentiation():
    inputs = make_inputs(1, 4, 2, 3, 0.1, 1.0, torch.float64)
    assert torch.autograd.gradcheck(lambda *x: selective_scan_reference(*x)[0], inputs)


def test_the_recurrence_by_hand():
    u, step = torch.tensor([[[2.0], [3.0]]]), torch.tensor([[[0.5], [1.0]]])
    delta = step.expm1().log()  # inverse of softplus
    A, B, C = torch.tensor([[-1.0]]), torch.tensor([[[1.0], [4.0]]]), torch.tensor([[[3.0], [0.5]]])
    y, state = selective_scan_reference(u, delta, A, B, C, torch.tensor([10.0]))
    s1 = 0.5 * 2 * 1  # Δ u B from a zero state
    s2 = 0.36787944 * s1 + 1 * 3 * 4
    torch.testing.assert_close(y.flatten(), torch.tensor([s1 * 3 + 20, s2 * 0.5 + 30]))
    torch.testing.assert_close(state.flatten(), torch.tensor([s2]))
    gated, _ = selective_scan_reference(u, delta, A, B, C, torch.tensor([10.0]), torch.tensor([[[0.0], [1.0]]]))
    torch.testing.assert_close(gated.flatten(), torch.tensor([0.0, (s2 * 0.5 + 30) * 0.73105858]))


@pytest.mark.parametrize("spoilt", range(len(NAMES)))
def test_a_nan_is_not_hidden(spoilt):
    inputs = [x.detach().clone() for x in make_inputs(1, 5, 3, 2)]
    inputs[spoilt].view(-1)[0] = float("nan")
    assert selective_scan(*inputs, backend="cpu").isnan().any()


def test_bfloat16_input_gives_bfloat16_from_a_float32_recurrence():
    inputs = [x.detach().bfloat16() if i != 2 else x.detach() for i, x in enumerate(make_inputs())]
    y = selective_scan(*inputs, backend="cpu")
    assert y.dtype == torch.bfloat16
    wanted = selective_scan_reference(*(x.double() for x in inputs))[0]
    assert relative(y, wanted) < 2**-8


def test_double_backward_is_refused():
    inputs = make_inputs(1, 4, 3, 2)
    (gradient,) = torch.autograd.grad(selective_scan(*inputs, backend="cpu").square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("device", "wanted", "message"),
    [
        ("cpu", "fast", "not one of"),
        ("cpu", "cuda", "on the CPU"),
        ("cpu", "triton", "on the CPU"),
        ("cuda", "cpu", "needs a model on the CPU"),
    ],
)
def test_a_backend_that_cannot_run_is_an_error(device, wanted, message):
    with pytest.raises(ConfigError, match=message):
        choose_backend(device, wanted)


def test_auto_chooses_the_compiled_kernel_on_a_cpu():
    assert choose_backend("cpu") == "cpu"
    assert choose_backend("cpu", "reference") == "reference"
    assert choose_backend("meta") == "reference"


@pytest.mark.parametrize("large", [30.0, 300.0, 3000.0])
def test_a_large_step_takes_no_digits_from_the_state_behind_it(large):
    """Of later steps no sum is found by subtracting the large one again."""
    generator = torch.Generator().manual_seed(0)
    u, B = torch.randn(1, 64, 4, generator=generator), torch.randn(1, 64, 3, generator=generator)
    delta, A = torch.full((1, 64, 4), 0.01), -torch.tensor([1.0, 4.0, 16.0]).expand(4, 3)
    delta[:, 40] = large
    raw, bias = delta.double().expm1().log().nan_to_num(posinf=large).where(delta < 20, delta.double()), torch.zeros(4)
    exact = last_state(u.double(), raw, A.double(), B.double(), bias.double())
    torch.testing.assert_close(last_state(u, raw.float(), A, B, bias).double(), exact, rtol=3e-6, atol=1e-7)
    x, heads = u[..., None], (delta, A[:, 0], B[:, :, None])
    exact = last_ssd_state(x.double(), *(m.double() for m in heads))
    torch.testing.assert_close(last_ssd_state(x, *heads).double(), exact, rtol=3e-6, atol=1e-7)
