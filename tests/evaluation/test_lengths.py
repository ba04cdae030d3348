"""The same targets with more text before them."""

import math

import numpy as np
import pytest
import torch
from builders import ArrayStream, make_model
from rules import RuleModel, certain

from lolm.evaluation.lengths import score_lengths

STREAM = ArrayStream(1000)


def bigram_model():
    """Knows the last token alone, so no length of context changes what it says."""
    return RuleModel(61, lambda x: certain((x + 1) % 17, 61) / 20)


def test_a_model_of_the_last_token_scores_the_same_at_every_length():
    found = score_lengths(bigram_model(), STREAM, 320, 16, (1, 2, 4), 8)
    rows = found.windows
    assert found.left_out == {}
    assert [rows[k].seq_len for k in "124"] == [16, 32, 64]
    assert {rows[k].tokens for k in "124"} == {320}  # the very same targets
    for k in "24":
        for name in ("nats", "bits_per_byte"):
            assert getattr(rows[k], name) == pytest.approx(getattr(rows["1"], name), rel=1e-9)
        assert rows[k].beyond.nats == pytest.approx(rows[k].beyond.nats_trained, rel=1e-9)
    assert (rows["1"].beyond, rows["2"].beyond.tokens, rows["4"].beyond.tokens) == (None, 160, 240)


@torch.no_grad()
def test_lengths_by_hand():
    model = make_model("transformer")
    found = score_lengths(model, STREAM, 128, 16, (3, 2), 4)  # two does not divide three: a block of 48 holds one window of 32
    blocks = [STREAM.window(start, 49) for start in (0, 999 // 2)]

    def nats(tokens) -> list[float]:
        log_p = model(torch.from_numpy(tokens[:-1])[None])[0].log_softmax(dim=-1)
        return (-log_p.gather(1, torch.from_numpy(tokens[1:])[:, None])[:, 0]).tolist()

    whole = [nats(block) for block in blocks]
    short = [nats(block[:33]) for block in blocks]
    trained = [nats(block[16:33]) for block in blocks]
    rows = found.windows
    assert sorted(rows) == ["2", "3"]
    assert (rows["3"].tokens, rows["2"].tokens) == (96, 64)
    assert rows["3"].nats == pytest.approx(np.mean(whole), rel=1e-5)
    assert rows["3"].beyond.nats == pytest.approx(np.mean([w[16:] for w in whole]), rel=1e-5)
    assert rows["2"].nats == pytest.approx(np.mean(short), rel=1e-5)
    assert rows["2"].beyond.nats == pytest.approx(np.mean([s[16:] for s in short]), rel=1e-5)
    assert rows["2"].beyond.nats_trained == pytest.approx(np.mean(trained), rel=1e-5)
    n_bytes = sum(STREAM.token_bytes[block[1:33]].sum() for block in blocks)
    assert rows["2"].bits_per_byte == pytest.approx(np.sum(short) / math.log(2) / n_bytes, rel=1e-5)


def test_windows_keep_the_number_of_tokens_in_a_batch():
    sizes = []

    def rule(x):
        sizes.append(tuple(x.shape))
        return torch.zeros(*x.shape, 61)

    score_lengths(RuleModel(61, rule), STREAM, 512, 16, (1, 8), 4)
    assert set(sizes) == {(4, 16), (1, 128)}  # 128 tokens do not fit in four windows of training, so one at a time


def test_a_length_that_the_split_cannot_fill_is_left_out_with_a_reason():
    stream = ArrayStream(65)
    found = score_lengths(bigram_model(), stream, 1000, 16, (1, 4, 5), 4)
    assert sorted(found.windows) == ["1", "4"]
    assert "a window of 80 needs one more" in found.left_out["5"]
