"""Each loss term against numbers worked out by hand or a loop in NumPy, and which parameters each one trains."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import architecture_of, make_model, make_run, random_tokens

from lolm.config import ConfigError, FutureSize, ObjectiveConfig
from lolm.models.regime import exponential_noise, gumbel_softmax
from lolm.objectives import (
    IGNORED,
    LOSS_BLOCK,
    FutureHeads,
    auxiliary_losses,
    build_heads,
    change,
    competitive,
    competitive_target,
    cpc_positions,
    entropy,
    future_cosine,
    future_cpc,
    manifest,
    memory_attention,
    memory_variance,
    regime_balance,
    regime_entropy,
    token_loss,
    total_loss,
)


def cosine(a, b) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


# ------------------------------------------------------------------------------------------ token loss


def test_token_loss_by_hand():
    model = make_model("lolm_published", vocab_size=3)
    with torch.no_grad():
        model.embedding.weight[:] = 0.0
        model.embedding.weight[:, 0] = torch.tensor([0.0, 1.0, 2.0])
    o = torch.zeros(1, 2, 32)
    o[0, 1, 0] = 1.0  # logits 0 0 0 and 0 1 2
    wanted = (math.log(3) + math.log(1 + math.e + math.e**2) - 1) / 2
    assert float(token_loss(model, o, torch.tensor([[2, 1]])).detach()) == pytest.approx(wanted, rel=1e-6)


def test_blockwise_token_loss_and_its_gradients_equal_the_whole():
    model = make_model("lolm")
    length = LOSS_BLOCK // 2 + 77  # one whole block and a short one
    o = torch.randn(2, length, 32, requires_grad=True)
    y = random_tokens(2, length)
    leaves = [o, model.embedding.weight]
    whole = F.cross_entropy(model.logits(o).flatten(0, 1), y.flatten())
    blocks = token_loss(model, o, y)
    torch.testing.assert_close(blocks, whole)
    for a, b in zip(torch.autograd.grad(blocks, leaves), torch.autograd.grad(whole, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("arm", ["lolm", "lolm_published"])  # with a norm before the head, and without
def test_the_loss_for_gpus_equals_that_of_the_logits_with_its_gradients(arm):
    model = make_model(arm)
    o, y = torch.randn(2, 24, 32, requires_grad=True), random_tokens(2, 24)
    y[0, :7] = IGNORED
    leaves = [o, *model.head_norm.parameters(), model.embedding.weight]
    blocks = model.nats(o.flatten(0, 1), y.flatten(), IGNORED) / (y != IGNORED).sum()
    whole = token_loss(model, o, y)
    torch.testing.assert_close(blocks, whole)
    for a, b in zip(torch.autograd.grad(blocks, leaves), torch.autograd.grad(whole, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("length", [24, LOSS_BLOCK // 2 + 77])  # in one piece, and in blocks
def test_positions_that_are_not_asked_do_not_count(length):
    model = make_model("lolm")
    o = torch.randn(2, length, 32, requires_grad=True)
    y = random_tokens(2, length)
    asked = torch.rand(2, length, generator=torch.Generator().manual_seed(0)) < 0.3
    masked = token_loss(model, o, torch.where(asked, y, IGNORED))
    torch.testing.assert_close(masked, F.cross_entropy(model.logits(o)[asked], y[asked]))
    (gradient,) = torch.autograd.grad(masked, o)
    assert (gradient[~asked] == 0).all()
    assert (gradient[asked] != 0).any(dim=-1).all()


# ------------------------------------------------------------------------------------------ future


@pytest.mark.parametrize(("length", "candidates"), [(2048, 292), (512, 504), (128, 120), (264, 256), (265, 257), (9, 1)])
def test_number_of_candidates(length, candidates):
    size = FutureSize()
    positions = cpc_positions(length, size)
    assert len(positions) == candidates
    assert positions[-1] + size.horizon < length
    if length == 2048:
        assert math.log(candidates) == pytest.approx(5.677, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.07, 0.01])  # at 0.01 the clamp binds
def test_contrastive_loss_by_hand(temperature):
    torch.manual_seed(0)
    size = FutureSize(horizon=2, hidden=5, width=3, temperature=temperature, positions=4)
    heads = FutureHeads("cpc", size, 6)
    z, h = torch.randn(2, 13, 6), torch.randn(2, 13, 6)
    losses = []
    for i in range(2):
        steps = range(0, 11, 2)  # 11 usable positions, at most about 4: every second
        q = [F.normalize(heads.z(z[i, t]), dim=0) for t in steps]
        k = [F.normalize(heads.h(h[i, t + 2]), dim=0) for t in steps]
        for a in range(6):
            similarities = torch.stack([(q[a] @ key / temperature).clamp(-30, 30) for key in k])
            losses.append(similarities.logsumexp(dim=0) - similarities[a])
    assert future_cpc(z, h, heads).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_the_contrastive_loss_runs_on_the_backend_that_is_asked_for():
    run = make_run("lolm")
    heads = build_heads(run.architecture, run.size, kernels="cuda")
    z = torch.randn(2, 30, run.size.d_model)
    with pytest.raises(ConfigError, match="'cuda' is for GPUs, but the model is on the CPU"):
        future_cpc(z, z, heads)


def test_contrastive_loss_without_information_is_ln_n():
    heads = FutureHeads("cpc", FutureSize(), 6)
    z, h = torch.ones(1, 512, 6), torch.ones(1, 512, 6)  # every position looks the same
    assert float(future_cpc(z, h, heads).detach()) == pytest.approx(math.log(504), abs=1e-5)


def test_contrastive_loss_of_a_perfect_match_is_near_zero():
    heads = FutureHeads("cpc", FutureSize(horizon=1, hidden=8, width=64), 64)
    heads.z, heads.h = torch.nn.Identity(), torch.nn.Identity()
    h = torch.eye(64)[None]
    z = torch.roll(h, -1, dims=1)
    wanted = math.log(1 + 62 * math.exp(-1 / 0.07))  # 63 candidates, the others orthogonal
    assert float(future_cpc(z, h, heads)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("negatives", ["batch", "position"])
def test_contrastive_loss_against_other_sequences_by_hand(negatives):
    torch.manual_seed(0)
    size = FutureSize(horizon=2, hidden=5, width=3, temperature=0.07, positions=4)
    heads = FutureHeads("cpc", size, 6, negatives=negatives)
    z, h = torch.randn(3, 13, 6), torch.randn(3, 13, 6)
    steps = range(0, 11, 2)
    losses = []
    for i in range(3):
        for t in steps:
            q = F.normalize(heads.z(z[i, t]), dim=0)
            others = [(j, s) for j in range(3) if j != i for s in steps if negatives == "batch" or s == t]
            keys = [F.normalize(heads.h(h[j, s + 2]), dim=0) for j, s in [(i, t), *others]]
            similarities = torch.stack([(q @ key / 0.07).clamp(-30, 30) for key in keys])
            losses.append(similarities.logsumexp(dim=0) - similarities[0])
    assert len(keys) == heads.candidates(13, 3) == (13 if negatives == "batch" else 3)
    found = future_cpc(z, h, heads)
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    found.backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())
    same = torch.ones(3, 13, 6)  # nothing to go by
    assert float(future_cpc(same, same, heads).detach()) == pytest.approx(math.log(heads.candidates(13, 3)), abs=1e-5)


def test_knowing_the_position_solves_the_published_task_and_is_worth_nothing_at_one_position():
    """Facts F10. z_t holds t + 1 and h_t holds t, the same in all four sequences."""
    h = torch.eye(64).repeat(4, 1, 1)
    z = torch.roll(h, -1, dims=1)

    def loss(negatives):
        heads = FutureHeads("cpc", FutureSize(horizon=1), 64, negatives=negatives)
        heads.z, heads.h = torch.nn.Identity(), torch.nn.Identity()
        return float(future_cpc(z, h, heads)), math.log(heads.candidates(64, 4))

    assert loss("sequence") == pytest.approx((0, math.log(63)), abs=1e-4)
    assert loss("batch") == pytest.approx((math.log(4), math.log(1 + 3 * 63)), abs=1e-4)  # far below chance all the same
    assert loss("position") == pytest.approx((math.log(4), math.log(4)), abs=1e-4)


def test_one_sequence_alone_has_no_negatives():
    run = make_run("lolm_cpc_documents")
    heads = build_heads(run.architecture, run.size)
    assert heads.negatives == "batch"
    for batch in (1, 2):
        found = auxiliary_losses(run.architecture.objectives, make_model("lolm").streams(random_tokens(batch, 20)), heads)
        assert ("future" in found) == (batch == 2)
    for arm in ("lolm_cpc_documents", "lolm_cpc_positions"):
        with pytest.raises(ConfigError, match=r"smoke\.training\.batch_size: 1 leaves arm .* no negatives.*set it to 2 or more"):
            make_run(arm, training={"batch_size": 1})
    assert make_run("lolm", training={"batch_size": 1}).training.batch_size == 1


@pytest.mark.parametrize("horizon", [1, 3])
def test_cosine_loss_by_hand(horizon):
    torch.manual_seed(0)
    heads = FutureHeads("cosine", FutureSize(horizon=horizon), 4)
    z, h = torch.randn(2, 9, 4), torch.randn(2, 9, 4)
    w, b = heads.z.weight.detach().numpy(), heads.z.bias.detach().numpy()
    values = [
        cosine(w @ z[i, t].numpy() + b, h[i, t + 1 : t + 1 + horizon].numpy().mean(axis=0))
        for i in range(2)
        for t in range(9 - horizon)
    ]
    assert float(future_cosine(z, h, heads)) == pytest.approx(-np.mean(values), rel=1e-4)


# ------------------------------------------------------------------------------------------ change


def test_change_is_minus_the_correlation():
    torch.manual_seed(0)
    h, p = torch.randn(3, 12, 5), torch.rand(3, 12, 4)
    correlations = []
    for i in range(3):
        a = [1 - cosine(h[i, t].numpy(), h[i, t - 1].numpy()) for t in range(1, 12)]
        b = [1 - cosine(p[i, t].numpy(), p[i, t - 1].numpy()) for t in range(1, 12)]
        correlations.append(np.corrcoef(a, b)[0, 1])
    assert float(change(h, p)) == pytest.approx(-np.mean(correlations), rel=1e-4)


def test_change_of_a_stream_with_itself_is_minus_one_and_constant_sequences_do_not_count():
    torch.manual_seed(0)
    h = torch.rand(2, 12, 5)
    assert float(change(h, h)) == pytest.approx(-1, abs=1e-5)
    p = h.clone()
    p[1] = 0.2  # does not change
    assert float(change(h, p)) == pytest.approx(-1, abs=1e-5)
    flat = torch.full((2, 12, 5), 0.2, requires_grad=True)
    loss = change(h, flat)
    assert float(loss.detach()) == 0
    loss.backward()
    assert flat.grad.isfinite().all()


# ------------------------------------------------------------------------------------------ regime


def test_entropy_of_certainty_is_zero_and_of_ignorance_ln_r():
    assert float(entropy(torch.tensor([0.0, 1.0, 0.0]))) == 0
    assert float(entropy(torch.full((8,), 1 / 8))) == pytest.approx(math.log(8))
    assert float(entropy(torch.tensor([0.5, 0.25, 0.25]))) == pytest.approx(1.5 * math.log(2))
    p = torch.tensor([0.0, 1.0], requires_grad=True)
    entropy(p).backward()
    assert p.grad.isfinite().all()


def balance_by_hand(p: np.ndarray) -> tuple[float, float, float]:
    flat = p.reshape(-1, p.shape[-1])
    shares = np.bincount(flat.argmax(axis=1), minlength=p.shape[-1]) / len(flat)
    balance = p.shape[-1] * (flat.mean(axis=0) * shares).sum()
    h = np.mean([-(q[q > 0] * np.log(q[q > 0])).sum() for q in flat])
    sticky = -np.mean([cosine(s[t], s[t - 1]) for s in p for t in range(1, p.shape[1])])
    return float(balance), float(h), float(sticky)


def test_balanced_regime_loss_by_hand():
    p = torch.randn(2, 7, 4, dtype=torch.float64).softmax(dim=-1)
    balance, h, sticky = balance_by_hand(p.numpy())
    assert float(regime_balance(p)) == pytest.approx(0.5 * balance - h + 0.2 * sticky, rel=1e-5)


def test_regime_loss_with_other_weights_by_hand():
    """Two tokens over two codes: p = (3/4, 1/4), (1/2, 1/2), both with argmax 0. L_bal = 2 · 5/8 · 1; cos = 2 / √5."""
    p = torch.tensor([[[0.75, 0.25], [0.5, 0.5]]])
    h = (2 * math.log(2) - 0.75 * math.log(3) + math.log(2)) / 2
    sticky = -2 / math.sqrt(5)
    assert float(regime_balance(p)) == pytest.approx(0.5 * 1.25 - h + 0.2 * sticky)
    assert float(regime_balance(p, 0.5, 1.0)) == pytest.approx(0.5 * 1.25 + h + 0.2 * sticky)
    assert float(regime_balance(p, 0.0, -1.0)) == pytest.approx(-h + 0.2 * sticky)
    assert float(regime_balance(p, 0.0, 1.0)) == pytest.approx(h + 0.2 * sticky)


@pytest.mark.parametrize(
    ("arm", "weights"),
    [("lolm", (0.5, -1.0)), ("lolm_reg_ie", (0.5, 1.0)), ("lolm_reg_ib", (0.0, -1.0)), ("lolm_reg_eb", (0.0, 1.0))],
)
def test_the_regime_loss_of_an_arm_has_its_weights(arm, weights):
    streams = make_model(arm).streams(random_tokens(2, 20))
    found = auxiliary_losses(make_run(arm).architecture.objectives, streams, None)["regime"]
    assert torch.equal(found, regime_balance(streams.p, *weights))


def test_balance_is_one_at_best_and_r_at_worst():
    even = torch.eye(4).repeat(1, 2, 1)  # one-hot, each code equally often; neighbours orthogonal
    assert float(regime_balance(even)) == pytest.approx(0.5 * 1 - 0 + 0.2 * 0)
    one = torch.eye(4)[:1].repeat(1, 8, 1)  # one code always: balance R, sticky -1
    assert float(regime_balance(one)) == pytest.approx(0.5 * 4 - 0 - 0.2)
    p = torch.rand(5, 50, 4).softmax(dim=-1)
    assert balance_by_hand(p.numpy())[0] >= 1 - 1e-2


def test_shares_of_argmaxes_give_no_gradient():
    p = torch.randn(1, 6, 3).softmax(dim=-1).requires_grad_()
    share = F.one_hot(p.detach().argmax(dim=-1), 3).float().mean(dim=(0, 1))
    (gradient,) = torch.autograd.grad(regime_balance(p) + entropy(p).mean(), p)
    sticky = -F.cosine_similarity(p[:, 1:], p[:, :-1], dim=-1).mean()
    (of_sticky,) = torch.autograd.grad(0.2 * sticky, p)
    torch.testing.assert_close(gradient - of_sticky, (0.5 * 3 * share / 6).expand(1, 6, 3), rtol=1e-4, atol=1e-6)


def test_entropy_regime_loss_by_hand():
    p = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.25, 0.75], [0.5, 0.5]]], requires_grad=True)
    h = (0.25 * math.log(4) + 0.75 * math.log(4 / 3) + math.log(2)) / 4
    loss = regime_entropy(p)
    assert float(loss.detach()) == pytest.approx(h + 0.1 * 2 / 3)  # codes 0 1 1 0: two switches of three


def test_pure_noise_predicts_the_published_regime_loss():
    """64 codes, τ = 0.95 and uniform logits: −2.115 by an independent simulation, about what the 1.57B log implies (facts F7)."""
    rng = np.random.default_rng(0)
    weights = np.exp(rng.gumbel(size=(8, 2048, 64)) / 0.95)
    balance, h, sticky = balance_by_hand(weights / weights.sum(axis=-1, keepdims=True))
    wanted = 0.5 * balance - h + 0.2 * sticky
    assert wanted == pytest.approx(-2.13, abs=0.02)
    noise = exponential_noise((16, 2048, 64), torch.device("cpu"), torch.Generator().manual_seed(0))
    p = gumbel_softmax(torch.zeros(16, 2048, 64), 0.95, noise)
    assert float(regime_balance(p)) == pytest.approx(wanted, abs=0.01)


# ------------------------------------------------------------------------------------------ gate and memory


def test_competitive_target_by_hand():
    torch.manual_seed(0)
    h, z = torch.randn(2, 11, 4), torch.randn(2, 11, 4)
    target = competitive_target(h, z)
    assert target.shape == (2, 3)
    for i in range(2):
        for t in range(3):
            future = h[i, t + 8].numpy()
            gap = cosine(h[i, t].numpy(), future) - cosine(z[i, t].numpy(), future)
            assert float(target[i, t]) == pytest.approx(1 / (1 + math.exp(-5 * np.clip(gap, -5, 5))), rel=1e-4)


@pytest.mark.parametrize(("gap", "level"), [(0.317, 0.83), (0.18, 0.71), (0.0, 0.5)])
def test_published_gate_levels_follow_from_small_cosine_gaps(gap, level):
    h = torch.zeros(1, 9, 2)
    h[..., 0] = 1.0  # u_h = 1
    z = torch.tensor([1 - gap, math.sqrt(1 - (1 - gap) ** 2)]).expand(1, 9, 2)
    assert float(competitive_target(h, z)) == pytest.approx(level, abs=5e-3)


def test_competitive_loss_and_manifest_by_hand():
    g = torch.tensor([[[0.2, 0.4], [0.6, 0.8], [0.0, 1.0]]])
    assert float(competitive(g, torch.tensor([[0.5, 0.5]]))) == pytest.approx((0.2**2 + 0.2**2) / 2)
    assert float(manifest(g)) == pytest.approx(0.5)


def test_memory_losses_by_hand():
    attention = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]])
    assert float(memory_attention(attention)) == pytest.approx((0.5 + 0 + 1) / 3)
    m = torch.tensor([[[1.0, 3.0], [5.0, 5.0]]])
    assert float(memory_variance(m)) == pytest.approx(-(2.0 + 0.0) / 2)


# ------------------------------------------------------------------------------------------ the sum


def test_the_sum_is_weighted_and_every_term_but_manifest_clamped():
    objectives = ObjectiveConfig(
        future_weight=0.5, change_weight=0.1, regime_weight=0.3, competitive_weight=0.2, memory_weight=0.05, manifest_weight=0.01
    )
    values = {"future": 80.0, "change": -0.5, "regime": -70.0, "competitive": 0.25, "memory": 1.0, "manifest": 100.0}
    terms = {name: torch.tensor(v) for name, v in values.items()}
    rest = 0.1 * -0.5 + 0.2 * 0.25 + 0.05 * 1 + 0.01 * 100
    assert float(total_loss(objectives, torch.tensor(60.0), terms)) == pytest.approx(60 + 0.5 * 50 - 0.3 * 50 + rest)
    free = ObjectiveConfig(auxiliary_clamp=None, regime_weight=0.3, competitive_weight=0.2)
    assert float(total_loss(free, torch.tensor(60.0), terms)) == pytest.approx(60 + 0.5 * 80 - 0.3 * 70 + rest)


@pytest.mark.parametrize(
    ("arm", "terms"),
    [
        ("lolm", {"future", "change", "regime", "competitive", "memory", "manifest"}),
        ("lolm_v0", {"future", "regime", "memory", "manifest"}),
        ("transformer", set()),
    ],
)
def test_terms_of_an_arm(arm, terms):
    model, run = make_model(arm), make_run(arm)
    heads = build_heads(run.architecture, run.size)
    streams = model.streams(random_tokens(2, 20))
    found = auxiliary_losses(run.architecture.objectives, streams, heads)
    assert set(found) == terms
    assert all(torch.isfinite(term) for term in found.values())


@pytest.mark.parametrize("length", [1, 2, 8, 9, 10])
def test_sequences_shorter_than_a_horizon_skip_its_term(length):
    for arm in ("lolm", "lolm_v0"):
        model, run = make_model(arm, memory={"chunking": "tokens"}), make_run(arm)
        heads = build_heads(run.architecture, run.size)
        found = auxiliary_losses(run.architecture.objectives, model.streams(random_tokens(2, length)), heads)
        assert all(torch.isfinite(term) for term in found.values()), found
        assert ("future" in found) == (length > 9)


# ------------------------------------------------------------------------------------------ who is trained by what


def gradients_of(arm: str, loss: str, **architecture) -> set[str]:
    """Names of the parameters (heads under ``heads.``) that one loss alone reaches with a gradient that is not zero."""
    run = make_run(arm, **architecture)
    model = make_model(arm, **architecture).train()
    heads = build_heads(run.architecture, run.size)
    tokens = random_tokens(2, 33)
    streams = model.streams(tokens[:, :-1], model.noise(tokens[:, :-1], torch.Generator().manual_seed(0)))
    if loss == "token":
        term = token_loss(model, model.fuse(streams), tokens[:, 1:])
    else:
        term = auxiliary_losses(run.architecture.objectives, streams, heads)[loss]
    term.backward()
    named = list(model.named_parameters()) + [(f"heads.{n}", p) for n, p in (heads.named_parameters() if heads else ())]
    return {name for name, p in named if p.grad is not None and p.grad.abs().max() > 0}


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_token_loss_trains_every_part_of_the_model():
    """Contrary to the published separation of objectives (facts F16)."""
    names = gradients_of("lolm", "token")
    every = {name for name, _ in make_model("lolm").named_parameters()}
    assert every - names == set()


def test_isolation_leaves_the_gate_as_the_only_way_to_the_codes():
    def without_regime_columns(isolate):
        model = make_model("lolm", regime={"isolate": isolate}).train()
        with torch.no_grad():
            model.gate.hidden.weight[:, -16:] = 0  # W₁'s columns of r
        tokens = random_tokens(2, 33)
        token_loss(model, model.fuse(model.streams(tokens[:, :-1])), tokens[:, 1:]).backward()
        return {n: float(p.grad.abs().max()) for n, p in model.named_parameters() if n.startswith("regime.")}

    assert {"regime.codebook", "regime.logits.weight"} <= gradients_of("lolm", "token")
    assert all(value == 0 for value in without_regime_columns(True).values())
    assert all(value > 0 for value in without_regime_columns(False).values())
    ungated = {"gate": {"form": "none"}}
    assert "regime" not in parts(gradients_of("lolm", "token", **ungated))
    assert "regime" in parts(gradients_of("lolm", "token", regime={"isolate": False}, **ungated))


def test_each_auxiliary_loss_trains_what_it_reads():
    regime_maps = {"regime.logits.weight", "regime.conv.weight", "regime.conv.bias", "regime.conv_weight"}
    upstream = {"embedding", "surface", "latent"}
    future = gradients_of("lolm", "future")
    assert parts(future) == upstream | {"heads"}  # through z alone
    assert {n for n in future if n.startswith("heads.h")}
    assert {n for n in future if n.startswith("heads.z")}
    for loss in ("change", "regime"):
        found = gradients_of("lolm", loss)
        assert parts(found) == upstream | {"memory", "regime"}
        assert {n for n in found if n.startswith("regime.")} == regime_maps  # never the codebook
    for loss in ("competitive", "manifest"):
        found = gradients_of("lolm", loss)
        assert parts(found) == upstream | {"memory", "regime", "gate"}
        assert "regime.codebook" in found
        assert "fusion" not in parts(found)
    found = gradients_of("lolm", "memory")
    assert parts(found) == {"embedding", "surface", "memory"}
    assert "memory.combine.weight" not in found  # attention is read before it


def test_with_every_way_of_the_latent_stream_cut_only_its_own_loss_trains_it():
    """What detaching z leaves to CPC (facts A11, F16). The regime's losses reach the SSM too unless z is cut there as well."""

    def trained(loss, *detach):
        return {name for name in gradients_of("lolm", loss, detach=detach) if name.startswith("latent.")}

    every = {name for name, _ in make_model("lolm").named_parameters() if name.startswith("latent.")}
    published = ("latent_fusion", "latent_gate")
    assert trained("token", *published) == every  # z → codes → gate
    assert trained("regime", *published) == trained("change", *published) == every
    for loss in ("token", "regime", "change", "competitive", "manifest", "memory"):
        assert trained(loss, *published, "latent_regime") == set(), loss
    assert trained("future", *published, "latent_regime") == every
    assert "surface" in parts(gradients_of("lolm", "future"))
    assert parts(gradients_of("lolm", "future", detach=("surface_latent",))) == {"latent", "heads"}


def test_targets_are_detached():
    h, z = (torch.randn(2, 20, 6, requires_grad=True) for _ in range(2))
    heads = FutureHeads("cpc", FutureSize(hidden=4, width=4), 6)
    future_cpc(z, h, heads).backward()
    assert h.grad is None
    assert z.grad is not None
    future_cosine(z, h, FutureHeads("cosine", FutureSize(), 6)).backward()
    assert h.grad is None
    p = torch.rand(2, 20, 4, requires_grad=True)
    change(h, p).backward()
    assert h.grad is None
    assert p.grad.abs().max() > 0
    assert not competitive_target(h, z).requires_grad


def test_the_first_version_never_trained_its_projection():
    run = make_run("lolm_v0")
    assert not any(p.requires_grad for p in build_heads(run.architecture, run.size).parameters())
    names = gradients_of("lolm_v0", "future")
    assert parts(names) == {"embedding", "surface", "latent"}
    assert "heads" in parts(gradients_of("lolm_v0", "future", objectives={"future_trained": True}))


def test_heads_exist_only_where_something_reads_them():
    size = make_run("lolm").size
    assert build_heads(architecture_of("lolm", objectives={"future": "none"}), size) is None
    assert build_heads(architecture_of("lolm", latent={"form": "none"}), size) is None
    assert build_heads(architecture_of("transformer"), size) is None
    heads = build_heads(architecture_of("lolm"), size)
    assert sum(p.numel() for p in heads.parameters()) == 2 * (32 * 32 + 32 + 32 * 32 + 32)
