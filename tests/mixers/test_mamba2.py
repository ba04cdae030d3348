"""Mamba-2 against the implementation in the transformers package, and its chunked scan against the recurrence as written."""

import math
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from lolm.config import ConfigError
from lolm.mixers.base import decays, keeps_init
from lolm.mixers.mamba2 import Mamba2
from lolm.ops import libraries
from lolm.ops import ssd as ssd_module
from lolm.ops.ssd import ssd, ssd_chunked, ssd_reference

D, N = 24, 6
PAIRS = {
    "A_log": "A_log", "skip": "D", "dt_bias": "dt_bias", "conv_weight": "conv1d.weight", "conv_bias": "conv1d.bias",
    "in_proj.weight": "in_proj.weight", "norm_weight": "norm.weight", "out_proj.weight": "out_proj.weight",
}  # fmt: skip


def oracle_of(mixer: Mamba2):
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=D, state_size=N, conv_kernel=4, expand=2, head_dim=2 * D // mixer.heads, num_heads=mixer.heads,
        n_groups=mixer.groups, chunk_size=16, num_hidden_layers=1, layer_norm_epsilon=1e-5,
    )  # fmt: skip
    oracle = Mamba2Mixer(config, layer_idx=0).eval()
    ours = dict(mixer.named_parameters())
    shapes = {name: p.shape for name, p in oracle.named_parameters()}
    oracle.load_state_dict({theirs: ours[name].detach().reshape(shapes[theirs]) for name, theirs in PAIRS.items()})
    return oracle


@pytest.mark.parametrize("length", [1, 3, 45])
@pytest.mark.parametrize(("kernels", "groups"), [("cpu", 1), ("cpu", 2), ("reference", 1), ("reference", 2)])
def test_forward_and_every_gradient_equal_transformers(length, kernels, groups):
    torch.manual_seed(0)
    mixer = Mamba2(D, d_state=N, head_width=8, groups=groups, chunk=8)
    mixer.kernels = kernels
    with torch.no_grad():
        mixer.skip.uniform_(0.5, 1.5)
        mixer.norm_weight.uniform_(0.5, 1.5)
        mixer.dt_bias.add_(2.0)
    oracle = oracle_of(mixer)
    x = torch.randn(2, length, D)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = mixer(ours), oracle(theirs)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    parameters = dict(oracle.named_parameters())
    assert set(PAIRS) == {name for name, _ in mixer.named_parameters()}
    for name, parameter in mixer.named_parameters():
        wanted = parameters[PAIRS[name]].grad.view_as(parameter)
        scale = float(wanted.abs().max())
        assert scale > 0 or (name == "A_log" and length == 1), name  # one step does not decay
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-5 * scale, msg=name)


NAMES = ("x", "delta", "A", "B", "C", "skip")


def make_inputs(length=37, heads=4, width=3, groups=1, states=5, low=1e-3, high=1.0, dtype=torch.float64):
    torch.manual_seed(0)
    delta = torch.empty(2, length, heads).uniform_(math.log(low), math.log(high)).exp()
    B, C = torch.randn(2, length, groups, states), torch.randn(2, length, groups, states)
    inputs = (torch.randn(2, length, heads, width), delta, -torch.empty(heads).uniform_(1, 16), B, C, torch.randn(heads))
    return [x.to(dtype).requires_grad_() for x in inputs]


def forward_and_gradients(scan, inputs, dtype):
    leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
    y = scan(*leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).sin().to(dtype)
    return y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)


def check(scan, inputs, dtype, bound, bound_of_A=None):
    exact = forward_and_gradients(lambda *m: ssd_reference(*m)[0], inputs, torch.float64)
    got = forward_and_gradients(scan, inputs, dtype)
    for name, ours, wanted in zip(("y", *NAMES), got, exact, strict=True):
        assert torch.isfinite(ours).all(), name
        most = bound_of_A if name == "A" and bound_of_A else bound
        assert float((ours.double() - wanted).abs().max()) <= most * max(float(wanted.abs().max()), 1e-3), name


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 40])
@pytest.mark.parametrize(("chunk", "groups"), [(8, 1), (8, 2), (1, 1), (64, 4)])
def test_chunked_form_equals_the_recurrence_in_forward_and_every_gradient(length, chunk, groups):
    check(lambda *m: ssd_chunked(*m, chunk=chunk), make_inputs(length, groups=groups), torch.float64, 1e-12)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize(("width", "groups", "states"), [(3, 1, 5), (4, 2, 16), (9, 4, 17), (1, 2, 40)])
def test_compiled_recurrence_equals_the_one_as_written_in_forward_and_every_gradient(length, width, groups, states):
    inputs = [x.float() for x in make_inputs(length, width=width, groups=groups, states=states)]
    check(lambda *m: ssd(*m, backend="cpu"), inputs, torch.float32, 3e-6)


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1.01e-4), (5.0, 5.1), (1e-4, 5.0)])
def test_compiled_recurrence_with_extreme_step_sizes(low, high):
    check(lambda *m: ssd(*m, backend="cpu"), [x.float() for x in make_inputs(150, low=low, high=high)], torch.float32, 5e-6)


def test_compiled_recurrence_reads_slices_in_place_and_does_not_depend_on_threads():
    inputs = [x.detach().float() for x in make_inputs(50, groups=2)]
    joined = torch.cat([inputs[i].flatten(2) for i in (0, 3, 4)], dim=-1)
    slices = [m.unflatten(-1, (-1, w)) for m, w in zip(joined.split([12, 10, 10], dim=-1), (3, 5, 5), strict=True)]
    sliced = [slices[0], *inputs[1:3], *slices[1:], inputs[5]]
    found = []
    for threads, arguments in ((1, inputs), (1, sliced), (2, sliced)):
        torch.set_num_threads(threads)
        found.append(forward_and_gradients(lambda *m: ssd(*m, backend="cpu"), arguments, torch.float32))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1.01e-4), (5.0, 5.1), (1e-4, 5.0)])
def test_extreme_step_sizes_in_single_precision(low, high):
    for length, heads in ((70, 2), (150, 4)):
        inputs = [x.float() for x in make_inputs(length, heads, low=low, high=high)]
        # The gradient of A sums differences of what PyTorch has summed in float32: at 70 steps 9e-5 of the largest is left.
        check(lambda *m: ssd_chunked(*m, chunk=64), inputs, torch.float32, 1e-6, bound_of_A=2e-4)


def test_the_recurrence_has_the_derivatives_of_numerical_differentiation():
    inputs = make_inputs(4, heads=2, width=2, states=2, low=0.1)
    assert torch.autograd.gradcheck(lambda *m: ssd_reference(*m)[0], inputs)


def test_the_recurrence_by_hand():
    x, delta = torch.tensor([2.0, 3.0]).view(1, 2, 1, 1), torch.tensor([0.5, 1.0]).view(1, 2, 1)
    B, C = torch.tensor([1.0, 4.0]).view(1, 2, 1, 1), torch.tensor([3.0, 0.5]).view(1, 2, 1, 1)
    y, state = ssd_reference(x, delta, torch.tensor([-1.0]), B, C, torch.tensor([10.0]))
    s1 = 0.5 * 2 * 1  # Δ x B from a zero state
    s2 = 0.36787944 * s1 + 1 * 3 * 4
    torch.testing.assert_close(y.flatten(), torch.tensor([s1 * 3 + 20, s2 * 0.5 + 30]))
    torch.testing.assert_close(state.flatten(), torch.tensor([s2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled; in chunks
def test_memory_kept_for_the_gradient_is_linear_in_time(dtype):
    def kept(length: int) -> int:
        numbers = []
        inputs = make_inputs(length, dtype=dtype)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: numbers.append(x.numel()) or x, lambda x: x):
            ssd(*inputs, chunk=8)
        return sum(numbers)

    assert kept(640) / kept(320) == pytest.approx(2, rel=0.02)


def test_autocast_does_not_touch_decays_and_states():
    inputs = make_inputs(100, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ssd(*inputs, chunk=16)
    assert torch.equal(y, ssd(*inputs, chunk=16))
    half = [x.detach().bfloat16() if i in (0, 3, 4) else x.detach() for i, x in enumerate(inputs)]
    y = ssd(*half, chunk=16)
    assert y.dtype == torch.bfloat16
    exact = ssd_reference(*(x.double() for x in half))[0]
    assert float((y.double() - exact).abs().max() / exact.abs().max()) < 2**-8


def test_chunks_with_products_in_half_precision():
    """What runs on a GPU without Triton: decays, states on their way and sums stay in float32."""
    inputs = [x.detach() for x in make_inputs(100, groups=2, dtype=torch.float32)]
    half = [x.bfloat16() if i in (0, 3, 4) else x for i, x in enumerate(inputs)]
    exact = forward_and_gradients(lambda *m: ssd_reference(*m)[0], [x.double() for x in half], torch.float64)
    leaves = [x.clone().requires_grad_() for x in half]
    y = ssd_chunked(*leaves, 16, torch.bfloat16)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).sin()
    found = y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)
    assert [x.dtype for x in found[1:]] == [x.dtype for x in half]
    for name, ours, wanted in zip(("y", *NAMES), found, exact, strict=True):
        assert float((ours.double() - wanted).norm() / wanted.norm()) < 1e-2, name


def test_block_under_autocast_is_near_the_one_in_single_precision():
    torch.manual_seed(0)
    mixer, x = Mamba2(D, d_state=N, head_width=8), torch.randn(1, 200, D)
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)
    exact = mixer(x)
    assert float(((y.float() - exact).norm() / exact.norm()).detach()) < 0.02


def test_kernel_of_mamba_ssm_is_called_by_its_signature(monkeypatch):
    """A stand-in with the package's parameters, for machines that cannot run the kernel."""

    def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None):
        assert chunk_size == 16
        assert {t.dtype for t in (dt, A, D)} == {torch.float32}
        assert B.dtype == C.dtype == x.dtype
        return ssd_reference(x, dt, A, B, C, D)[0]

    module = ModuleType("mamba_ssm.ops.triton.ssd_combined")
    module.mamba_chunk_scan_combined = mamba_chunk_scan_combined
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(ssd_module, "kernel_of", lambda op, device, backend: ("mamba-ssm", libraries.ssd))
    inputs = make_inputs(groups=2, dtype=torch.float32)
    torch.testing.assert_close(ssd(*inputs, chunk=16), ssd(*inputs, chunk=16, backend="reference"), rtol=0, atol=0)


def test_values_after_construction():
    torch.manual_seed(0)
    mixer = Mamba2(256, head_width=1)  # 512 heads, to see the distributions
    A = mixer.A_log.exp().detach()
    assert 1 <= A.min() < 1.2
    assert 15.8 < A.max() <= 16.001
    assert float(A.mean()) == pytest.approx(8.5, abs=0.6)  # uniform
    step = F.softplus(mixer.dt_bias.detach())
    assert step.min() >= 1e-3 * 0.999
    assert step.max() <= 1e-1 * 1.001
    assert float(step.log().mean()) == pytest.approx((math.log(1e-3) + math.log(1e-1)) / 2, abs=0.15)  # log-uniform
    assert torch.equal(mixer.skip, torch.ones(512))
    assert torch.equal(mixer.norm_weight, torch.ones(512))
    assert 0.49 < mixer.conv_weight.abs().max() <= 0.5
    assert float(mixer.in_proj.weight.detach().std()) == pytest.approx(1 / 16 / math.sqrt(3), rel=0.02)
    assert mixer.in_proj.bias is None
    assert mixer.out_proj.bias is None
    assert all(keeps_init(m, name) for m in mixer.modules() for name, _ in m.named_parameters(recurse=False))
    decayed = {
        name
        for name, p in mixer.named_parameters()
        if decays(mixer.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
    }
    assert decayed == {"in_proj.weight", "out_proj.weight"}


@pytest.mark.parametrize(
    ("d_model", "d_state", "size"),
    [(128, 128, 8.20), (256, 128, 7.10), (512, 128, 6.56), (128, 64, 7.16), (256, 64, 6.59), (1024, 64, 6.17)],
)
def test_published_block_sizes_in_units_of_the_squared_width(d_model, d_state, size):
    with torch.device("meta"):
        mixer = Mamba2(d_model, d_state=d_state)
    assert mixer.num_params() / d_model**2 == pytest.approx(size, abs=0.006)


def test_flops_do_not_depend_on_the_chunk():
    assert Mamba2(64, chunk=16).flops_per_token(100) == Mamba2(64, chunk=256).flops_per_token(7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_width": 32}, "head_width 32 must divide the inner width 48"),
        ({"head_width": 8, "groups": 4}, "groups 4 must divide the 6 heads"),
        ({"head_width": 8, "chunk": 0}, "chunk must be"),
        ({"head_width": 8, "A_min": 0.0}, "A_min 0.0"),
    ],
)
def test_options_that_clash_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Mamba2(D, **options)
