"""Seconds a token: from the state against a whole pass, along a text, and against ``generate`` of the transformers package."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.settings import Settings
from benchmarks.timing import Part, Samples, ratios, summary, threads, timed
from lolm.config import RunConfig
from lolm.generation import generate
from lolm.models.build import build_model
from lolm.models.language_model import LanguageModel

PROMPT = 64  # tokens, where whole texts are written
PEERS = {"Mamba": "mamba", "Llama": "transformer_modern"}  # theirs, and the arm that it is


def steps_from(model: LanguageModel, length: int, tokens: int, count: int) -> Callable[[], float]:
    """Measures seconds a token behind ``length`` tokens, always the same ones."""
    ids = torch.randint(model.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    with threads(count), torch.inference_mode():
        _, behind = model.prefill(ids)

    def measure() -> float:
        state = copy.deepcopy(behind)

        def write() -> None:
            nonlocal state
            for _ in range(tokens):
                _, state = model.step(ids[:, 0], state)

        with threads(count), torch.inference_mode():
            return timed(write) / tokens

    measure()
    return measure


def whole_pass(model: LanguageModel, length: int, count: int) -> Callable[[], float]:
    """Measures seconds of what one token costs without a state."""
    ids = torch.randint(model.vocab_size, (1, length))

    def measure() -> float:
        with threads(count), torch.inference_mode():
            return timed(lambda: model.logits(model.fuse(model.streams(ids))[:, -1]))

    measure()
    return measure


def peer_of(name: str, run: RunConfig, own: LanguageModel) -> nn.Module:
    """Their model with as many parameters, its head tied as ours is."""
    import transformers

    size = run.size
    common: dict[str, Any] = {"vocab_size": run.vocab_size, "hidden_size": size.d_model, "num_hidden_layers": size.n_layers}
    common["tie_word_embeddings"] = True
    if name == "Mamba":
        mixer: Any = own.stack.blocks[0].mixer
        config = transformers.MambaConfig(
            **common | {"intermediate_size": mixer.d_inner}, state_size=mixer.d_state, conv_kernel=mixer.d_conv,
            time_step_rank=mixer.dt_rank,
        )  # fmt: skip
        return transformers.MambaForCausalLM(config).eval()
    llama = transformers.LlamaConfig(
        **common, intermediate_size=size.d_ff, num_attention_heads=size.n_heads, max_position_embeddings=8192
    )
    llama._attn_implementation = "sdpa"
    return transformers.LlamaForCausalLM(llama).eval()


def written_by(write: Callable[[], Any], tokens: int, count: int) -> Callable[[], float]:
    """Measures seconds a token of a whole text, the prompt's pass included."""

    def measure() -> float:
        with threads(count):
            return timed(write) / tokens

    measure()
    return measure


def generation(settings: Settings, stack: ExitStack) -> Part:
    """Greedy, one text at a time, with the threads of one run."""
    count, lengths, tokens = settings.threads, settings.generation_lengths, settings.generation_tokens
    middle = lengths[len(lengths) // 2]
    measures: dict[str, Callable[[], float]] = {}
    for arm in settings.arms:
        model = build_model(settings.run(arm)).eval()
        measures |= {f"{arm}/{length}": steps_from(model, length, tokens, count) for length in lengths}
        measures[f"{arm}/whole"] = whole_pass(model, middle, count)
    there = importlib.util.find_spec("transformers") is not None
    if there:
        import transformers

        transformers.logging.set_verbosity_error()  # it names the kernels that a CPU does not have
    for name, arm in PEERS.items() if there else ():
        run = settings.run(arm)
        own = build_model(run).eval()
        theirs: Any = peer_of(name, run, own)
        prompt = torch.randint(run.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(0))

        def write(own: LanguageModel = own, prompt: torch.Tensor = prompt) -> None:
            for _ in generate(own, prompt, tokens, temperature=0):
                pass

        measures[f"{name}/own"] = written_by(write, tokens, count)
        asked = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
        measures[f"{name}/theirs"] = written_by(partial(theirs.generate, prompt, **asked), tokens, count)

    def result(samples: Samples) -> dict[str, Any]:
        first, last = lengths[0], lengths[-1]
        arms = {
            arm: {
                "seconds": {str(length): summary(samples[f"{arm}/{length}"]) for length in lengths},
                "whole_pass_over_step": summary(ratios(samples[f"{arm}/whole"], samples[f"{arm}/{middle}"])),
                "growth": summary(ratios(samples[f"{arm}/{last}"], samples[f"{arm}/{first}"])),
            }
            for arm in settings.arms
        }
        pairs = {
            name: {
                "own_seconds": summary(samples[f"{name}/own"]),
                "their_seconds": summary(samples[f"{name}/theirs"]),
                "over_own": summary(ratios(samples[f"{name}/theirs"], samples[f"{name}/own"])),
            }
            for name in PEERS
            if there
        }
        peers: dict[str, Any] = pairs or {"skipped": "the package transformers is not installed; extra `test`"}
        return {"threads": count, "length": middle, "arms": arms, "transformers": peers}

    return Part(measures, result)
