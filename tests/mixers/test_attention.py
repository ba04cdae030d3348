"""Attention against an explicit mask, with the rotation written as a complex product."""

import torch

from lolm.mixers.attention import Attention, rope_tables, rotate


def naive(mixer: Attention, x: torch.Tensor) -> torch.Tensor:
    batch, length, d = x.shape
    width = d // mixer.n_heads
    q, k, v = (x.double() @ mixer.qkv.weight.double().T).chunk(3, dim=-1)
    turns = torch.tensor([[t / 10_000 ** (2 * i / width) for i in range(width // 2)] for t in range(length)], dtype=torch.float64)
    out = []
    for head in range(mixer.n_heads):
        cut = slice(head * width, (head + 1) * width)

        def turned(y, cut=cut):
            pairs = torch.view_as_complex(y[..., cut].reshape(batch, length, width // 2, 2).contiguous())
            return torch.view_as_real(pairs * torch.exp(1j * turns)).flatten(-2)

        scores = turned(q) @ turned(k).transpose(1, 2) / width**0.5
        scores = scores + torch.full((length, length), float("-inf")).triu(1)
        out.append(scores.softmax(dim=-1) @ v[..., cut])
    return torch.cat(out, dim=-1) @ mixer.out.weight.double().T


def test_forward_and_gradients_equal_the_naive_form():
    torch.manual_seed(0)
    mixer = Attention(24, 3)
    x = torch.randn(2, 13, 24)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = mixer(ours), naive(mixer, theirs)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(y)
    gradients = torch.autograd.grad((y * weights).sum(), [ours, *mixer.parameters()])
    for a, b in zip(gradients, torch.autograd.grad((wanted * weights).sum(), [theirs, *mixer.parameters()]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_rotation_depends_on_distance_alone():
    x, y = torch.randn(8), torch.randn(8)
    cos, sin = rope_tables(50, 8, 10_000.0, torch.device("cpu"))

    def score(i, j):
        return rotate(x, cos[i], sin[i]) @ rotate(y, cos[j], sin[j])

    torch.testing.assert_close(score(3, 10), score(33, 40), rtol=1e-5, atol=1e-5)
    assert abs(score(3, 10) - score(3, 11)) > 1e-3


def test_tables_grow_with_the_sequence():
    torch.manual_seed(0)
    mixer = Attention(16, 2)
    short, long = torch.randn(1, 4, 16), torch.randn(1, 40, 16)
    mixer(short)
    y = mixer(long)
    torch.manual_seed(0)
    torch.testing.assert_close(y, Attention(16, 2)(long), rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    mixer = Attention(16, 2, dropout=0.5)
    x = torch.randn(1, 8, 16)
    assert not torch.equal(mixer(x), mixer(x))
    mixer.eval()
    assert torch.equal(mixer(x), mixer(x))
