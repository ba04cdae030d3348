"""SSD, windowed attention and the head in Triton against the references: forward and every gradient, within 1e-5."""

import interpreter  # noqa: F401  (before anything that defines a kernel)
import numpy as np
import pytest
import torch
import triton.language as tl
from test_contract import VARIANTS, build
from test_mamba2 import NAMES, check, make_inputs
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from lolm.mixers.base import Mixer
from lolm.ops.attention import window_attention
from lolm.ops.backends import chosen_kernels
from lolm.ops.cross_entropy import linear_cross_entropy
from lolm.ops.ssd import ssd, ssd_reference
from lolm.ops.triton.cross_entropy import nats_and_gradient

BOUND = 1e-5
HALF_BOUND = 1e-2  # of a norm: bfloat16 has 2⁻⁸, which the interpreter reaches by cutting off, a GPU to half of it by rounding


@pytest.fixture
def half_products(monkeypatch):
    """NumPy has no bfloat16: the interpreter keeps its bits in integers, and multiplies matrices of those."""

    def widened(x):
        bits = x.dtype.scalar == tl.bfloat16
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32) if bits else x

    dot = InterpreterBuilder.create_dot
    monkeypatch.setattr(InterpreterBuilder, "create_dot", lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest))


def results(op, inputs, seed=0):
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = op(*leaves)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).to(y.dtype)
    return y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)


def near(found, exact, bound, names):
    for name, ours, wanted in zip(names, found, exact, strict=True):
        assert float((ours.double() - wanted.double()).norm() / wanted.double().norm()) < bound, name


@pytest.mark.parametrize(
    ("length", "width", "groups", "states", "chunk"),
    [(1, 4, 1, 4, 64), (37, 4, 2, 4, 4), (70, 20, 1, 5, 64), (18, 3, 4, 17, 16)],  # one, three, two and two chunks
)
def test_ssd(length, width, groups, states, chunk):
    inputs = [x.float() for x in make_inputs(length, width=width, groups=groups, states=states)]
    check(lambda *m: ssd(*m, chunk=chunk, backend="triton"), inputs, torch.float32, BOUND)
    assert chosen_kernels("cpu", "triton")["ssd"] == "triton"


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1.01e-4), (5.0, 5.1), (1e-4, 5.0)])
def test_ssd_with_extreme_step_sizes(low, high):
    inputs = [x.float() for x in make_inputs(70, heads=2, low=low, high=high)]
    check(lambda *m: ssd(*m, backend="triton"), inputs, torch.float32, 1e-6)
    check(lambda *m: ssd_reference(*m)[0], inputs, torch.float32, 2e-6)  # in float32: the gradient of A to 1.1e-6


def test_ssd_reads_slices_in_place_and_repeats_its_bits():
    inputs = [x.detach().float() for x in make_inputs(20, groups=2)]
    joined = torch.cat([inputs[i].flatten(2) for i in (0, 3, 4)], dim=-1)
    slices = [m.unflatten(-1, (-1, w)) for m, w in zip(joined.split([12, 10, 10], dim=-1), (3, 5, 5), strict=True)]
    sliced = [slices[0], *inputs[1:3], *slices[1:], inputs[5]]
    found = [results(lambda *m: ssd(*m, backend="triton"), m) for m in (inputs, sliced)]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_ssd_in_bfloat16(half_products):
    halved = [x.detach().bfloat16() if i in (0, 3, 4) else x.detach().float() for i, x in enumerate(make_inputs(40, groups=2))]
    found = results(lambda *m: ssd(*m, backend="triton"), halved)
    assert [x.dtype for x in found[1:]] == [x.dtype for x in halved]
    near(found, results(lambda *m: ssd_reference(*m)[0], [x.double() for x in halved]), HALF_BOUND, ("y", *NAMES))


def masked(q, k, v, window):
    """With the T × T matrix of scores."""
    k, v = (m.repeat_interleave(q.shape[2] // m.shape[2], dim=2) for m in (k, v))
    distance = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
    scores = torch.einsum("bthp,bshp->bhts", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill((distance < 0) | (distance >= window), float("-inf"))
    return torch.einsum("bhts,bshp->bthp", scores.softmax(dim=-1), v)


def heads(length, query_heads, kv_heads, width):
    torch.manual_seed(0)
    return [torch.randn(2, length, count, width) for count in (query_heads, kv_heads, kv_heads)]


@pytest.mark.parametrize(
    ("length", "query_heads", "kv_heads", "width", "window"),
    [(12, 2, 2, 4, 4), (37, 2, 1, 6, 3), (70, 4, 2, 4, 66), (130, 1, 1, 20, 5)],  # the last two meet keys of two blocks
)
def test_window_attention(length, query_heads, kv_heads, width, window):
    inputs = heads(length, query_heads, kv_heads, width)
    found = results(lambda *m: window_attention(*m, window, backend="triton"), inputs)
    exact = results(lambda *m: masked(*m, window), [x.double() for x in inputs])
    for name, ours, wanted in zip("yqkv", found, exact, strict=True):
        assert float((ours - wanted).abs().max() / wanted.abs().max()) < BOUND, name
    assert chosen_kernels("cpu", "triton")["window_attention"] == "triton"


def test_a_window_of_one_is_the_value_itself():
    q, k, v = heads(20, 2, 1, 4)
    y, g_q, g_k, g_v = results(lambda *m: window_attention(*m, 1, backend="triton"), (q, k, v))
    torch.testing.assert_close(y, v.expand_as(y))
    assert max(g_q.abs().max(), g_k.abs().max()) < 1e-6


def test_window_attention_in_bfloat16_of_slices(half_products):
    q, k, v = (x.bfloat16() for x in heads(70, 2, 2, 4))
    q, k, v = torch.cat((q, k, v), dim=2).split(2, dim=2)
    found = results(lambda *m: window_attention(*m, 9, backend="triton"), (q, k, v))
    near(found, results(lambda *m: masked(*m, 9), [x.double() for x in (q, k, v)]), HALF_BOUND, "yqkv")


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 33), (5, 5000)])  # 5,000 are two blocks of columns
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_nats_and_gradient_of_a_block_of_logits(rows, columns, scale):
    torch.manual_seed(0)
    logits, targets = scale * torch.randn(rows, columns), torch.randint(columns, (rows,))
    targets[2::3] = -100
    exact = logits.double().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
    nats, gradient = nats_and_gradient(logits, targets, -100, torch.float32)
    torch.testing.assert_close(nats.double(), wanted.detach(), rtol=1e-6, atol=1e-6 * scale)
    torch.testing.assert_close(gradient.double(), torch.autograd.grad(wanted.sum(), exact)[0], rtol=0, atol=2e-7 * scale)


def test_the_head_says_where_a_number_or_a_target_is_none():
    x, weight, targets = torch.randn(9, 4), torch.randn(6, 4), torch.arange(9) % 6
    exact = torch.nn.functional.cross_entropy(x @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(linear_cross_entropy(x, weight, targets, block=4, backend="triton"), exact)
    for wrong in (6, -1):
        broken = targets.clone()
        broken[3] = wrong
        assert linear_cross_entropy(x, weight, broken, backend="triton").isnan()
    x[5, 2] = torch.nan
    assert linear_cross_entropy(x, weight, targets, backend="triton").isnan()


@pytest.mark.parametrize(  # hymba is among the scans
    "variant",
    [name for name, (mixer, options) in VARIANTS.items() if mixer == "mamba2" or ("window" in options and mixer != "hymba")],
)
def test_mixers_of_the_contract(variant):
    x = torch.randn(2, 37, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights, found = torch.linspace(-1, 1, x.numel()).view_as(x), []
    for backend in ("triton", "reference"):
        mixer = build(variant)
        for part in mixer.modules():
            if isinstance(part, Mixer):
                part.kernels = backend
        y = mixer(x)
        found.append((y.detach(), *torch.autograd.grad((y * weights).sum(), (x, *mixer.parameters()))))
    for ours, wanted in zip(*found, strict=True):
        assert float((ours - wanted).abs().max() / wanted.abs().max()) < BOUND


@pytest.mark.parametrize("name", ["ssd", "window_attention"])
def test_what_torch_compile_is_told_of_the_kernels_is_true(name):
    if name == "ssd":
        inputs = [x.detach().float() for x in make_inputs(5, heads=2)]
        arguments = (*inputs, 64)
    else:
        arguments = (*heads(5, 2, 1, 4), 2)
    operator = getattr(torch.ops.lolm, name).default
    arguments = tuple(x.requires_grad_() if torch.is_tensor(x) else x for x in arguments)
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))
