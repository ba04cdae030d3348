"""Attention against an explicit mask and a complex rotation in float64, and against four models of the transformers package."""

import math

import pytest
import torch
import torch.nn.functional as F

from lolm.mixers.attention import Attention, rope_tables, rotate


def naive(mixer: Attention, x: torch.Tensor) -> torch.Tensor:
    """Head by head, with the T × T matrix of scores, in float64."""
    batch, length, _ = x.shape
    heads, groups, width, turned_width = mixer.n_heads, mixer.kv_heads, mixer.head_width, mixer.rotated
    qkv = (x.double() @ mixer.qkv.weight.double().T).split(width, dim=-1)
    pairs = range(turned_width // 2)
    turns = torch.tensor([[t / 10_000 ** (2 * i / turned_width) for i in pairs] for t in range(length)], dtype=torch.float64)

    def turned(y):
        if not turned_width:
            return y
        complex_pairs = torch.view_as_complex(y[..., :turned_width].reshape(batch, length, -1, 2).contiguous())
        return torch.cat((torch.view_as_real(complex_pairs * torch.exp(1j * turns)).flatten(-2), y[..., turned_width:]), dim=-1)

    window = mixer.window or length
    seen = torch.tensor([[0 <= i - j < window for j in range(length)] for i in range(length)])
    out = []
    for head in range(heads):
        group = head // (heads // groups)
        q, k, v = qkv[head], qkv[heads + group], qkv[heads + groups + group]
        scores = (turned(q) @ turned(k).transpose(1, 2) / width**0.5).masked_fill(~seen, float("-inf"))
        out.append(scores.softmax(dim=-1) @ v)
    bias = 0 if mixer.out.bias is None else mixer.out.bias.double()
    return torch.cat(out, dim=-1) @ mixer.out.weight.double().T + bias


def check_against_naive(mixer: Attention, length: int) -> None:
    x = torch.randn(2, length, mixer.d_model)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = mixer(ours), naive(mixer, theirs)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(y)
    gradients = torch.autograd.grad((y * weights).sum(), [ours, *mixer.parameters()])
    for a, b in zip(gradients, torch.autograd.grad((wanted * weights).sum(), [theirs, *mixer.parameters()]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kv_heads": 2},
        {"kv_heads": 1, "rope": 0.5},
        {"head_width": 10, "rope": 0},
        {"kv_heads": 2, "head_width": 4, "rope": 0.5, "out_bias": True, "window": 5},
    ],
)
def test_forward_and_gradients_equal_the_naive_form(options):
    torch.manual_seed(0)
    check_against_naive(Attention(32, 4, **options), 13)


@pytest.mark.parametrize("window", [1, 2, 5, 8])
@pytest.mark.parametrize("length", [1, 4, 5, 6, 9, 10, 11, 16, 23])
def test_windows_equal_an_explicit_mask(length, window):
    torch.manual_seed(length)
    check_against_naive(Attention(8, 2, window=window), length)


def test_no_matrix_of_scores_is_wider_than_two_windows(monkeypatch):
    """Time and memory grow with T · W: the scores of all calls together are at most 2 · T · W of them per head."""
    shapes = []
    attention = F.scaled_dot_product_attention

    def recorded(q, k, v, **options):
        shapes.append((q.shape[0] * q.shape[1], q.shape[2], k.shape[2]))
        return attention(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    mixer = Attention(8, 2, window=16)
    mixer.kernels = "reference"
    mixer(torch.randn(3, 160, 8))
    assert max(keys for _, _, keys in shapes) == 32
    assert sum(math.prod(shape) for shape in shapes) <= 3 * 2 * 2 * 160 * 16


def test_rotation_depends_on_distance_alone():
    x, y = torch.randn(8), torch.randn(8)
    cos, sin = rope_tables(50, 8, 10_000.0, torch.device("cpu"))

    def score(i, j):
        return rotate(x, cos[i], sin[i]) @ rotate(y, cos[j], sin[j])

    torch.testing.assert_close(score(3, 10), score(33, 40), rtol=1e-5, atol=1e-5)
    assert abs(score(3, 10) - score(3, 11)) > 1e-3


def test_without_positions_the_order_of_earlier_tokens_does_not_matter():
    torch.manual_seed(0)
    x = torch.randn(1, 9, 16)
    shuffled = torch.cat((x[:, [4, 2, 0, 7, 1, 3, 6, 5]], x[:, 8:]), dim=1)
    for rope, equal in ((0, True), (0.5, False)):
        mixer = Attention(16, 2, rope=rope)
        assert torch.allclose(mixer(x)[:, 8], mixer(shuffled)[:, 8], atol=1e-6) is equal


def test_tables_grow_with_the_sequence():
    torch.manual_seed(0)
    mixer = Attention(16, 2)
    short, long = torch.randn(1, 4, 16), torch.randn(1, 40, 16)
    mixer(short)
    y = mixer(long)
    torch.manual_seed(0)
    torch.testing.assert_close(y, Attention(16, 2)(long), rtol=0, atol=0)


@pytest.mark.parametrize("window", [None, 3])
def test_dropout_acts_in_training_only(window):
    torch.manual_seed(0)
    mixer = Attention(16, 2, dropout=0.5, window=window)
    x = torch.randn(1, 8, 16)
    assert not torch.equal(mixer(x)[:, :3], mixer(x)[:, :3])
    assert not torch.equal(mixer(x)[:, 3:], mixer(x)[:, 3:])
    mean = torch.stack([mixer(x) for _ in range(2000)]).mean(dim=0)
    mixer.eval()
    assert torch.equal(mixer(x), mixer(x))
    torch.testing.assert_close(mean, mixer(x), rtol=0, atol=0.06)  # dropped weights are made up for by scaling the others


# ---------------------------------------------------------------------------------------------- transformers


def llama():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=12, attn_implementation="eager")
    rotary = LlamaRotaryEmbedding(config)
    attention = LlamaAttention(config, 0)
    return config, attention, lambda x, at: {"position_embeddings": rotary(x, at)}, {"kv_heads": 2, "head_width": 12}


def mistral():
    from transformers import MistralConfig
    from transformers.models.mistral.modeling_mistral import MistralAttention, MistralRotaryEmbedding

    config = MistralConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, sliding_window=WINDOW, attn_implementation="eager"
    )
    rotary = MistralRotaryEmbedding(config)
    return (
        config,
        MistralAttention(config, 0),
        lambda x, at: {"position_embeddings": rotary(x, at)},
        {"kv_heads": 2, "window": WINDOW},
    )


def recurrent_gemma():
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaAttention

    config = RecurrentGemmaConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=1, attention_window_size=WINDOW, attn_implementation="eager"
    )
    options = {"kv_heads": 1, "rope": 0.5, "window": WINDOW, "out_bias": True}
    return config, RecurrentGemmaAttention(config, 0), lambda x, at: {"position_ids": at}, options


def jamba():
    from transformers import JambaConfig
    from transformers.models.jamba.modeling_jamba import JambaAttention

    config = JambaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager")
    return config, JambaAttention(config, 0), lambda x, at: {}, {"kv_heads": 2, "rope": 0}


WINDOW = 5


def fused(oracle, mixer: Attention, of) -> torch.Tensor:
    """q, k and v of an oracle as the rows of our fused map.

    The oracles rotate dimension i with i + R/2 (rotate half), we rotate neighbours; so our row 2i is their row i.
    """
    half = mixer.rotated // 2
    order = [i + side * half for i in range(half) for side in (0, 1)] + list(range(mixer.rotated, mixer.head_width))
    q, k = (
        of(proj.weight).unflatten(0, (-1, mixer.head_width))[:, order].flatten(0, 1) for proj in (oracle.q_proj, oracle.k_proj)
    )
    return torch.cat((q, k, of(oracle.v_proj.weight)))


@pytest.mark.parametrize("model", [llama, mistral, recurrent_gemma, jamba])
@pytest.mark.parametrize("length", [3, 21])
def test_forward_and_every_gradient_equal_transformers(model, length):
    """Llama: GQA and wide heads. Mistral: window. RecurrentGemma: MQA, half RoPE, window, bias. Jamba: GQA without positions.

    The masks are the package's own. Its sliding windows admit exactly W keys, the query's own included, as ours do; the mask in
    RecurrentGemma's own PyTorch code admits W + 1.
    """
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

    torch.manual_seed(0)
    config, oracle, extra, options = model()
    mixer = Attention(32, 4, **options)
    with torch.no_grad():
        mixer.qkv.weight.copy_(fused(oracle, mixer, lambda w: w))
        mixer.out.load_state_dict(oracle.o_proj.state_dict())
    x, at = torch.randn(2, length, 32), torch.arange(length)[None]
    make_mask = create_sliding_window_causal_mask if mixer.window else create_causal_mask
    mask = make_mask(config, x, None, None, at)
    assert (mask[0, 0] == 0).sum(dim=-1).tolist() == [min(i + 1, mixer.window or length) for i in range(length)]

    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = mixer(ours), oracle(theirs, attention_mask=mask, **extra(x, at))[0]
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (wanted * weights).sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours.grad, theirs.grad, **close)
    torch.testing.assert_close(mixer.qkv.weight.grad, fused(oracle, mixer, lambda w: w.grad), **close)
    for a, b in zip(mixer.out.parameters(), oracle.o_proj.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, **close)
