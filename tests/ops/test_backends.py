"""What computes an op is found by running it: broken, wrong, slow and missing kernels, with stand-ins for those of GPUs."""

import sys
from types import ModuleType

import pytest
import torch

from lolm.config import ConfigError
from lolm.ops import backends
from lolm.ops.backends import chosen_kernels, kernel_of, refuse_loop
from lolm.ops.linear_scan import linear_scan, linear_scan_reference
from lolm.ops.scan import selective_scan, selective_scan_reference


def exact(*inputs):
    return selective_scan_reference(*inputs)[0]


def cut_off(*inputs):
    return exact(*(x.detach() for x in inputs)) + 0 * sum(x.sum() for x in inputs)  # right forward, no gradient


def broken(*inputs):
    raise AttributeError("module 'selective_scan_cuda' has no attribute 'fwd'")


@pytest.fixture
def kernels(monkeypatch):
    """Puts stand-ins with the seconds they take in the place of the selective scan's kernels, and takes the CPU for a GPU."""
    monkeypatch.setattr(backends, "_chosen", {})
    monkeypatch.setattr(backends, "PROBED", (1, 9, 5))
    monkeypatch.setattr(backends, "choose_backend", lambda device_type, wanted="auto": {"auto": "cuda"}.get(wanted, wanted))
    seconds = {}
    monkeypatch.setattr(backends, "seconds", lambda op, device_type, name: seconds[name])

    def install(**found):
        backends.failure.cache_clear()
        table = {}
        for name, (function, took) in found.items():
            module = ModuleType(f"kernels_{name}")
            module.selective_scan = function
            monkeypatch.setitem(sys.modules, module.__name__, module)
            table[name], seconds[name] = module.__name__, took
        monkeypatch.setitem(backends.KERNELS, "selective_scan", table)

    yield install
    backends.failure.cache_clear()


@pytest.mark.parametrize(
    ("triton", "library", "wanted", "name"),
    [
        ((exact, 2), (exact, 1), "auto", "library"),
        ((exact, 1), (exact, 2), "auto", "triton"),
        ((exact, 2), (broken, 1), "auto", "triton"),
        ((exact, 2), (cut_off, 1), "auto", "triton"),
        ((cut_off, 1), (broken, 1), "auto", "torch"),
        ((exact, 1), (exact, 2), "cuda", "library"),
        ((exact, 2), (exact, 1), "triton", "triton"),
    ],
)
def test_the_fastest_that_works_is_taken_or_the_one_asked_for(kernels, triton, library, wanted, name):
    kernels(triton=triton, library=library)
    found, function = kernel_of("selective_scan", "cpu", wanted)
    assert found == name
    assert function is {"triton": triton[0], "library": library[0], "torch": None}[name]
    assert chosen_kernels("cpu", wanted) == {"selective_scan": name}


def test_one_that_is_asked_for_and_does_not_work_is_an_error_with_its_reason(kernels):
    kernels(triton=(exact, 1), library=(broken, 1))
    with pytest.raises(ConfigError, match="'cuda'.*selective_scan.*install Triton.*library does not work: AttributeError.*cuda"):
        kernel_of("selective_scan", "cpu", "cuda")
    kernels(triton=(cut_off, 1))
    with pytest.raises(ConfigError, match="'triton'.*it is off by"):
        kernel_of("selective_scan", "cpu", "triton")


def test_the_op_runs_what_was_chosen_in_float32_under_autocast(kernels):
    dtypes = []

    def watched(*inputs):
        dtypes.append((inputs[0].dtype, (inputs[2] @ inputs[2].mT).dtype))
        return exact(*inputs)

    kernels(triton=(watched, 1))
    series = torch.randn(1, 4, 3).bfloat16(), torch.randn(1, 4, 3).bfloat16()
    maps = torch.randn(1, 4, 2).bfloat16(), torch.randn(1, 4, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*series, -torch.rand(3, 2), *maps)
    assert y.dtype == torch.bfloat16
    assert dtypes[-1] == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(("device_type", "length", "refused"), [("cuda", 512, True), ("cuda", 511, False), ("cpu", 4096, False)])
def test_a_long_loop_on_a_gpu_is_refused_with_what_to_install(device_type, length, refused, monkeypatch):
    monkeypatch.setattr(backends, "failure", lambda op, name, device_type: "ModuleNotFoundError: No module named 'triton'")
    if refused:
        with pytest.raises(ConfigError, match=f"all {length} steps.*'auto'.*pip install triton.*triton does not work: Module"):
            refuse_loop("linear_scan", device_type, length)
    else:
        refuse_loop("linear_scan", device_type, length)


def test_probing_leaves_the_random_state_alone(kernels):
    kernels(triton=(exact, 1))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    kernel_of("selective_scan", "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_cpus_are_not_probed(monkeypatch):
    monkeypatch.setattr(backends, "failure", None)
    a, b = torch.rand(1, 5, 3), torch.randn(1, 5, 3)
    torch.testing.assert_close(linear_scan(a, b), linear_scan_reference(a, b))
    assert chosen_kernels("cpu")["linear_scan"] == "cpu"
    assert kernel_of("linear_scan", "cpu", "reference") == ("reference", None)
