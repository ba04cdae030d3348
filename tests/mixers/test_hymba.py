"""The parallel layer against its equation, with the two branches taken from tested mixers and from the transformers package."""

import pytest
import torch
from test_attention import naive
from test_mamba1 import jamba_oracle_of

from lolm.mixers.attention import Attention
from lolm.mixers.base import Mixer, keeps_init
from lolm.mixers.hymba import Hymba
from lolm.mixers.mamba1 import Mamba1

OPTIONS = {"kv_heads": 2, "d_state": 4, "dt_rank": 3}


def rms(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("window", [None, 4])
def test_forward_and_gradients_equal_the_equation(window):
    """Attention from its naive form, the SSM from Jamba's mixer of the transformers package, both behind identity output maps."""
    torch.manual_seed(0)
    d, inner = 24, 48
    mixer = Hymba(d, 4, window=window, **OPTIONS)
    with torch.no_grad():
        mixer.attention_norm.weight.uniform_(0.5, 1.5)
        mixer.ssm_norm.weight.uniform_(0.5, 1.5)
    attention = Attention(d, 4, head_width=inner // 4, kv_heads=2, window=window)
    attention.qkv = mixer.attention.qkv
    attention.out = torch.nn.Linear(inner, inner, bias=False)
    attention.out.weight.data.copy_(torch.eye(inner))
    ssm = Mamba1(d, d_state=4, dt_rank=3, d_conv=3, inner_norms=True)
    ssm.load_state_dict(mixer.ssm.state_dict() | {"out_proj.weight": ssm.out_proj.weight})
    oracle = jamba_oracle_of(ssm)
    oracle.out_proj = torch.nn.Identity()

    x = torch.randn(2, 11, d)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    branches = (
        rms(naive(attention, theirs)) * mixer.attention_norm.weight,
        rms(oracle(theirs)) * mixer.ssm_norm.weight,
    )
    y, wanted = mixer(ours), (0.5 * (branches[0] + branches[1])) @ mixer.out_proj.weight.double().T
    torch.testing.assert_close(y.double(), wanted, rtol=1e-4, atol=1e-6)

    weights = torch.randn_like(y)
    shared = [mixer.attention.qkv.weight, mixer.attention_norm.weight, mixer.ssm_norm.weight, mixer.out_proj.weight]
    inside = [mixer.ssm.in_proj.weight, mixer.ssm.A_log, mixer.ssm.dt_norm.weight, mixer.ssm.conv_bias]
    outside = [oracle.in_proj.weight, oracle.A_log, oracle.dt_layernorm.weight, oracle.conv1d.bias]
    gradients = torch.autograd.grad((y * weights).sum(), [ours, *shared, *inside])
    for a, b in zip(gradients, torch.autograd.grad((wanted * weights).sum(), [theirs, *shared, *outside]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_parts_reach_what_sets_them_from_outside():
    mixer = Hymba(24, 4, **OPTIONS)
    assert [type(m).__name__ for m in mixer.modules() if isinstance(m, Mixer)] == ["Hymba", "Attention", "Mamba1"]
    assert not any("out" in name.split(".")[1:] or "out_proj" in name.split(".")[1:] for name, _ in mixer.named_parameters())
    assert all(keeps_init(m, name) for m in mixer.ssm.modules() for name, _ in m.named_parameters(recurse=False))
    assert not keeps_init(mixer.out_proj, "weight")  # the initialiser scales it by depth
    ssm = {name: p.shape for name, p in mixer.ssm.named_parameters()}
    assert ssm["conv_weight"] == (48, 3)
    assert torch.equal(mixer.attention_norm.weight, torch.ones(48))


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_the_backend_of_the_scan_is_the_one_asked_for(kernels, monkeypatch):
    import lolm.mixers.mamba1 as mamba1

    asked = []
    scan = mamba1.selective_scan
    monkeypatch.setattr(mamba1, "selective_scan", lambda *x, backend: asked.append(backend) or scan(*x, backend=backend))
    mixer = Hymba(24, 4, **OPTIONS)
    for module in mixer.modules():
        if isinstance(module, Mixer):
            module.kernels = kernels
    mixer(torch.randn(1, 5, 24))
    assert asked == [kernels]
