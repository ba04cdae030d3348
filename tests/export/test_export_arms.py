"""Every arm of params.yaml as a class of the transformers library: logits, round trip, generation; and the table in the docs."""

import re
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from builders import ARMS, make_model, make_run, random_tokens  # noqa: E402

from lolm.export.folder import write_model  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NATIVE = {
    "jamba": "JambaForCausalLM",
    "jamba_moe": "JambaForCausalLM",
    "mamba": "MambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "transformer_modern": "LlamaForCausalLM",
}
TOKENS = random_tokens(3, 70)  # beyond windows, and several chunks of memory


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


@torch.no_grad()
@pytest.mark.parametrize("arm", ARMS)
def test_arm(arm, tmp_path):
    run = make_run(arm, training={"kernels": "reference"})
    ours = scrambled(make_model(arm, training={"kernels": "reference"}))
    native, differs = write_model(tmp_path / "model", ours, run)
    assert native == NATIVE.get(arm, "")
    assert bool(differs) == (arm not in NATIVE)
    theirs = loaded(tmp_path / "model")
    assert type(theirs).__name__ == (native or "LolmForCausalLM")
    assert not theirs.training
    bar = 1e-5 if native else 0.0
    for tokens in (TOKENS[:1], TOKENS):
        assert float((theirs(tokens, use_cache=False).logits - ours(tokens)).abs().max()) <= bar
    theirs.save_pretrained(tmp_path / "again")
    state, again = theirs.state_dict(), loaded(tmp_path / "again").state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    theirs.generation_config.eos_token_id = None  # goes on behind the end of a document, as ours
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones(2, 20)}
    cached, full = (theirs.generate(TOKENS[:2, :20], use_cache=cache, **options) for cache in (True, False))
    assert torch.equal(cached, full)
    assert torch.equal(cached[:, 20:], greedy(ours, TOKENS[:2, :20], 12))


def test_the_table_in_the_docs():
    rows = re.findall(r"^\| (.+) \| `(\w+)` \| (.+) \| the same \| the same \|$", (ROOT / "docs" / "export.md").read_text(), re.M)
    others = f"the other {len(ARMS) - len(NATIVE)}"
    expected = {f"`{arm}`": (name, "at most 1e-5") for arm, name in NATIVE.items()} | {others: ("LolmForCausalLM", "none")}
    assert {arm: (name, difference) for arm, name, difference in rows} == expected
