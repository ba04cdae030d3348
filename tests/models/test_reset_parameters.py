"""A model that was built without values and filled afterwards is the one that was built with them."""

import pytest
import torch
from builders import make_run

from lolm.models.build import build_model
from lolm.models.init import initialise
from lolm.objectives import build_heads
from lolm.training.optimizer import decay_groups

FAMILIES = (
    "lolm", "lolm_published", "lolm_v0", "lolm_parallel", "transformer", "transformer_published", "transformer_modern",
    "mamba", "mamba2", "hawk", "griffin", "samba", "jamba", "jamba_moe", "hymba", "lolm_static_gate", "lolm_concat",
)  # fmt: skip


@pytest.mark.parametrize("arm", FAMILIES)
def test_filled_on_the_meta_device_equals_built(arm):
    run = make_run(arm)
    torch.manual_seed(5)
    built = build_model(run)
    after = torch.rand(1)
    with torch.device("meta"):
        filled = build_model(run)
    assert all(tensor.is_meta for tensor in filled.state_dict().values())
    filled.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in filled.state_dict().values():
            tensor.fill_(float("nan"))  # a value that is left out is seen
    initialise(filled, run.architecture.recipe, seed=5)
    assert torch.equal(torch.rand(1), after)  # the very same draws
    wanted, found = built.state_dict(), filled.state_dict()
    assert list(found) == list(wanted)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    groups = [[len(group["params"]) for group in decay_groups([model], "matrices", 0.1)] for model in (built, filled)]
    assert groups[0] == groups[1]


@pytest.mark.parametrize("arm", ["lolm", "lolm_v0"])
def test_heads_of_the_objectives_are_filled_alike(arm):
    run = make_run(arm)
    torch.manual_seed(5)
    built = build_heads(run.architecture, run.size)
    with torch.device("meta"):
        filled = build_heads(run.architecture, run.size)
    filled.to_empty(device="cpu")
    torch.manual_seed(5)
    filled.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(built.state_dict().values(), filled.state_dict().values(), strict=True))


def test_a_model_can_be_filled_again():
    run = make_run("jamba")
    torch.manual_seed(5)
    model = build_model(run)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialise(model, run.architecture.recipe, seed=6)
    assert any(not torch.equal(first[name], tensor) for name, tensor in model.state_dict().items())
    initialise(model, run.architecture.recipe, seed=5)
    assert all(torch.equal(first[name], tensor) for name, tensor in model.state_dict().items())
