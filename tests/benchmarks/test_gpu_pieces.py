"""Kernels as `make gpu` holds them against the truth, with stand-ins for what a GPU or a library would compute."""

import gc
import sys
import weakref
from importlib import import_module
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from benchmarks import gpu
from lolm import LolmError
from lolm.ops import backends
from lolm.records import read
from pipeline.gpu import Made, note_of


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([0.0, 2e-5], "errors beyond the bound"),
        ([float("nan")], "errors beyond the bound"),
        (None, "1 x 70 x 8: RuntimeError: no such thing"),
    ],
)
def test_a_wrong_kernel_is_recorded_and_fails(tmp_path, monkeypatch, errors, said):
    def measured(*_: object) -> list[float]:
        if errors is None:
            raise RuntimeError("no such thing")
        return errors

    kernels = import_module("benchmarks.kernels")  # the package has a function of that name
    monkeypatch.setattr(kernels, "errors", measured)
    monkeypatch.setattr(gpu, "end_with_parent", lambda: None)
    monkeypatch.setattr("sys.argv", ["gpu", "--piece", "kernel/ssd", "--out", str(tmp_path), "--rehearse"])
    with pytest.raises(LolmError, match=f"kernel/ssd: Triton's kernel is not the reference: {said}"):
        gpu.run()
    assert not read(note_of(tmp_path, "kernel/ssd"), Made).values["triton"].get("exact")
    monkeypatch.setattr(kernels, "errors", lambda *_: [0.0, 1e-6])
    gpu.run()
    assert read(note_of(tmp_path, "kernel/ssd"), Made).values["triton"]["exact"]


def test_no_way_to_make_a_step_is_measured_beside_the_model_of_the_one_before(monkeypatch):
    made: list[weakref.ref] = []

    class Circular:
        def __init__(self, run, device) -> None:
            assert not any(before() for before in made)
            made.append(weakref.ref(self))
            self.trainer = self

        def warm_up(self) -> None:
            raise LolmError("refused")

    monkeypatch.setattr(gpu, "Stepper", Circular)
    gc.disable()
    try:
        assert [gpu._step(lambda: None, "cpu") for _ in range(2)] == [{"skipped": "refused"}] * 2
    finally:
        gc.enable()
    assert len(made) == 2


def late(function):
    """A kernel whose backward pass reads the gradient of the step before."""

    class Shifted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return g.roll(1, dims=1)

    return lambda *inputs: Shifted.apply(function(*inputs))


# What flash-linear-attention has under these names, computed as it is written there.
def chunk_hgrn(x, g):
    h, hs = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = g[:, t].exp() * h + x[:, t]
        hs.append(h)
    return torch.stack(hs, dim=1), None


def causal_conv1d(x, weight, bias, activation=None):
    y = F.conv1d(F.pad(x.mT.float(), (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=len(weight)).mT
    return (F.silu(y) if activation == "silu" else y).to(x.dtype), None


def chunk_simple_gla(q, k, v, g, scale):
    total = g.cumsum(dim=1)
    future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)[None, :, :, None]
    decay = (total[:, :, None] - total[:, None]).masked_fill(future, float("-inf")).exp()
    scores = torch.einsum("bthn,bshn->btsh", q.float(), k.float()) * scale * decay
    return torch.einsum("btsh,bshp->bthp", scores, v.float()).to(v.dtype), None


def parallel_attn(q, k, v, window_size):
    k, v = (m.repeat_interleave(q.shape[2] // m.shape[2], dim=2) for m in (k, v))
    band = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).tril().triu(1 - window_size)
    return F.scaled_dot_product_attention(*(m.transpose(1, 2) for m in (q, k, v)), attn_mask=band).transpose(1, 2)


def fused_linear_cross_entropy_loss(x, target, weight, ignore_index, reduction):
    return F.cross_entropy(x @ weight.T, target, ignore_index=ignore_index, reduction=reduction)


FLA = {
    "linear_scan": ("fla.ops.hgrn", chunk_hgrn),
    "causal_conv": ("fla.modules.convolution", causal_conv1d),
    "ssd": ("fla.ops.simple_gla", chunk_simple_gla),
    "window_attention": ("fla.ops.attn", parallel_attn),
    "linear_cross_entropy": ("fla.modules.fused_linear_cross_entropy", fused_linear_cross_entropy_loss),
}


@pytest.mark.parametrize("op", FLA)
def test_flash_linear_attention_is_compared_where_it_is_and_found_wrong_where_it_is(op, monkeypatch):
    kernels = import_module("benchmarks.kernels")
    monkeypatch.setattr(kernels, "WIDE", backends.WIDE | {"linear_cross_entropy": (300,), "ssd": (16, 8)})
    monkeypatch.setattr(kernels, "PROBED", (2, 20, 32))
    monkeypatch.setattr(kernels, "errors", lambda op, name, _, *rest: backends.errors(op, name, "cpu", *rest))
    assert kernels.every_kernel(op)[-1] == "fla"
    assert set(FLA) == set(backends.COMPARED)
    path, function = FLA[op]
    monkeypatch.setitem(sys.modules, "fla", None)
    assert "ModuleNotFoundError" in kernels.compared(op, "fla", "cuda")["skipped"]
    parts = path.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
    monkeypatch.setattr(sys.modules[path], function.__name__, function, raising=False)
    entry = kernels.compared(op, "fla", "cuda")
    assert entry["exact"], entry
    assert max(map(max, entry["float32"]["errors"].values())) < 1e-5
    if op != "linear_cross_entropy":  # whose output is one number
        wrong = late(lambda *m: getattr(import_module("lolm.ops.fla"), op)(*m))
        monkeypatch.setattr(backends, "_load", lambda *_: wrong)
        assert not kernels.compared(op, "fla", "cuda")["exact"]


def test_what_the_interpreter_runs_has_one_step_and_ends_of_blocks():
    kernels = import_module("benchmarks.kernels")
    assert set(kernels.CASES) == set(kernels.TRUTH) == set(backends.OPS)
    for op in backends.OPS:
        on_gpu, here = kernels.cases(op, "triton", "cuda"), kernels.cases(op, "triton", "cpu")
        assert {1, 4096} <= {length - (op == "linear_cross_entropy" and length > 4096) for _, length, *_ in on_gpu}
        assert 1 in {length for _, length, *_ in here}
        assert kernels.cases(op, "mamba-ssm", "cuda") == [(*backends.PROBED, *backends.WIDE.get(op, ()))]


@pytest.mark.parametrize(
    ("op", "flops"),
    [
        ("linear_scan", 0),
        ("linear_cross_entropy", 6 * 8192 * 1024 * 50257),
        ("window_attention", 12 * 4 * 16 * 64 * sum(min(t + 1, 682) for t in range(2048))),
        ("ssd", 3 * 8192 * (4 * 1024 * 128 + 128 * (1024 + 256))),
    ],
)
def test_products_are_a_share_of_the_peak_and_the_rest_of_the_bandwidth(op, flops, monkeypatch):
    kernels = import_module("benchmarks.kernels")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    entry = kernels.speed(op, [0.5, 0.5], [1.0, 1.0])
    assert entry["share_of_bandwidth"]["median"] == pytest.approx(entry["bytes"] / 2e9 / 0.5)
    assert entry.get("flops", 0) == flops
    assert ("share_of_peak" in entry) == (flops > 0)
    if flops:
        assert entry["share_of_peak"]["median"] == pytest.approx(flops / 0.5 / 989e12)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
        assert kernels.speed(op, [0.5], [1.0])["share_of_peak"] is None
