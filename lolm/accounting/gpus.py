"""What the makers' data sheets say of GPUs: memory, and peaks without sparsity, to hold model FLOPs utilisation (MFU) against.

Sources: NVIDIA's data sheets of A100 (2021), H100 (2023), H200 (2024), B200 (HGX, 2025), L4 and L40S (2023), and its white papers
of the architectures Ada and Ampere GA102 (RTX 4090, 3090: tensor cores that accumulate in fp32, as PyTorch has it); AMD's data
sheet of MI300X (2023). Where a sheet prints "with sparsity", half of it stands here. SXM is meant where a form has no name.
"""

from __future__ import annotations

from dataclasses import dataclass

from lolm.config import ConfigError, nearest

TERA = 1e12
UTILISATION = 0.35  # of the peak that model FLOPs reach, compiled, with fused kernels; published figures stand in docs/scale.md


@dataclass(frozen=True)
class GPU:
    """One product.

    Attributes:
        memory: GiB.
        bf16, tf32, fp32: peak in TFLOP/s, dense: products of bf16 matrices, of fp32 ones through TF32, and without tensor cores.
    """

    memory: float
    bf16: float
    tf32: float
    fp32: float


GPUS = {  # the words of a name are looked for in what the driver calls a device, so the longer names of a family stand first
    "A100 40GB": GPU(40, 312, 156, 19.5),
    "A100 80GB": GPU(80, 312, 156, 19.5),
    "H100 PCIe": GPU(80, 756, 378, 51),
    "H100 NVL": GPU(94, 835, 417.5, 60),
    "H100": GPU(80, 989, 494.5, 67),
    "H200": GPU(141, 989, 494.5, 67),
    "B200": GPU(180, 2250, 1100, 75),
    "L40S": GPU(48, 362, 183, 91.6),
    "L4": GPU(24, 121, 60, 30.3),
    "RTX 4090": GPU(24, 165.2, 82.6, 82.6),
    "RTX 3090": GPU(24, 71, 35.6, 35.6),
    "MI300X": GPU(192, 1307.4, 653.7, 163.4),
}  # fmt: skip
SHOWN = ("A100 80GB", "H100", "H200", "RTX 4090", "L4")  # by `plan`, which takes any


def gpu_of(name: str) -> GPU:
    """The entry of a name in :data:`GPUS`, whatever its case.

    Raises:
        ConfigError: there is none, and the message has those that are.
    """
    found = {known.lower(): gpu for known, gpu in GPUS.items()}.get(name.lower())
    if found is None:
        raise ConfigError(f"no GPU {name!r}{nearest(name, GPUS)}; known are {', '.join(GPUS)} (lolm/accounting/gpus.py)")
    return found


def known_as(device_name: str) -> str | None:
    """The name in :data:`GPUS` of what ``torch.cuda.get_device_name`` says, such as "NVIDIA A100-SXM4-80GB"; None for others."""
    words = device_name.upper().replace("-", " ").split()
    return next((name for name in GPUS if all(word in words for word in name.upper().split())), None)


def peak_flops(device_name: str, precision: str) -> float | None:
    """Peak FLOP/s of a device in ``bf16``, ``tf32`` or ``fp32``, dense; None where the device is not in the table.

    Args:
        device_name: as ``torch.cuda.get_device_name`` has it, or a name of the table.
    """
    name = known_as(device_name)
    return None if name is None else TERA * float(getattr(GPUS[name], precision))
