"""What is written: the likeliest token, known shares, rows that do not meet, and what ends a text."""

import math

import pytest
import torch
from builders import make_model, random_tokens
from rules import RuleModel, certain

from lolm.generation import GenerationError, generate
from lolm.generation.generate import ENDED, choose


def written(model, prompts, tokens, **settings):
    return torch.stack([token.ids_B for token in generate(model, prompts, tokens, **settings)], dim=1)


@pytest.mark.parametrize("arm", ["lolm", "lolm_published", "samba"])
def test_greedy_writes_what_whole_passes_say(arm):
    model, ids = make_model(arm), random_tokens(2, 18)
    found = written(model, ids, 20, temperature=0)
    with torch.no_grad():
        for _ in range(20):
            ids = torch.cat((ids, model(ids)[:, -1:].argmax(dim=-1)), dim=1)
    assert found.tolist() == ids[:, 18:].tolist()


def test_a_prompt_has_the_same_text_alone_and_among_others():
    model, prompts = make_model("lolm"), random_tokens(4, 9)
    settings = {"temperature": 1.3, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 5}
    together = written(model, prompts, 24, **settings)
    assert [written(model, row[None], 24, **settings)[0].tolist() for row in prompts] == together.tolist()
    assert written(model, prompts, 24, **(settings | {"seed": 6})).tolist() != together.tolist()


def test_a_seed_is_all_that_noise_depends_on_and_a_shared_generator_tells_equal_prompts_apart():
    model, prompts = make_model("transformer", size={"dropout": 0.5}).train(), random_tokens(1, 5).expand(2, 5)
    first = written(model, prompts, 16, seed=1)
    torch.rand(1)
    assert first.equal(written(model, prompts, 16, seed=1))
    assert first[0].equal(first[1])
    shared = written(model, prompts, 16, seed=torch.Generator().manual_seed(1))
    assert not shared[0].equal(shared[1])
    assert model.training


def test_the_gate_is_that_of_the_position_which_predicts():
    model, ids = make_model("lolm"), random_tokens(2, 7)
    tokens = list(generate(model, ids, 6, temperature=0))
    whole = torch.cat((ids, torch.stack([token.ids_B for token in tokens], dim=1)), dim=1)
    with torch.no_grad():
        g_BT = model.streams(whole).g.mean(dim=-1)
    torch.testing.assert_close(torch.stack([token.gate_B for token in tokens], dim=1), g_BT[:, 6:-1])
    assert next(generate(make_model("mamba"), ids, 1)).gate_B is None


def shares(scores, count=20_000, **settings):
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings
    drawn = choose(scores.expand(count, -1), **settings, generators=[torch.Generator().manual_seed(0)])
    return torch.bincount(drawn, minlength=len(scores)) / count


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0.5}, [0.16, 0.09, 0.04, 0.01]),
        ({"top_k": 2}, [0.4, 0.3, 0, 0]),
        ({"top_k": 9}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.69}, [0.4, 0.3, 0, 0]),
        ({"top_p": 0.71}, [0.4, 0.3, 0.2, 0]),
        ({"top_k": 3, "top_p": 0.4}, [0.4, 0, 0, 0]),  # of what top_k left, 4/9 is the first's
    ],
)
def test_tokens_come_with_the_shares_that_are_asked_for(settings, kept):
    order, wanted = torch.tensor([2, 0, 3, 1]), torch.tensor(kept)
    found = shares(torch.tensor([0.4, 0.3, 0.2, 0.1])[order].log() + 3, **settings)
    torch.testing.assert_close(found, (wanted / wanted.sum())[order], rtol=0, atol=0.012)
    assert not found[(wanted == 0)[order]].any()


def test_a_penalty_divides_positive_and_multiplies_negative_logits_of_what_the_text_has():
    for logits, expected in (([3.0, 2.0, 0.0], [1, 0]), ([-2.0, -3.0, -9.0], [1, 0])):
        model = RuleModel(3, lambda x, logits=logits: torch.tensor(logits).expand(*x.shape, 3))
        assert written(model, torch.tensor([[0]]), 2, temperature=0, repetition_penalty=2).tolist() == [expected]
        assert written(model, torch.tensor([[0]]), 2, temperature=0).tolist() == [[0, 0]]


def test_a_row_ends_at_its_stop_and_all_do_at_the_last():
    model = RuleModel(61, lambda x: certain((x + 1) % 61, 61))
    prompts = torch.tensor([[5], [7]])
    assert written(model, prompts, 9, stop={8}).tolist() == [[6, 7, 8], [8, ENDED, ENDED]]
    assert list(generate(model, prompts, 0)) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        *(({"temperature": wrong}, "temperature .* must lie in") for wrong in (-1, math.nan, math.inf, 1e-40, 1e308)),
        *(({"repetition_penalty": wrong}, "repetition_penalty .* must lie in") for wrong in (0, -1, math.nan, math.inf, 1e-308)),
        *(({"seed": wrong}, "seed .* must be from") for wrong in (10**20, 2**64, -(2**63) - 1)),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": -2}, "top_k -2"),
        ({"top_p": 0}, "top_p 0 must lie in"),
        ({"repetition_penalty": 0}, "repetition_penalty 0"),
        ({"window": 0}, "window 0"),
        ({"max_tokens": -1}, "max_tokens -1"),
        ({"prompts_BT": torch.zeros(1, 0, dtype=torch.long)}, "at least one token"),
        ({"prompts_BT": torch.tensor([[61]])}, "outside 0 to 60"),
    ],
)
def test_what_cannot_be_asked_for_is_named(settings, says):
    asked = {"model": make_model("mamba"), "prompts_BT": torch.zeros(1, 2, dtype=torch.long), "max_tokens": 1}
    with pytest.raises(GenerationError, match=says):
        generate(**(asked | settings))


def test_a_model_that_has_written_can_be_trained():
    model, ids = make_model("transformer", training={"kernels": "reference"}), random_tokens(1, 6)
    next(generate(model, ids, 1))
    model.train()(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
