"""Which parameters are decayed, and learning rates at steps worked out by hand."""

import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from builders import make_model, make_run

from lolm.config import ConfigError, TrainingConfig
from lolm.objectives import build_heads
from lolm.training.optimizer import AdamW, build_optimizer, decay_groups, learning_rate_at


def split(arm: str, rule: str, **changes) -> tuple[set[str], set[str]]:
    """Names of the decayed and of the free parameters."""
    run = make_run(arm, **changes)
    model, heads = make_model(arm, **changes), build_heads(run.architecture, run.size)
    modules = [model] + ([heads] if heads is not None else [])
    names = {id(p): n for n, p in model.named_parameters()} | {
        id(p): f"heads.{n}" for n, p in (heads.named_parameters() if heads is not None else ())
    }
    decayed: set[str] = set()
    free: set[str] = set()
    for group in decay_groups(modules, rule, 0.1):
        (decayed if group["weight_decay"] else free).update(names[id(p)] for p in group["params"])
        assert group["weight_decay"] in (0.0, 0.1)
    assert decayed.isdisjoint(free)
    return decayed, free


def trainable(arm: str) -> set[str]:
    run = make_run(arm)
    heads = build_heads(run.architecture, run.size)
    named = {n for n, _ in make_model(arm).named_parameters()}
    return named | {f"heads.{n}" for n, p in (heads.named_parameters() if heads is not None else ()) if p.requires_grad}


@pytest.mark.parametrize("arm", ["lolm", "lolm_v0", "transformer"])
@pytest.mark.parametrize("rule", ["all", "matrices"])
def test_every_trainable_parameter_is_in_one_group(arm, rule):
    decayed, free = split(arm, rule)
    assert decayed | free == trainable(arm)
    if rule == "all":
        assert free == set()
    assert ("heads.z.weight" in decayed | free) is False  # v0's projection never reaches the optimiser


def test_what_the_sound_recipe_does_not_decay():
    decayed, free = split("lolm", "matrices", size={"n_layers": 1})
    ssm = "latent.layers.0."
    assert free == {
        "surface.layers.0.mixer_norm.weight", "surface.layers.0.mixer_norm.bias", "surface.layers.0.mlp_norm.weight",
        "surface.layers.0.mlp_norm.bias", "surface.final_norm.weight", "surface.final_norm.bias",
        "head_norm.weight", "head_norm.bias",
        ssm + "A_log", ssm + "skip", ssm + "dt_proj.bias", ssm + "conv_weight", ssm + "conv_bias",
        "latent.norms.0.weight", "latent.norms.0.bias", "latent.norms.1.weight", "latent.norms.1.bias",
        "memory.slots", "memory.keep.bias", "memory.write.bias",
        "regime.codebook", "regime.conv.weight", "regime.conv.bias", "regime.conv_weight", "gate.out.bias",
        "fusion.surface_norm.weight", "fusion.surface_norm.bias", "fusion.latent_norm.weight", "fusion.latent_norm.bias",
        "heads.z.0.bias", "heads.z.2.bias", "heads.h.0.bias", "heads.h.2.bias",
    }  # fmt: skip
    assert {"embedding.weight", ssm + "in_proj.weight", ssm + "dt_proj.weight", "gate.out.weight", "heads.z.0.weight"} <= decayed


def test_the_optimiser_takes_the_configured_values():
    run = make_run("lolm", training={"betas": (0.8, 0.9), "epsilon": 1e-6, "weight_decay": 0.3})
    optimizer = build_optimizer([make_model("lolm")], "matrices", run.training, 2e-3)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-6
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3, 0.0}
    assert {group["lr"] for group in optimizer.param_groups} == {2e-3}


def test_one_step_is_adamw_by_hand():
    layer = torch.nn.Linear(2, 2, bias=False)
    start = layer.weight.detach().clone()
    training = TrainingConfig(steps=10, seq_len=4, batch_size=1, weight_decay=0.1)
    optimizer = build_optimizer([layer], "matrices", training, 0.01)
    gradient = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    layer.weight.grad = gradient.clone()
    optimizer.step()
    # After one step the corrected moments are g and g²: the step is lr · sign(g), and decay acts apart from it.
    torch.testing.assert_close(layer.weight.detach(), start * (1 - 0.01 * 0.1) - 0.01 * gradient.sign(), rtol=1e-5, atol=1e-6)


def schedule(**changes) -> TrainingConfig:
    return TrainingConfig(steps=110, seq_len=4, batch_size=1, warmup_steps=10, **changes)


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0),  # warm-up over ten steps, then the peak
        (35, 0.5 * (1 + math.cos(math.pi / 4))), (60, 0.5), (85, 0.5 * (1 - math.cos(math.pi / 4))),
        (89, 0.5 * (1 + math.cos(0.79 * math.pi))),  # 0.105, the last one above the floor
        (90, 0.1), (109, 0.1),  # max(floor, cosine), not a cosine that ends there
    ],
)  # fmt: skip
def test_cosine(step, share):
    assert learning_rate_at(step, schedule(), 2e-3) == pytest.approx(2e-3 * share)


def test_a_run_that_stops_before_the_end_of_its_schedule_has_the_rates_of_the_whole():
    part = TrainingConfig(steps=30, schedule_steps=110, seq_len=4, batch_size=1, warmup_steps=10)
    assert [learning_rate_at(i, part, 1.0, 30) for i in range(30)] == [learning_rate_at(i, schedule(), 1.0) for i in range(30)]
    with pytest.raises(ConfigError, match="schedule_steps"):
        TrainingConfig(steps=30, schedule_steps=20, seq_len=4, batch_size=1)


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0.1), (9, 1.0), (50, 1.0), (87, 1.0), (88, 1 - 0.9 / 22), (98, 1 - 0.9 * 11 / 22), (109, 0.1)],
)
def test_warm_up_stable_decay(step, share):
    """The last fifth, 22 steps, goes linearly down to the floor, which the last step reaches."""
    assert learning_rate_at(step, schedule(schedule="wsd", decay_fraction=0.2), 1.0) == pytest.approx(share)


def test_a_decay_that_would_begin_inside_the_warm_up_begins_behind_it():
    """Over the whole run, as is usual: no step down behind the warm-up."""
    training = schedule(schedule="wsd", decay_fraction=1.0)
    rates = [learning_rate_at(step, training, 1.0) for step in range(9, 110)]
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(training.lr_floor)
    assert [a - b for a, b in pairwise(rates)] == pytest.approx([0.9 / 100] * 100)


def test_no_warm_up():
    training = TrainingConfig(steps=10, seq_len=4, batch_size=1)
    assert learning_rate_at(0, training, 1.0) == 1.0


def test_the_optimiser_is_pytorchs_to_the_bit():
    ends = []
    for kind in (torch.optim.AdamW, AdamW):
        torch.manual_seed(0)
        model = torch.nn.Linear(7, 5)
        optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.3, fused=True)
        for step in range(6):
            model(torch.randn(3, 7)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step == 3:  # what a checkpoint does
                again = kind(model.parameters(), lr=0.1, weight_decay=0.3, fused=True)
                again.load_state_dict(optimizer.state_dict())
                optimizer = again
        ends.append(model.weight.detach().clone())
        assert optimizer.param_groups[0]["params"][0].grad is None
    assert torch.equal(*ends)


def test_training_does_not_import_the_compiler():
    """Which takes seconds, in every process that trains."""
    code = """
import sys, torch
from builders import PARAMS
from lolm.accounting.resolve import resolve_run
from lolm.models.build import build_model
from lolm.training.optimizer import AdamW
for arm in ("lolm", "lolm_v0", "transformer", "mamba2", "griffin", "samba"):  # every kind of module; widths are derived on meta
    build_model(resolve_run(PARAMS, "smoke", arm, 1))
model = torch.nn.Linear(2, 2)
optimizer = AdamW(model.parameters(), fused=True)
model(torch.ones(2)).sum().backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
optimizer.zero_grad(set_to_none=True)
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(path) for path in Path(__file__).parents[1:3])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
