"""Every arm of params.yaml as a class of the transformers library: logits, round trip, generation, scores in
lm-evaluation-harness; and the table in the docs, which is made of what is measured here."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

transformers = pytest.importorskip("transformers")
pytest.importorskip("lm_eval")

from builders import ARMS, ROOT, VOCAB, make_model, make_run, random_tokens  # noqa: E402

from lolm.downstream.harness_models import TrainedModel  # noqa: E402
from lolm.export.folder import write_model  # noqa: E402

NATIVE = {
    "jamba": "JambaForCausalLM",
    "jamba_moe": "JambaForCausalLM",
    "mamba": "MambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "transformer_modern": "LlamaForCausalLM",
}
TOKENS = random_tokens(3, 70)  # beyond windows, and several chunks of memory
BYTES = SimpleNamespace(encode=lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int64) % VOCAB, eos_id=1)
PROMPT, NEW = 28, 6  # what is generated goes on beyond a window and a chunk of memory, at 32
READS = 40  # tokens at a time, in requests to the harness
PAIRS = [
    ("The cat sat on the", " mat and slept"),
    ("The dog lay on the", " bed and slept"),  # as long: one batch
    ("It", " rained"),
    ("A cat. " * 20 + "It", " slept"),  # a context longer than the model reads
]


def scrambled(model):
    """With weights that differ everywhere, norms and biases too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def loaded(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def greedy(model, tokens_BT, count):
    """Ids that follow, by prefill and step."""
    logits_BV, state = model.prefill(tokens_BT)
    found = [logits_BV.argmax(-1)]
    for _ in range(count - 1):
        logits_BV, state = model.step(found[-1], state)
        found.append(logits_BV.argmax(-1))
    return torch.stack(found, dim=1)


@dataclass(frozen=True)
class Row:
    """What the page's table says of an arm, as it was measured here."""

    kind: str
    logits: float
    weights: bool
    generation: bool
    harness: float

    def cells(self):
        differs = "none" if self.logits == 0 else f"at most {bound(self.logits, 1e-5)}"
        same = ["the same" if equal else "other" for equal in (self.weights, self.generation)]
        return [f"`{self.kind}`", differs, *same, f"within {bound(self.harness, 1e-6)}"]


def bound(found, bar):
    return f"{bar:.0e}".replace("e-0", "e-") if found <= bar else f"{found:.1e}"


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    """What was measured of an arm; once."""

    @cache
    @torch.no_grad()
    def measured(arm):
        folder = tmp_path_factory.mktemp(arm)
        run = make_run(arm, training={"kernels": "reference"})
        ours = scrambled(make_model(arm, training={"kernels": "reference"}))
        write_model(folder / "model", ours, run)
        theirs = loaded(folder / "model")
        assert not theirs.training
        found = [theirs(tokens, use_cache=False).logits - ours(tokens) for tokens in (TOKENS[:1], TOKENS)]
        theirs.save_pretrained(folder / "again")
        state, again = theirs.state_dict(), loaded(folder / "again").state_dict()
        weights = state.keys() == again.keys() and all(torch.equal(state[name], again[name]) for name in state)
        theirs.generation_config.eos_token_id = None  # goes on behind the end of a document, as ours
        prompts = TOKENS[:2, :PROMPT]
        options = {"max_new_tokens": NEW, "do_sample": False, "attention_mask": torch.ones(2, PROMPT)}
        cached, full = (theirs.generate(prompts, use_cache=cache, **options) for cache in (True, False))
        generation = torch.equal(cached, full) and torch.equal(cached[:, PROMPT:], greedy(ours, prompts, NEW))
        return Row(type(theirs).__name__, max(float(x.abs().max()) for x in found), weights, generation, harness(ours))

    return measured


def harness(model):
    """How far a score of lm-evaluation-harness lies from a forward pass over the request's own ids alone, as a share of it."""
    lm = TrainedModel(model, BYTES, READS, batch_tokens=3 * READS)
    scores = lm.loglikelihood([SimpleNamespace(args=pair) for pair in PAIRS], disable_tqdm=True)
    found = 0.0
    for (context, continuation), (score, _) in zip(PAIRS, scores, strict=True):
        ids = torch.from_numpy(BYTES.encode(context + continuation))[-(READS + 1) :]
        nats = F.cross_entropy(model(ids[None, :-1])[0].double(), ids[1:], reduction="none")[-len(continuation) :].sum()
        found = max(found, abs(score + float(nats)) / max(1.0, float(nats)))
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_arm(arm, row):
    found = row(arm)
    assert found.kind == NATIVE.get(arm, "LolmForCausalLM")
    assert found.logits <= (1e-5 if arm in NATIVE else 0.0)
    assert found.weights
    assert found.generation
    assert found.harness <= 1e-6


@pytest.mark.parametrize("arm", ["lolm", "lolm_published", "lolm_v0"])
def test_beams_are_the_same_with_a_cache_and_without(arm, tmp_path):
    write_model(tmp_path, scrambled(make_model(arm)), make_run(arm))
    model, prompts = loaded(tmp_path), TOKENS[:2, :20]
    model.generation_config.eos_token_id = None
    options = {"max_new_tokens": 12, "num_beams": 3, "attention_mask": torch.ones(2, 20)}
    cached, full = (model.generate(prompts, use_cache=cache, do_sample=False, **options) for cache in (True, False))
    assert torch.equal(cached, full)
    cache, order = model(prompts, use_cache=True).past_key_values, torch.tensor([1, 1, 0])
    cache.reorder_cache(order)
    with torch.no_grad():
        after = model(TOKENS[:, :1], past_key_values=cache).logits[:, 0]
        whole = model(torch.cat((prompts[order], TOKENS[:, :1]), dim=1), use_cache=False).logits[:, -1]
    torch.testing.assert_close(after, whole, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_table_in_the_docs(row):
    cells = {arm: row(arm).cells() for arm in ARMS}
    most, count = Counter(map(tuple, cells.values())).most_common(1)[0]
    lines = [[f"`{arm}`", *found] for arm, found in cells.items() if tuple(found) != most]
    made = "".join(f"| {' | '.join(line)} |\n" for line in [*lines, [f"the other {count}", *most]])
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    assert f"|---|---|---|---|---|---|\n{made}\n" in text, f"the table as it was measured:\n{made}"
