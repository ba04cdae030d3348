"""Prices: GPUs by name, hours, disk, and what would fit."""

import re

import pytest
import torch
from builders import PARAMS, change, make_run
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lolm.accounting.count import account_run
from lolm.accounting.gpus import GPUS, SHOWN, gpu_of, known_as, peak_flops
from lolm.accounting.price import GIB, Target, disk, gpu_hours, largest_micro_batch, memory_of, shard_bytes, what_fits
from lolm.config import ConfigError
from lolm.models.build import build_model


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_device_is_known_by_what_the_driver_calls_it(device, name):
    assert known_as(device) == name
    assert peak_flops(device, "bf16") == (None if name is None else 1e12 * GPUS[name].bf16)


def test_the_table_is_found_by_its_own_names():
    assert all(known_as(name) == name for name in GPUS)
    assert set(SHOWN) <= set(GPUS)
    assert gpu_of("h100") == GPUS["H100"]
    assert all(gpu.bf16 >= gpu.tf32 >= gpu.fp32 for gpu in GPUS.values())
    with pytest.raises(ConfigError, match="no GPU 'H1000'; did you mean 'H100"):
        gpu_of("H1000")


def test_hours_and_disk():
    assert gpu_hours(989e12 * 0.5 * 7200, "H100", "bf16", 0.5) == pytest.approx(2.0)
    run = change(make_run(), training={"schedule": "wsd", "cooldowns": (0.5,), "snapshots": (0.25, 0.5), "steps": 40})
    assert disk(run, 100) == {"weights": 4 * 100 * (1 + 2 + 1), "checkpoints": 12 * 100 * 3}
    corpus = PARAMS.scales["149m"].corpus
    assert shard_bytes(corpus, 50_257) == pytest.approx(corpus.max_bytes * 2 / 4.3)
    assert shard_bytes(PARAMS.scales["tiny"].corpus, 512) is None


def test_flops_are_a_profilers_on_a_stack_of_attention():
    """Without positions and norms counted by either; the profiler takes attention's whole square, ours the causal triangle."""
    run = make_run("transformer", training={"seq_len": 64}, size={"n_layers": 3})
    model, tokens_BT = build_model(change(run, training={"kernels": "reference"})).eval(), torch.zeros(2, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # which it knows on CPUs
        model(tokens_BT)
    ours = account_run(run).flops_per_token.forward
    causal, square = (3 * 4 * run.size.d_model * keys for keys in ((64 + 1) / 2, 64))
    assert counter.get_total_flops() / 128 == pytest.approx(ours - causal + square, rel=1e-9)


WIDE = make_run(
    "transformer", vocab_size=512, training={"seq_len": 512, "batch_size": 32, "accumulation": 2, "precision": "bf16"},
    size={"d_model": 512, "d_ff": 2048, "n_heads": 8, "n_layers": 3},
)  # fmt: skip


def test_what_does_not_fit_is_told_with_what_does():
    whole = memory_of(WIDE, True).peak
    assert what_fits(WIDE, Target("a large one", 1.2 * whole, True)) is None
    half = Target("half of it", whole / 2, True)
    text = what_fits(WIDE, half)
    assert f"a step of transformer takes {whole / GIB:.1f} GiB a device with batch_size 32, and half of it has" in text
    batch, accumulation = map(int, re.search(r"what fits: batch_size: (\d+), accumulation: (\d+); or", text).groups())
    assert batch * accumulation == 64  # the same step
    assert memory_of(WIDE, True, batch_size=batch).peak <= half.usable < memory_of(WIDE, True, batch_size=2 * batch).peak
    again, accumulation = map(int, re.search(r"or batch_size: (\d+), accumulation: (\d), activation_ch.*: true", text).groups())
    assert again > batch
    assert again * accumulation == 64
    assert memory_of(WIDE, True, batch_size=again, activation_checkpointing=True).peak <= half.usable


def test_more_devices_are_offered_where_one_cannot_hold_the_weights():
    state = memory_of(WIDE, True, batch_size=1, activation_checkpointing=True)
    small = Target("a small one", 0.9 * state.peak, True)
    assert largest_micro_batch(WIDE, small, activation_checkpointing=True) == 0
    text = what_fits(WIDE, small)
    assert re.search(r"what fits: devices: [248], batch_size: \d+, accumulation: \d+, activation_checkpointing: true", text)


def test_a_step_of_a_few_operations_is_not_looked_at():
    assert what_fits(make_run(), Target("nothing", 1.0, False)) is None


CONTRASTING = make_run(
    "lolm", vocab_size=512, training={"seq_len": 512, "batch_size": 16, "accumulation": 2},
    size={"d_model": 512, "d_ff": 2048, "n_heads": 8, "n_layers": 3}, objectives={"negatives": "batch"},
)  # fmt: skip


def test_where_a_loss_contrasts_the_sequences_of_a_batch_its_size_is_kept():
    whole, again = (memory_of(CONTRASTING, True, activation_checkpointing=on).peak for on in (False, True))
    between = Target("one between", (whole + again) / 2 / 0.92, True)
    assert what_fits(CONTRASTING, between).endswith("what fits: batch_size: 16, accumulation: 2, activation_checkpointing: true")
    small = Target("a small one", again / 16, True)
    assert largest_micro_batch(CONTRASTING, small) == 0
    assert what_fits(CONTRASTING, small).endswith("choose devices with more memory")
