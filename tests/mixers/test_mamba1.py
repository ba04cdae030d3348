"""Mamba-1 against the implementation in the transformers package, and its values after construction."""

import math

import pytest
import torch
import torch.nn.functional as F

from lolm.config import LatentConfig, LatentSize
from lolm.mixers.base import keeps_init
from lolm.mixers.mamba1 import Mamba1
from lolm.mixers.plain_ssm import PlainSSM
from lolm.models.latent import Latent

D, N = 24, 6


def oracle_of(mixer: Mamba1):
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(
        hidden_size=mixer.d_model, state_size=mixer.d_state, conv_kernel=mixer.d_conv, expand=mixer.d_inner // mixer.d_model,
        time_step_rank=mixer.dt_rank, num_hidden_layers=1,
    )  # fmt: skip
    oracle = MambaMixer(config, layer_idx=0).eval()
    oracle.load_state_dict(
        {
            "A_log": mixer.A_log, "D": mixer.skip, "conv1d.weight": mixer.conv_weight[:, None], "conv1d.bias": mixer.conv_bias,
            "in_proj.weight": mixer.in_proj.weight, "x_proj.weight": mixer.x_proj.weight,
            "dt_proj.weight": mixer.dt_proj.weight, "dt_proj.bias": mixer.dt_proj.bias, "out_proj.weight": mixer.out_proj.weight,
        }
    )  # fmt: skip
    return oracle


PAIRS = {
    "A_log": "A_log", "skip": "D", "conv_weight": "conv1d.weight", "conv_bias": "conv1d.bias", "in_proj.weight": "in_proj.weight",
    "x_proj.weight": "x_proj.weight", "dt_proj.weight": "dt_proj.weight", "dt_proj.bias": "dt_proj.bias",
    "out_proj.weight": "out_proj.weight",
}  # fmt: skip


INNER_NORMS = {
    "dt_norm.weight": "dt_layernorm.weight",
    "B_norm.weight": "b_layernorm.weight",
    "C_norm.weight": "c_layernorm.weight",
}


def jamba_oracle_of(mixer: Mamba1):
    """Jamba's mixer with our weights; its own initial values are not the stock ones and are all overwritten."""
    from transformers import JambaConfig
    from transformers.models.jamba.modeling_jamba import JambaMambaMixer

    config = JambaConfig(
        hidden_size=mixer.d_model, mamba_d_state=mixer.d_state, mamba_d_conv=mixer.d_conv, mamba_dt_rank=mixer.dt_rank,
        mamba_expand=mixer.d_inner // mixer.d_model,
    )  # fmt: skip
    oracle = JambaMambaMixer(config, layer_idx=0).eval()
    ours = dict(mixer.named_parameters())
    shapes = oracle.state_dict()
    oracle.load_state_dict({b: ours[a].detach().view_as(shapes[b]) for a, b in (PAIRS | INNER_NORMS).items()})
    return oracle


def check_gradients(mixer, oracle):
    pairs = PAIRS | (INNER_NORMS if mixer.inner_norms else {})
    theirs = dict(oracle.named_parameters())
    assert set(pairs) == {name for name, _ in mixer.named_parameters()}
    for name, parameter in mixer.named_parameters():
        wanted = theirs[pairs[name]].grad.view_as(parameter)
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()), msg=name)


@pytest.mark.parametrize("length", [1, 3, 45])
@pytest.mark.parametrize("kernels", ["cpu", "reference"])
@pytest.mark.parametrize("inner_norms", [False, True], ids=["mamba", "jamba"])
def test_forward_and_every_gradient_equal_transformers(length, kernels, inner_norms):
    torch.manual_seed(0)
    mixer = Mamba1(D, d_state=N, inner_norms=inner_norms)
    mixer.kernels = kernels
    with torch.no_grad():
        for norm in (mixer.dt_norm, mixer.B_norm, mixer.C_norm):
            for weight in norm.parameters():
                weight.uniform_(0.5, 1.5)
        mixer.skip.uniform_(0.5, 1.5)
        mixer.A_log.add_(0.1 * torch.randn_like(mixer.A_log))
    oracle = jamba_oracle_of(mixer) if inner_norms else oracle_of(mixer)
    x = torch.randn(2, length, D)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = mixer(ours), oracle(theirs)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    check_gradients(mixer, oracle)


@pytest.mark.parametrize("wiring", ["chain", "prenorm", "postnorm"])
def test_the_latent_stream_equals_a_stack_of_transformers_mixers(wiring):
    torch.manual_seed(0)
    latent = Latent(LatentConfig("mamba", wiring), LatentSize(3, N), D)
    oracles = [oracle_of(layer) for layer in latent.layers]
    h = torch.randn(2, 19, D)
    z = latent(h)
    x = h @ latent.in_proj.weight.T
    for oracle in oracles:
        if wiring == "chain":
            x = oracle(x)
        elif wiring == "prenorm":
            x = x + oracle(F.layer_norm(x, (D,)))
        else:
            x = F.layer_norm(x + oracle(x), (D,))
    if wiring == "prenorm":
        x = F.layer_norm(x, (D,))
    torch.testing.assert_close(z, x, rtol=1e-4, atol=1e-6)
    weights = torch.randn_like(z)  # the squares of a LayerNorm add up to a constant, so plain z² would have no gradient
    (z * weights).sum().backward()
    (x * weights).sum().backward()
    for layer, oracle in zip(latent.layers, oracles, strict=True):
        check_gradients(layer, oracle)


def test_values_after_construction():
    torch.manual_seed(0)
    mixer = Mamba1(256, d_state=16)
    assert torch.equal(-mixer.A_log.exp().round(), -torch.arange(1.0, 17).repeat(512, 1))
    assert torch.equal(mixer.skip, torch.ones(512))
    step = F.softplus(mixer.dt_proj.bias)
    assert step.min() >= 1e-3 * 0.999
    assert step.max() <= 1e-1 * 1.001
    assert abs(step.log().mean() - (math.log(1e-3) + math.log(1e-1)) / 2) < 0.15  # log-uniform
    assert mixer.dt_rank == 16
    assert mixer.dt_proj.weight.abs().max() <= 16**-0.5
    assert float(mixer.dt_proj.weight.detach().std()) == pytest.approx(16**-0.5 / math.sqrt(3), rel=0.05)
    assert mixer.conv_weight.abs().max() <= 0.5
    assert all(keeps_init(m, name) for m in mixer.modules() for name, _ in m.named_parameters(recurse=False))


def test_inner_norms_leave_the_stock_values_alone():
    torch.manual_seed(0)
    plain = Mamba1(D, d_state=N)
    torch.manual_seed(0)
    normed = Mamba1(D, d_state=N, inner_norms=True)
    values = dict(normed.named_parameters())
    assert all(torch.equal(values[name], parameter) for name, parameter in plain.named_parameters())
    assert all(torch.equal(values[name], torch.ones_like(values[name])) for name in INNER_NORMS)
    assert all(keeps_init(m, name) for m in normed.modules() for name, _ in m.named_parameters(recurse=False))


def test_inner_width_in_place_of_the_expansion():
    torch.manual_seed(0)
    by_expand = Mamba1(D, d_state=N, expand=3)
    torch.manual_seed(0)
    by_width = Mamba1(D, d_state=N, d_inner=3 * D)
    x = torch.randn(1, 7, D)
    assert torch.equal(by_expand(x), by_width(x))


def test_plain_form_by_the_equations_as_written():
    """Spec A3, token by token in float64, with the skip after the gate."""
    torch.manual_seed(0)
    mixer = PlainSSM(6, d_state=3)
    x = torch.randn(2, 11, 6)
    w = {name: p.detach().double() for name, p in mixer.named_parameters()}
    state, ys = torch.zeros(2, 12, 3, dtype=torch.float64), []
    for t in range(11):
        u, s = (x[:, t].double() @ w["in_proj.weight"].T).chunk(2, dim=-1)
        delta = (1 + (u @ w["dt_proj.weight"].T + w["dt_proj.bias"]).exp()).log()
        b, c = u @ w["B_proj.weight"].T, u @ w["C_proj.weight"].T
        state = (delta[:, :, None] * -w["A_log"].exp()).exp() * state + (delta * u)[:, :, None] * b[:, None]
        y = (state * c[:, None]).sum(-1) * (s * s.sigmoid()) + w["skip"] * u
        ys.append(y @ w["out_proj.weight"].T)
    torch.testing.assert_close(mixer(x).double(), torch.stack(ys, dim=1), rtol=1e-5, atol=1e-6)
    delta = F.softplus(mixer.dt_proj(mixer.in_proj(x).chunk(2, dim=-1)[0]))
    assert 0.4 < delta.mean() < 1.0  # near softplus(0) = 0.69, not in Mamba's range
