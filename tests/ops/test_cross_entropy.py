"""Cross-entropy's kernels against PyTorch's operation in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lolm.ops.cross_entropy import cross_entropy, linear_cross_entropy


def make(rows: int, columns: int, scale: float = 5.0, ignored: int = -100):
    generator = torch.Generator().manual_seed(rows + columns)
    logits = scale * torch.randn(rows, columns, generator=generator)
    targets = torch.randint(columns, (rows,), generator=generator)
    targets[::5] = ignored
    return logits, targets


def value_and_gradient(loss, logits: torch.Tensor):
    leaf = logits.detach().requires_grad_()
    value = loss(leaf)
    return value.detach(), torch.autograd.grad(0.37 * value, leaf)[0]


@pytest.mark.parametrize("rows", [1, 7, 65])
@pytest.mark.parametrize("columns", [1, 5, 16, 33, 512])
@pytest.mark.parametrize(("scale", "ignored"), [(5.0, -100), (200.0, -1)])
def test_equals_pytorchs_in_value_and_gradient(rows, columns, scale, ignored):
    logits, targets = make(rows, columns, scale, ignored)
    found, gradient = value_and_gradient(lambda x: cross_entropy(x, targets, ignored, "cpu"), logits)
    exact, wanted = value_and_gradient(
        lambda x: F.cross_entropy(x, targets, ignore_index=ignored, reduction="sum"), logits.double()
    )
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6 * scale * rows)
    torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=2e-7 * scale)


def test_backends_agree_and_the_reference_is_pytorchs():
    logits, targets = make(40, 30)
    exact = F.cross_entropy(logits, targets, reduction="sum")
    assert cross_entropy(logits, targets, backend="reference") == exact
    torch.testing.assert_close(cross_entropy(logits, targets), exact)
    doubles = cross_entropy(logits.double(), targets)
    assert doubles.dtype == torch.float64
    assert torch.equal(doubles, F.cross_entropy(logits.double(), targets, reduction="sum"))


def test_logits_may_be_a_view_and_minus_infinity():
    logits, targets = make(12, 20)
    targets[:] = 3
    logits[:, 5:9] = -torch.inf
    wide = torch.cat((logits, logits), dim=1)[:, :20]
    assert not wide.is_contiguous()
    found, gradient = value_and_gradient(lambda x: cross_entropy(x, targets, backend="cpu"), wide)
    torch.testing.assert_close(found, F.cross_entropy(logits, targets, reduction="sum"))
    assert gradient[:, 5:9].abs().max() < 1e-30
    assert gradient.sum(dim=1).abs().max() < 1e-6


def test_what_is_not_a_number_is_not_hidden():
    for column in (0, 17, 19):
        logits, targets = make(6, 20)
        logits[2, column] = torch.nan
        assert cross_entropy(logits, targets, backend="cpu").isnan()


@pytest.mark.parametrize("wrong", [-1, 20, 10**9])
def test_a_target_that_is_no_column_is_an_error(wrong):
    logits, targets = make(6, 20)
    targets[3] = wrong
    with pytest.raises(IndexError, match="none of the 20 columns"):
        cross_entropy(logits, targets, backend="cpu")


def test_one_and_two_threads_give_the_same_bits():
    logits, targets = make(100, 50)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(value_and_gradient(lambda x: cross_entropy(x, targets, backend="cpu"), logits))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# ------------------------------------------------------------------------------------------ of a linear head


def head(rows: int = 150, columns: int = 61, width: int = 24):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(rows, width, generator=generator), torch.randn(columns, width, generator=generator) / width**0.5
    targets = torch.randint(columns, (rows,), generator=generator)
    targets[::5] = -100
    return x, weight, targets


def plain(x, weight, targets):
    return F.cross_entropy(x @ weight.T, targets, reduction="sum")


def of_head(loss, x, weight, targets):
    leaves = [m.detach().requires_grad_() for m in (x, weight)]
    value = loss(*leaves, targets)
    return value.detach(), *torch.autograd.grad(0.37 * value, leaves)


@pytest.mark.parametrize("block", [1000, 64, 7])
def test_head_equals_the_loss_of_all_logits_in_value_and_gradients(block):
    inputs = head()
    exact = of_head(plain, *(m.double() if m.is_floating_point() else m for m in inputs))
    for found, wanted in zip(of_head(lambda *m: linear_cross_entropy(*m, block=block), *inputs), exact, strict=True):
        assert float((found.double() - wanted).abs().max() / wanted.abs().max()) < 1e-6


@pytest.mark.parametrize("autocast", [False, True])
def test_head_of_half_inputs_accumulates_in_single_precision(autocast):
    x, weight, targets = head(rows=300)
    half = [x.bfloat16(), weight if autocast else weight.bfloat16()]  # the embedding stays in float32 under autocast
    exact = of_head(plain, x.bfloat16().double(), weight.bfloat16().double(), targets)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = of_head(lambda *m: linear_cross_entropy(*m, block=64), *half, targets)
    assert [m.dtype for m in found] == [torch.float32, torch.bfloat16, torch.float32 if autocast else torch.bfloat16]
    errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
    assert errors[0] < 1e-6
    assert max(errors[1:]) < 2**-8  # probabilities, and what is returned, are rounded once each


def test_head_that_nothing_is_trained_of_makes_no_gradient_and_one_part_may_be_frozen():
    x, weight, targets = head()
    whole = of_head(plain, x, weight, targets)
    torch.testing.assert_close(linear_cross_entropy(x, weight, targets), whole[0])
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(0.37 * linear_cross_entropy(x, weight, targets, block=32), x)
    torch.testing.assert_close(gradient, whole[1])


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, *(m.numel() for m in tree_leaves(out) if torch.is_tensor(m)), 0)
        return out


def test_head_makes_no_tensor_of_all_logits():
    x, weight, targets = head(rows=400, columns=50, width=8)
    for loss, largest in ((lambda *m: linear_cross_entropy(*m, block=64), 64 * 50), (plain, 400 * 50)):
        with Largest() as mode:
            of_head(loss, x, weight, targets)
        assert mode.elements == largest
