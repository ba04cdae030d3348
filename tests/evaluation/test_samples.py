"""Generation from models whose next word is known, and bigrams by hand."""

import numpy as np
import pytest
import torch
from builders import ArrayStream, make_model
from rules import RuleModel, certain, uniform

from lolm.data.errors import DataError
from lolm.evaluation.samples import TOP_K, diversity, sample_texts, written_ids
from lolm.records.schema import Diversity


class Words:
    """A tokenizer whose ids are words."""

    def decode(self, ids) -> str:
        return "".join(f"w{int(i)} " for i in ids)


def test_diversity_by_hand():
    found = diversity(["a b a b a", "a b c", "alone", ""])
    assert found.distinct_2 == pytest.approx((2 / 4 + 1) / 2)  # ab ba ab ba; ab bc
    assert found.bigram_repetition == pytest.approx(0.25)
    assert found.distinct_2_pooled == pytest.approx(3 / 6)
    assert found.words == 9
    assert diversity(["one", ""]) == Diversity(1, None, None, None)


def test_a_certain_model_writes_what_it_is_certain_of():
    model = RuleModel(61, lambda x: certain((x + 2) % 61, 61))
    written = written_ids(model, torch.tensor([[5, 7], [0, 60]]), 3, window=8, seed=0)
    assert written.tolist() == [[9, 11, 13], [1, 3, 5]]


def test_past_the_window_every_token_is_a_pass_over_its_last_tokens():
    model = uniform(61)
    written_ids(model, torch.zeros(2, 3, dtype=torch.long), 4, window=5, seed=0)
    assert model.lengths == [3, 5]  # steps to the tokens 4 and 5 between the passes


def test_sampling_has_the_published_temperature_and_cut():
    logits = torch.linspace(0, 3, 61)
    model = RuleModel(61, lambda x: logits.expand(*x.shape, 61))
    drawn = written_ids(model, torch.zeros(20_000, 1, dtype=torch.long), 1, window=1, seed=3).flatten()
    counts = np.bincount(drawn.numpy(), minlength=61)
    assert not counts[: 61 - TOP_K].any()
    wanted = (logits[-TOP_K:].double() / 0.8).softmax(dim=0).numpy()
    np.testing.assert_allclose(counts[-TOP_K:] / 20_000, wanted, atol=5e-3)


def test_samples_are_a_function_of_the_seed_and_leave_the_mode():
    model = make_model("transformer", size={"dropout": 0.5}).train()
    prompts = torch.arange(6).view(2, 3)

    def written(seed):
        torch.rand(1)  # the global state is no matter
        return written_ids(model, prompts, 8, window=16, seed=seed)

    assert written(1).equal(written(1))
    assert not written(1).equal(written(2))
    assert model.training


def test_real_text_is_the_reference_and_two_texts_are_kept():
    stream = ArrayStream(1000)
    loop = RuleModel(61, lambda x: certain(1 - x % 2, 61))  # 0 1 0 1 …
    found = sample_texts(loop, Words(), stream, count=3, prompt_tokens=4, sample_tokens=9, window=8, seed=1)
    assert (found.texts, len(found.examples)) == (3, 2)
    assert found.generated.distinct_2 == pytest.approx(2 / 8)
    windows = [stream.window(start, 13).tolist() for start in (0, 999 // 3, 2 * 999 // 3)]
    assert found.real == diversity([Words().decode(w[4:]) for w in windows])
    assert found.examples[1].prompt == Words().decode(windows[1][:4])
    assert found.examples[1].real == Words().decode(windows[1][4:])
    assert found.examples[1].generated.split() in (["w0", "w1"] * 4 + ["w0"], ["w1", "w0"] * 4 + ["w1"])
    assert sample_texts(loop, Words(), stream, 0, 4, 9, 8, 1) is None
    with pytest.raises(DataError, match="too few for one window of 13"):
        sample_texts(loop, Words(), ArrayStream(12), 1, 4, 9, 8, 1)
