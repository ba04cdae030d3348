"""Cross-entropy's kernels against PyTorch's operation in float64."""

import pytest
import torch
import torch.nn.functional as F

from lolm.ops.cross_entropy import cross_entropy


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
