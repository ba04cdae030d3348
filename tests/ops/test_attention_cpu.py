"""The compiled attention against PyTorch's, in float64."""

import pytest
import torch

from lolm.mixers.attention import Attention

FORWARD_BOUND, GRADIENT_BOUND = 1e-6, 3e-6  # largest error over the largest value


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30))


def make(length=37, d_model=32, **options):
    torch.manual_seed(0)
    return Attention(d_model, **options), torch.randn(2, length, d_model)


def outputs(mixer, x):
    x = x.clone().requires_grad_()
    y = mixer(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).sin()
    return y.detach(), torch.autograd.grad((y * weights).sum(), [x, *mixer.parameters()])


@pytest.mark.parametrize("length", [1, 3, 16, 17, 64, 70])
@pytest.mark.parametrize(
    "options",
    [
        {"n_heads": 2},
        {"n_heads": 4, "kv_heads": 2, "window": 20},
        {"n_heads": 4, "kv_heads": 1, "head_width": 24, "rope": 0.5},
        {"n_heads": 2, "rope": 0.0, "window": 1},
        {"n_heads": 1, "head_width": 6, "window": 5},
    ],
)
def test_kernel_equals_attention_as_written_in_output_and_every_gradient(length, options):
    mixer, x = make(length, **options)
    mixer.kernels = "cpu"
    y, gradients = outputs(mixer, x)
    exact, exact_gradients = outputs(mixer.double(), x.double())
    assert relative(y, exact) < FORWARD_BOUND
    for gradient, wanted in zip(gradients, exact_gradients, strict=True):
        assert relative(gradient, wanted) < GRADIENT_BOUND


def test_large_scores_do_not_overflow():
    mixer, x = make(n_heads=2)
    y, gradients = outputs(mixer, 200 * x)
    exact, _ = outputs(mixer.double(), 200 * x.double())
    assert relative(y, exact) < 1e-3
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_kernel_runs_where_it_can_and_gives_way_where_it_cannot(monkeypatch):
    from lolm.ops.cpu import attention as attention_cpu

    calls = []
    original = attention_cpu.CausalAttentionCPU.apply
    monkeypatch.setattr(attention_cpu.CausalAttentionCPU, "apply", lambda *a: calls.append(1) or original(*a))
    mixer, x = make(n_heads=2, dropout=0.5)
    mixer(x)
    assert not calls  # probabilities are dropped in training
    mixer.eval()(x)
    assert len(calls) == 1
    mixer.kernels = "reference"
    mixer(x)
    mixer.kernels = "auto"
    mixer.double()(x.double())
    assert len(calls) == 1


def test_one_and_two_threads_give_the_same_bits():
    mixer, x = make(50, n_heads=4, kv_heads=2)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y, gradients = outputs(mixer, x)
        results.append((y, *gradients))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_is_not_a_number_is_not_hidden():
    mixer, x = make(n_heads=2)
    x[0, 5] = float("nan")
    y = mixer(x)
    assert y[0, 5:].isnan().all()
    assert torch.isfinite(y[0, :4]).all()  # blocks of four queries
    assert torch.isfinite(y[1]).all()
