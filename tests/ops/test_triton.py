"""Kernels in Triton without a GPU: run by its interpreter, and compiled to machine code for GPUs."""

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lolm.ops.backends import KERNELS, OPS, example, halved

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed; it is for Linux, extra `test`"),
]
HERE = Path(__file__).parent
FAST = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a program may have of a processor's fast memory (CUDA's tables)
LAUNCHED = {
    "ssd": {"_states", "_output", "_maps", "_inputs"},
    "window_attention": {"_forward", "_queries", "_keys"},
    "linear_cross_entropy": {"_kernel"},
}


def test_equals_the_reference_in_the_interpreter():
    # A process of its own: whether a kernel is compiled or interpreted is decided once, when it is defined.
    files = sorted(path.name for path in (HERE / "interpreted").glob("*.py") if path.stem != "interpreter")
    paths = os.pathsep.join(str(p) for p in (HERE.parents[1], HERE, HERE.parent / "mixers"))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--confcutdir", HERE / "interpreted", *files]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=HERE / "interpreted", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.fixture
def compiled(monkeypatch):
    """Compiles what would be launched, for the capability that ``compiled.capability`` says; the results stay uninitialised."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    pointers = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64", torch.int32: "*i32"}
    kernels = {}

    def launch(self, *arguments, grid, warmup, **options):
        given = dict(zip(self.arg_names, arguments, strict=False)) | options
        signature, constants, attributes = {}, {}, {}
        for index, name in enumerate(self.arg_names):
            value = given.pop(name)
            signature[name] = pointers[value.dtype] if torch.is_tensor(value) else "fp32" if isinstance(value, float) else "i32"
            if self.params[index].is_constexpr or value is None or (value == 1 if isinstance(value, int) else False):
                signature[name], constants[name] = "constexpr", value
            elif torch.is_tensor(value) or value % 16 == 0:
                attributes[index,] = [["tt.divisibility", 16]]
        target = GPUTarget("cuda", launch.capability, 32)
        made = compile(ASTSource(self, signature, constants, attributes), target=target, options=given)
        assert made.metadata.shared <= FAST[launch.capability], f"{self.fn.__name__} cannot be launched"
        kernels[self.fn.__name__] = made

    monkeypatch.setattr(JITFunction, "run", launch)
    return lambda capability: setattr(launch, "capability", capability) or kernels


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("op", OPS)
def test_compiles_for_gpus(op, capability, compiled):
    kernel = getattr(import_module(KERNELS[op]["triton"]), op)
    kernels = compiled(capability)
    inputs = [x.bfloat16() if torch.is_tensor(x) and x.dim() > 2 else x for x in example(op, (2, 32, 64), "cpu")]
    inputs = [x.requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs]
    kernel(*inputs).sum().backward()
    assert set(kernels) == LAUNCHED.get(op, {"_forward", "_backward"})
    for kernel in kernels.values():
        assert f".target sm_{capability}" in kernel.asm["ptx"]
        assert len(kernel.asm["cubin"]) > 1000


@pytest.mark.parametrize("capability", FAST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("op", "sizes"), [("ssd", (1, 70, 1024, 128, 128)), ("window_attention", (1, 200, 256, 128, 70))])
def test_the_widest_that_is_taken_fits_into_fast_memory(op, sizes, dtype, capability, compiled, monkeypatch, tmp_path):
    """Eight heads of 128 to a map, and 128 states: a GPU would refuse the launch. What comes after the memory was given out
    (the way into LLVM, its passes and the assembler) takes minutes and is left out."""
    from triton.backends.nvidia import compiler

    make_llir = compiler.CUDABackend.make_llir

    def give_out(self, module, metadata, *rest):
        def stop(passes, *_):
            passes.run(module, "make_llir")
            raise InterruptedError

        monkeypatch.setattr(compiler.nvidia.passes.ttgpuir, "add_to_llvmir", stop)
        with pytest.raises(InterruptedError):
            make_llir(self, module, metadata, *rest)
        metadata["name"], metadata["shared"] = "kernel", module.get_int_attr("ttg.shared")
        return ""

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # what is not made whole is nobody else's
    monkeypatch.setattr(compiler.CUDABackend, "make_llir", give_out)
    monkeypatch.setattr(compiler.CUDABackend, "make_ptx", lambda *_: "")
    monkeypatch.setattr(compiler.CUDABackend, "make_cubin", lambda *_: b"")
    kernels = compiled(capability)
    inputs = [x.requires_grad_() if torch.is_tensor(x) else x for x in halved(example(op, sizes, "cpu"), dtype)]
    getattr(import_module(KERNELS[op]["triton"]), op)(*inputs).sum().backward()
    assert set(kernels) == LAUNCHED[op]
