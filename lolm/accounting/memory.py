"""Memory of a training step on one device, by taking the step on tensors that have shapes and no data.

The model of the run and its losses are run forward and backward under PyTorch's ``FakeTensorMode``, and what is alive is added
up, each storage once: weights, what autograd keeps, and what comes and goes. Nothing of the code is repeated as a formula, so
what it keeps is what is counted. Kernels are left out, since they have nothing to read or write:

on a CPU  the project's own autograd functions run without their Numba kernels;
on a GPU  a fused op is replaced by one that keeps what its kernels keep (:data:`STAND_INS`), and the two things that PyTorch does
          otherwise on CUDA are done: dropout keeps a mask of bytes, and autocast computes norms and softmaxes in fp32.

Not counted: what the framework takes for itself, and the fragments of its allocator (:data:`lolm.accounting.price.USABLE`).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from lolm.config import RunConfig
from lolm.models.build import build_model, undrawn
from lolm.models.experts import Experts
from lolm.objectives import auxiliary_losses, build_heads, token_loss, total_loss

FEW_TOKENS = 65536  # of a batch from which, and twice which, larger ones are told
STATES_EVERY = 64  # steps between the states that a kernel of a scan keeps


@dataclass(frozen=True)
class StepMemory:
    """Bytes on each device.

    Attributes:
        weights: parameters and buffers, the objectives' heads among them.
        gradients: of the parameters, in fp32.
        optimizer: AdamW's two moments.
        activations: what autograd keeps at the end of the forward pass; with autocast also the bf16 copies of the weights.
        loss: what is alive beyond that while the loss is differentiated as far as the fusion: logits and their gradients.
        peak: of the whole step, all of the above that is alive at once.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    peak: int


def step_memory(run: RunConfig, gpu: bool, devices: int = 1) -> StepMemory:
    """What one optimiser step of a run needs on each device.

    Args:
        gpu: whether the device is one; else the CPU.
        devices: weights, gradients and moments are shared out over so many (FSDP2: arXiv 2304.11277), each of which takes the
            run's micro-batch. Whole on each are what lies outside the blocks, from its first use to the end of the step, and the
            two largest blocks, as one is computed while the next one arrives.
    """
    held = run.training.accumulation > 1 or devices > 1  # from the second micro-batch on there are gradients at the start
    taken = partial(_at_depth, taken=partial(_step, gpu=gpu, held=held))
    batch, few = run.training.batch_size, -(-FEW_TOKENS // run.training.seq_len)
    if batch <= 4 * few:
        found = taken(run)
    else:  # its loss alone would be thousands of blocks
        less, more = (taken(replace(run, training=replace(run.training, batch_size=n))) for n in (few, 2 * few))
        found = _continued(less, more, batch / few - 1)
    weights, gradients, moments = found["weights"], found["gradients"], 2 * found["gradients"]
    shared = -(-(weights + gradients + moments) * (devices - 1) // devices)
    whole = found["gathered"] if devices > 1 else 0
    return StepMemory(
        weights=weights // devices,
        gradients=gradients // devices,
        optimizer=moments // devices,
        activations=found["kept"],
        loss=found["loss"],
        peak=max(found["forward"], found["early"], found["late"]) + moments - shared + whole,
    )


def _at_depth(run: RunConfig, taken: Callable[[RunConfig], dict[str, int]]) -> dict[str, int]:
    """What a step takes; of a deep stack from two small depths, as each period of blocks takes the same."""
    layers, period = run.size.n_layers, len(run.architecture.surface.pattern)
    few = 2 * period + layers % period
    if layers <= few + period:
        return taken(run)
    less, more = (taken(replace(run, size=replace(run.size, n_layers=n))) for n in (few, few + period))
    return _continued(less, more, (layers - few) // period)


def _continued(less: dict[str, int], more: dict[str, int], times: float) -> dict[str, int]:
    """Each quantity, so many times the difference beyond the first."""
    return {name: value + round(times * (more[name] - value)) for name, value in less.items()}


def _step(run: RunConfig, gpu: bool, held: bool) -> dict[str, int]:
    """One step without its optimiser: forward, backward, and what was alive.

    Where the peak lies depends on whether a block keeps more than its gradients take: at the upper end of the stack, ``early`` in
    the backward pass, or at the lower end, ``late``.
    """
    training, period = run.training, len(run.architecture.surface.pattern)
    with _without_data(gpu) as live:
        kernels: Literal["reference", "auto"] = "reference" if gpu else "auto"
        model = build_model(replace(run, training=replace(training, kernels=kernels))).train()
        heads = build_heads(run.architecture, run.size, kernels)
        modules = [model] if heads is None else [model, heads]
        weights, blocks = live.bytes, model.stack.blocks
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter) if held else None
        marks: dict[str, int] = {}

        def mark(name: str, x: torch.Tensor) -> None:
            """When the gradient of x is there, note the peak since the mark before."""

            def note(_: torch.Tensor) -> None:
                marks[name], live.peak = live.peak, live.bytes

            if x.requires_grad:  # a block that is recomputed is run without gradients at first
                x.register_hook(note)

        for name, place in (("early", len(blocks) - 1 - period), ("middle", period - 1)):
            if 0 <= place < len(blocks):  # a stack may be shallower than its pattern
                blocks[place].register_forward_hook(lambda block, x, y, name=name: mark(name, y[0]))
        tokens_BT = torch.empty(training.batch_size, training.seq_len, dtype=torch.long)
        before = live.bytes
        with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bf16"):
            streams = model.streams(tokens_BT)
            o_BTD = model.fuse(streams)
            mark("fusion", o_BTD)
            terms = auxiliary_losses(run.architecture.objectives, streams, heads)
            total = total_loss(run.architecture.objectives, token_loss(model, o_BTD, tokens_BT), terms)
        del streams, o_BTD, terms
        forward, kept, live.peak = live.peak, live.bytes - before, live.bytes
        torch.autograd.backward(total)
        units = [sum(p.nbytes for p in unit.parameters()) for unit in model.units()]
        root = sum(p.nbytes for p in model.parameters()) - sum(units)
        return {
            "weights": weights,
            "gradients": sum(parameter.nbytes for parameter in parameters),
            "gathered": 2 * (root + sum(sorted(units)[-2:])),  # and their gradients
            "kept": kept,
            "loss": marks["fusion"] - before - kept,
            "forward": forward,
            "early": max(marks["fusion"], marks.get("early", 0)),
            "late": max(live.peak, marks.get("middle", 0)),
        }


@contextmanager
def _without_data(gpu: bool) -> Iterator[Any]:
    """Tensors made inside have no data and kernels do nothing. Gives ``bytes``, what is alive, and ``peak``, how much it was."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # with SymPy behind it: seconds

    class Live(FakeTensorMode):
        bytes, peak, inside = 0, 0, False
        known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if self.inside:  # of an operation that PyTorch knows by others: what one kernel does makes no tensors on the way
                return super().__torch_dispatch__(function, types, args, kwargs)
            self.inside = True
            try:
                made = super().__torch_dispatch__(function, types, args, kwargs)
            finally:
                self.inside = False
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                    self.known.add(storage)
                    self.count(storage.nbytes())
                    weakref.finalize(storage, self.count, -storage.nbytes())
            return made

        def count(self, change: int) -> None:
            self.bytes += change
            self.peak = max(self.peak, self.bytes)

    with ExitStack() as stack:
        for change in (patch.object(Experts, "looped", _evenly), *(_on_gpu() if gpu else _on_cpu(FakeTensor))):
            stack.enter_context(change)
        live = stack.enter_context(Live())
        stack.enter_context(undrawn())
        yield live


def _evenly(self: Experts, x_ND: torch.Tensor, counts_E: torch.Tensor) -> torch.Tensor:
    """:meth:`Experts.looped` where no data say how many tokens chose which expert: as many each."""
    rows, experts = len(x_ND), len(self.experts)
    groups = x_ND.split([rows // experts + (i < rows % experts) for i in range(experts)])
    return torch.cat([expert(group) for expert, group in zip(self.experts, groups, strict=True)])


def _on_cpu(fake: type) -> list[Any]:
    """Numba's kernels left out; what they are handed is an array of the right shape without memory of its own."""
    import numpy as np

    from lolm.ops.cpu.compiled import Kernel

    def numpy(tensor: torch.Tensor) -> np.ndarray:
        return np.broadcast_to(np.zeros((), str(tensor.dtype).removeprefix("torch.")), tuple(tensor.shape))

    return [patch.object(Kernel, "__call__", lambda self, *arguments: None), patch.object(fake, "numpy", numpy, create=True)]


def _on_gpu() -> list[Any]:
    ours = [module for name, module in sys.modules.items() if name.startswith("lolm.") and module is not None]
    fused = [
        patch.object(module, name, stand_in)
        for name, stand_in in STAND_INS.items()
        for module in ours
        if callable(vars(module).get(name))
    ]
    in_fp32 = [patch.object(F, name, partial(_in_fp32, getattr(F, name))) for name in ("layer_norm", "softmax", "softplus")]
    return [*fused, *in_fp32, patch.object(F, "dropout", _dropout)]


def _in_fp32(function: Callable[..., torch.Tensor], x: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
    return function(x.float() if torch.is_autocast_enabled("cpu") else x, *rest, **options)


def _dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


class _Kept(torch.autograd.Function):
    """Keeps its tensors and ``floats`` numbers in fp32, and itself if asked to; looks like ``like``."""

    @staticmethod
    def forward(ctx, like, floats: int, itself: bool, *tensors):  # type: ignore[override]
        y = torch.empty_like(like, memory_format=torch.contiguous_format)
        ctx.tensors = [tensor is not None for tensor in tensors]
        given = [tensor for tensor in tensors if tensor is not None]
        ctx.save_for_backward(*given, torch.empty(floats), *([y] if itself else []))
        return y

    @staticmethod
    def backward(ctx, g):  # type: ignore[override]
        saved = iter(ctx.saved_tensors)
        tensors = [next(saved) if there else None for there in ctx.tensors]
        return None, None, None, *(None if tensor is None else torch.empty_like(tensor) for tensor in tensors)


def _scan(u_BTI, delta_BTI, A_IN, B_BTN, C_BTN, skip_I=None, gate_BTI=None, delta_bias_I=None, backend="auto"):
    states = len(u_BTI) * -(-u_BTI.shape[1] // STATES_EVERY) * A_IN.numel()
    inputs = (u_BTI, delta_BTI, A_IN, B_BTN, C_BTN, skip_I, gate_BTI, delta_bias_I)
    return _Kept.apply(u_BTI, states, False, *inputs)


def _ssd(x_BTHP, delta_BTH, A_H, B_BTGN, C_BTGN, skip_H, chunk=64, backend="auto"):
    return _Kept.apply(x_BTHP, 0, False, x_BTHP, delta_BTH, A_H, B_BTGN, C_BTGN, skip_H)  # states of chunks are made again


def _linear_scan(a_BTC, b_BTC, backend="auto"):
    return _Kept.apply(a_BTC.float(), 0, True, a_BTC.float(), b_BTC[:0])


def _causal_conv(x_BTI, weight_IK, bias_I, silu=False, backend="auto"):
    return _Kept.apply(x_BTI, 0, False, x_BTI, weight_IK, bias_I)


def _attention(q_BTHP, k_BTHP, v_BTHP, window=None, dropout=0.0, backend="auto"):
    return _Kept.apply(q_BTHP, q_BTHP.shape[:-1].numel(), True, q_BTHP, k_BTHP, v_BTHP)


def _rms_norm(x, weight_I, epsilon, gate=None, groups=1, backend="auto"):
    return _Kept.apply(x, groups * x.shape[:-1].numel(), False, x, weight_I, gate)


STAND_INS: dict[str, Callable[..., torch.Tensor]] = {
    "selective_scan": _scan,
    "ssd": _ssd,
    "linear_scan": _linear_scan,
    "causal_conv": _causal_conv,
    "causal_attention": _attention,
    "rms_norm": _rms_norm,
}
