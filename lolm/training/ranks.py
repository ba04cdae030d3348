"""One run on many processes: FSDP2 over the processes that ``torchrun`` started, gloo between CPUs and NCCL between GPUs.

The micro-batch is the unit: the processes take those of a step in turn, and each is computed as one process alone computes it,
with the same dropout, noise and batch statistics. So a run depends on how many they are by the rounding of sums alone, and goes
on from its checkpoint on another number of them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from lolm.models.blocks import Block
from lolm.models.language_model import FORWARD_METHODS, LanguageModel
from lolm.models.mlp import MLP
from lolm.objectives import FutureHeads


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes make this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_lead() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def joined(device_type: str) -> Iterator[None]:
    """Inside, the processes that torchrun started beside this one are one group; GPUs are taken in the order of their ranks."""
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_over(x: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def agreed(lead_says: bool) -> bool:
    """What the lead says, in every process; the others' own word does not count."""
    if not dist.is_initialized():
        return lead_says
    said = torch.tensor(int(lead_says), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(said, src=0)
    return bool(said.item())


def whole(x: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be sharded; every process must ask."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def sharded_like(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor that all have whole, where ``like`` is sharded."""
    if not hasattr(like, "full_tensor"):
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def shard(model: LanguageModel, heads: FutureHeads | None, bf16: bool) -> None:
    """Split the float32 weights of a model over all processes, block by block; embedding, fusion and gate are the root's.

    With ``bf16`` the units that hold only what autocast would round (MLPs of blocks and of the heads) are gathered rounded, which
    gives the same products for half the traffic. Whatever has a parameter that must stay exact (A_log, step sizes, norms,
    routers, codes, slots) is gathered in float32 and left to autocast.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # which nothing writes into
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (count(),))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if bf16 else MixedPrecisionPolicy()
    # Read one by one, and not as a whole, by the loss: each is a unit. Those of one that is not trained stay as they are.
    for part in (part for part in (heads.children() if heads is not None else ()) if next(part.parameters()).requires_grad):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    for unit in model.units():
        if isinstance(unit, Block) and isinstance(unit.mlp, MLP):
            fully_shard(unit.mlp, mesh=mesh, mp_policy=policy)
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)  # the tied embedding is read at both ends: only the root can hold it
    for method in FORWARD_METHODS:
        register_fsdp_forward_method(model, method)
    if device == "cpu":
        from lolm.ops.backends import copy_parameters

        copy_parameters()


def reshard(module: nn.Module) -> None:
    """Forget the gathered weights of the root, which else outlive a change of its shards; nothing where nothing is sharded."""
    if hasattr(module, "reshard"):
        module.reshard()  # type: ignore[operator]
