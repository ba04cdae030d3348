"""LOLM's own parts against loops in NumPy, and their sizes and costs against what can be counted."""

import math

import numpy as np
import pytest
import torch
from builders import make_model, random_tokens
from scipy.special import erf, expit, softmax
from torch.utils.flop_counter import FlopCounterMode

from lolm.config import ConfigError, GateConfig, MemoryConfig, MemorySize
from lolm.models.fusion import Fusion
from lolm.models.gate import Gate, build_gate
from lolm.models.memory import Memory
from lolm.training.optimizer import decay_groups

D = 6


def array(x) -> np.ndarray:
    return x.detach().double().numpy()


def close(ours: torch.Tensor, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(array(ours), wanted, rtol=1e-4, atol=1e-5)


def memory_by_hand(memory: Memory, h: np.ndarray, chunks: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """One sequence, bank by bank (facts A4)."""
    w = {name: array(p) for name, p in memory.named_parameters()}
    banks, slots = memory.size.banks, memory.size.slots
    reads, attention = [], np.zeros((len(h), slots))
    for bank in range(banks):
        of_d, of_s = slice(bank * D, (bank + 1) * D), slice(bank * slots, (bank + 1) * slots)
        state, read = w["slots"][bank], np.zeros((len(h), D))
        for start, stop in chunks:
            for t in range(start, stop):
                a = softmax(state @ (w["query.weight"][of_d] @ h[t]) / math.sqrt(D))
                read[t] = a @ state
                attention[t] += a / banks
            mean = h[start:stop].mean(axis=0)
            alpha = expit(w["keep.weight"][of_s] @ mean + w["keep.bias"][of_s])
            beta = expit(w["write.weight"][of_s] @ mean + w["write.bias"][of_s])
            state = alpha[:, None] * state + np.outer(beta, w["content.weight"][of_d] @ mean)
        reads.append(read)
    return np.concatenate(reads, axis=1) @ w["combine.weight"].T, attention


@pytest.mark.parametrize(
    ("config", "size", "chunks"),
    [
        (MemoryConfig(chunking="count"), MemorySize(5, chunks=4), [(0, 2), (2, 4), (4, 6), (6, 11)]),  # the last takes the rest
        (MemoryConfig(chunking="count"), MemorySize(5, chunks=1), [(0, 11)]),
        (MemoryConfig(chunking="tokens"), MemorySize(5, banks=2, chunk_tokens=4), [(0, 4), (4, 8), (8, 11)]),
        (MemoryConfig(chunking="tokens"), MemorySize(5, chunk_tokens=64), [(0, 11)]),
    ],
)
def test_memory_by_hand(config, size, chunks):
    torch.manual_seed(0)
    memory = Memory(config, size, D)
    with torch.no_grad():
        memory.slots.mul_(50)
    h = 2 * torch.randn(2, 11, D)
    m, attention = memory(h)
    assert memory.bounds(11) == chunks
    for i in range(2):
        wanted, weights = memory_by_hand(memory, array(h[i]), chunks)
        close(m[i], wanted)
        close(attention[i], weights)


def test_one_chunk_leaves_the_writers_without_gradient():
    """v0: the table is static, since what is written is never read."""
    memory = Memory(MemoryConfig(chunking="count"), MemorySize(4, chunks=1), D)
    memory(torch.randn(1, 8, D))[0].square().sum().backward()
    assert [name for name, p in memory.named_parameters() if p.grad is None] == [
        "content.weight", "keep.weight", "keep.bias", "write.weight", "write.bias",
    ]  # fmt: skip


@pytest.mark.parametrize("chunks", [4, 9])
def test_fewer_tokens_than_chunks_is_an_error(chunks):
    memory = Memory(MemoryConfig(chunking="count"), MemorySize(4, chunks=chunks), D)
    with pytest.raises(ConfigError, match=f"{chunks - 1} tokens cannot be cut into memory.chunks = {chunks}"):
        memory(torch.randn(1, chunks - 1, D))
    assert memory(torch.randn(1, chunks, D))[0].isfinite().all()


@pytest.mark.parametrize("bias", [-0.5, 0.0])
def test_gate_by_hand(bias):
    torch.manual_seed(0)
    gate = Gate(GateConfig(bias=bias), D, 4)
    z, h, m, r = (torch.randn(2, 3, width) for width in (D, D, D, 4))
    x = np.concatenate([array(s) for s in (z, h, m, r)], axis=-1) @ array(gate.hidden.weight).T
    x = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    close(gate(z, h, m, r), expit(x @ array(gate.out.weight).T + array(gate.out.bias)))
    if bias:
        assert (gate.out.bias == bias).all()
    else:
        assert 0 < gate.out.bias.abs().max() <= (2 * D) ** -0.5  # the framework's default is left


def layer_norm(x: np.ndarray, norm) -> np.ndarray:
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return x * array(norm.weight) + array(norm.bias)


@pytest.mark.parametrize("bias", [-0.5, 0.0])
def test_a_scalar_gate_is_one_value_per_token(bias):
    torch.manual_seed(0)
    gate = build_gate(GateConfig("scalar", bias=bias), D, 4)
    z, h, m, r = (torch.randn(2, 3, width) for width in (D, D, D, 4))
    x = np.concatenate([array(s) for s in (z, h, m, r)], axis=-1) @ array(gate.hidden.weight).T
    x = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    close(gate(z, h, m, r), np.broadcast_to(expit(x @ array(gate.out.weight).T + array(gate.out.bias)), (2, 3, D)))
    assert gate.out.weight.shape == (1, 2 * D)
    assert (gate.out.bias == bias).all() == bool(bias)
    assert gate.num_params() == sum(p.numel() for p in gate.parameters())
    assert gate.flops_per_token(7) == 2 * ((3 * D + 4) * 2 * D + 2 * D)


@pytest.mark.parametrize(("form", "values"), [("static_dimension", D), ("static_scalar", 1)])
def test_a_static_gate_depends_on_nothing_and_is_neither_decayed_nor_initialised_again(form, values):
    gate = build_gate(GateConfig(form, bias=-0.5), D, 4)
    inputs = [torch.randn(2, 3, width) for width in (D, D, D, 4)]
    close(gate(*inputs), np.full((2, 3, D), expit(-0.5)))
    with torch.no_grad():
        gate.bias.copy_(torch.arange(values))
    close(gate(*inputs), np.broadcast_to(expit(np.arange(values)), (2, 3, D)))
    assert gate.num_params() == values == sum(p.numel() for p in gate.parameters())
    assert gate.flops_per_token(7) == 0
    for rule in ("framework", "scaled"):
        recipe = {"init": rule, "weight_decay": "matrices"}
        model = make_model("lolm", gate={"form": form}, recipe=recipe)
        assert (model.gate.bias == -0.5).all()
        free = decay_groups([model], "matrices", 0.1)[1]
        assert free["weight_decay"] == 0
        assert any(p is model.gate.bias for p in free["params"])


def test_a_fixed_gate_is_its_value_and_can_be_forced():
    gate = build_gate(GateConfig("fixed", value=0.3), D, 4)
    g = gate(*(torch.randn(2, 3, width) for width in (D, D, D, 4)))
    close(g, np.full((2, 3, D), 0.3))
    assert gate.num_params() == gate.flops_per_token(7) == len(list(gate.parameters())) == 0
    with pytest.raises(ConfigError, match=r"gate.value must be in \[0, 1\], got 1.5"):
        build_gate(GateConfig("fixed", value=1.5), D, 4)


@torch.no_grad()
@pytest.mark.parametrize("branch_norm", [True, False])
def test_a_static_gate_folds_into_what_is_before_it(branch_norm):
    """σ(b) ⊙ u + (1 − σ(b)) ⊙ v equals the plain sum of scaled branches: without branch norms the scale goes into W_h and W_z,
    with them into the norms' weights and biases. The gate adds no function, only another way to reach it."""
    gated = make_model("lolm", gate={"form": "static_dimension", "branch_norm": branch_norm})
    torch.nn.init.normal_(gated.gate.bias)
    for parameter in gated.fusion.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    g = torch.sigmoid(gated.gate.bias)
    weights = {name: value.clone() for name, value in gated.state_dict().items() if not name.startswith("gate.")}
    for branch, scale in (("surface", g), ("latent", 1 - g)):
        if branch_norm:
            weights[f"fusion.{branch}_norm.weight"] *= scale
            weights[f"fusion.{branch}_norm.bias"] *= scale
        else:
            weights[f"fusion.{branch}.weight"] *= scale[:, None]
    folded = make_model("lolm", seed=1, gate={"form": "none", "branch_norm": branch_norm})
    folded.load_state_dict(weights)
    tokens = random_tokens(2, 20)
    torch.testing.assert_close(folded(tokens), gated(tokens), rtol=1e-4, atol=1e-5)
    gated.gate.bias.add_(1.0)
    assert (folded(tokens) - gated(tokens)).abs().max() > 1e-3  # the gate did matter


@pytest.mark.parametrize("branch_norm", [True, False])
def test_fusion_by_hand(branch_norm):
    torch.manual_seed(0)
    fusion = Fusion(D, True, True, 4, branch_norm, isolate=True)
    if branch_norm:
        for norm in (fusion.surface_norm, fusion.latent_norm):
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
    h, z, m, r = (torch.randn(2, 3, width) for width in (D, D, D, 4))
    g = torch.rand(2, 3, D)
    u, v = array(h) @ array(fusion.surface.weight).T, array(z) @ array(fusion.latent.weight).T
    if branch_norm:
        u, v = layer_norm(u, fusion.surface_norm), layer_norm(v, fusion.latent_norm)
    offset = array(m) @ array(fusion.memory.weight).T + array(r) @ array(fusion.regime.weight).T
    close(fusion(h, z, m, r, g), array(g) * u + (1 - array(g)) * v + offset)


@pytest.mark.parametrize("branch_norm", [True, False])
@pytest.mark.parametrize("concat", [True, False])
def test_without_a_gate_the_branches_are_added_or_mapped_together(branch_norm, concat):
    torch.manual_seed(0)
    fusion = Fusion(D, True, False, 0, branch_norm, isolate=True, concat=concat)
    h, z = torch.randn(2, 3, D), torch.randn(2, 3, D)
    u, v = array(h) @ array(fusion.surface.weight).T, array(z) @ array(fusion.latent.weight).T
    if branch_norm:
        u, v = layer_norm(u, fusion.surface_norm), layer_norm(v, fusion.latent_norm)
    wanted = np.concatenate((u, v), axis=-1) @ array(fusion.concat.weight).T if concat else u + v
    close(fusion(h, z, None, None, None), wanted)
    maps = (2 + 2 * concat) * D * D
    assert fusion.num_params() == maps + 4 * D * branch_norm == sum(p.numel() for p in fusion.parameters())
    assert fusion.flops_per_token(5) == 2 * maps


def test_a_single_branch_is_not_normalised():
    fusion = Fusion(D, False, False, 0, branch_norm=True, isolate=True)
    h = torch.randn(2, 3, D)
    close(fusion(h, None, None, None, None), array(h) @ array(fusion.surface.weight).T)
    assert fusion.num_params() == D * D == sum(p.numel() for p in fusion.parameters())


def test_sizes_and_costs_of_the_parts():
    """Formula against tensors, and against a counter of matrix products for what consists of products alone."""
    model = make_model("lolm", size={"n_layers": 2})
    x = torch.randn(2, 32, 32)
    r = torch.randn(2, 32, 16)
    for part in model.components().values():
        assert part.num_params() == sum(p.numel() for p in part.parameters())

    def products(call) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        return counter.get_total_flops() / (2 * 32)

    gate, fusion, regime, memory = model.gate, model.fusion, model.regime, model.memory
    assert products(lambda: gate(x, x, x, r)) == gate.flops_per_token(32)
    assert products(lambda: fusion(x, x, x, r, x)) == fusion.flops_per_token(32)
    assert products(lambda: model.surface.layers[0].mlp(x)) == model.surface.layers[0].mlp.flops_per_token(32)
    # The convolution also pads; the counter sees kernel * codes² products for each of the 32 outputs, as the formula does.
    assert products(lambda: regime(x, x, x)) == regime.flops_per_token(32)
    # One write between two chunks of 16; its update of 3 * 8 slots of width 32 takes three operations each.
    assert products(lambda: memory(x)) + 3 * 3 * 8 * 32 / 32 == memory.flops_per_token(32)
