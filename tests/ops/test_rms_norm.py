"""RMSNorm in compiled kernels against PyTorch's operations in float64, and the module against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lolm.config import ConfigError
from lolm.ops.rms_norm import RMSNorm, rms_norm

EPSILON = 1e-5


def as_written(x, weight, gate, groups):
    v = x if gate is None else x * gate * torch.sigmoid(gate)
    grouped = v.unflatten(-1, (groups, -1))
    return (grouped / (grouped.square().mean(-1, keepdim=True) + EPSILON).sqrt()).flatten(-2) * weight


def outputs(norm, leaves):
    leaves = [x.detach().requires_grad_() for x in leaves]
    y = norm(*leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).sin().to(y.dtype)
    return y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)


def make(shape, gated, scale=1.0):
    torch.manual_seed(0)
    x, weight, gate = torch.randn(shape) * scale, torch.rand(shape[-1]) + 0.5, torch.randn(shape) * 3
    return [x, weight, gate] if gated else [x, weight]


def check(norm, leaves, groups=1, bound=2e-6, floor=0.0):
    def exact(x, weight, gate=None):
        return as_written(x, weight, gate, groups)

    wanted = outputs(exact, [x.double() for x in leaves])
    for ours, theirs in zip(outputs(norm, leaves), wanted, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours.double() - theirs).abs().max()) <= bound * max(float(theirs.abs().max()), floor)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 5, 32), 1), ((3, 70), 1), ((1, 1, 2), 1), ((2, 67, 9), 1), ((4, 33, 40), 2), ((2, 3, 21), 7), ((130, 16), 1)],
)
def test_output_and_every_gradient(shape, groups, gated, backend):
    # The gradient of a short row is what is left when nearly equal terms are taken from each other.
    check(lambda *m: rms_norm(*m[:2], EPSILON, *m[2:], groups=groups, backend=backend), make(shape, gated), groups, floor=0.1)


@pytest.mark.parametrize("scale", [1e-4, 1e4])  # where ε decides, and where it does not
def test_small_and_large_inputs(scale):
    check(lambda *m: rms_norm(*m, EPSILON, backend="cpu"), make((3, 40, 24), False, scale))


def test_slices_are_read_in_place_and_threads_change_no_bit():
    x, weight, gate = make((3, 150, 20), True)
    joined = torch.cat((gate, x), dim=-1)

    def norm(x, weight, gate):
        return rms_norm(x, weight, EPSILON, gate, 2, "cpu")

    def of_slices(joined, weight):
        return norm(joined[..., 20:], weight, joined[..., :20])

    y, g_x, g_weight, g_gate = outputs(norm, (x, weight, gate))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found, g_joined, g_again = outputs(of_slices, (joined, weight))
        assert torch.equal(found, y)
        assert torch.equal(g_again, g_weight)
        assert torch.equal(g_joined, torch.cat((g_gate, g_x), dim=-1))


def test_one_row_without_a_batch():
    x, weight = make((24,), False)
    torch.testing.assert_close(rms_norm(x, weight, EPSILON, backend="cpu"), F.rms_norm(x, (24,), weight, EPSILON))


def test_module_has_pytorchs_parameters_and_values():
    ours, theirs = RMSNorm(48, eps=EPSILON), nn.RMSNorm(48, eps=EPSILON)
    theirs.weight.data.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 7, 48)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x.bfloat16()).dtype == torch.bfloat16  # in one dtype, as the fused kernel wants it
        torch.testing.assert_close(ours(x.bfloat16()), theirs(x.bfloat16()), rtol=2**-7, atol=0)
    torch.testing.assert_close(ours.double()(x.double()), theirs.double()(x.double()), rtol=1e-12, atol=0)


def test_backend_that_cannot_run_is_refused():
    with pytest.raises(ConfigError, match="training.kernels"):
        rms_norm(torch.ones(2, 4), torch.ones(4), EPSILON, backend="cuda")
