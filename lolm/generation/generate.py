"""Autoregressive sampling from a model's state: a prompt in one pass, then one step a token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

import torch

from lolm import LolmError
from lolm.config.arguments import argument
from lolm.models.language_model import LanguageModel


class GenerationError(LolmError):
    """A prompt or a setting that nothing can be generated with."""


class Token(NamedTuple):
    """The next token of each row.

    Attributes:
        ids_B: on the CPU; :data:`ENDED` in rows that have stopped.
        gate_B: the gate's mean over dimensions where it was predicted: how much of it the surface says. None without a gate.
    """

    ids_B: torch.Tensor
    gate_B: torch.Tensor | None


ENDED = -1
SMALLEST, LARGEST = 1e-6, 1e6  # what logits are divided by: beyond, float32 has no number for the quotient
SEEDS = range(-(2**63), 2**64)  # what a generator of PyTorch takes


def generate(
    model: LanguageModel,
    prompts_BT: torch.Tensor,
    max_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | torch.Generator = 0,
    stop: Collection[int] = (),
    window: int | None = None,
) -> Iterator[Token]:
    """Continue prompts of one length, a token of every row at a time.

    Whether a row stands alone or among others changes nothing but rounding. The noise is drawn on the CPU, whatever the device.

    There is no longest text. Beyond the length a model was trained with, attention without a window turns its keys by angles it
    has never seen, and recurrences run on; what that does to the loss is in an evaluation's ``lengths``. ``window`` keeps a model
    at home.

    Args:
        prompts_BT: at least one token each.
        max_tokens: that are written, unless all rows stop before.
        temperature: logits are divided by it; 0 takes the likeliest token and draws nothing.
        top_k: only the k likeliest tokens may come; 0 for all.
        top_p: of these only the likeliest that together have this share of the mass (Holtzman et al. 2019, arXiv 1904.09751).
        repetition_penalty: logits of tokens that the text has are divided by it where positive, multiplied where negative
            (Keskar et al. 2019, arXiv 1909.05858).
        seed: of a stream of noise that every row reads alike, so that a prompt has one continuation; or a generator whose noise
            the rows share out, so that equal prompts differ.
        stop: ids that end their row. They are still given.
        window: W, how many of the last tokens are read. Past it every token is a whole pass, as in the published evaluation.

    Raises:
        GenerationError: an empty prompt, ids outside the vocabulary, or a setting out of range or of another type; names it.
            As it writes: logits that are not finite.
        ConfigError: from :meth:`lolm.models.language_model.LanguageModel.prefill`.
    """
    max_tokens, top_k, window, seed = (
        argument(GenerationError, name, value, int, *more)
        for name, value, *more in (
            ("max_tokens", max_tokens),
            ("top_k", top_k),
            ("window", window, type(None)),
            ("seed", seed, torch.Generator),
        )
    )
    settings = {"temperature": temperature, "top_p": top_p, "repetition_penalty": repetition_penalty}
    temperature, top_p, repetition_penalty = (argument(GenerationError, *setting, int, float) for setting in settings.items())
    _check(model, prompts_BT, max_tokens, temperature, top_k, top_p, repetition_penalty, seed, window)
    own = [torch.Generator().manual_seed(seed) for _ in prompts_BT] if isinstance(seed, int) else [seed]
    draw = partial(choose, temperature=temperature, top_k=top_k, top_p=top_p, generators=own)
    return _written(model, prompts_BT, max_tokens, draw, repetition_penalty, stop, window)


@torch.inference_mode()
def _written(
    model: LanguageModel,
    prompts_BT: torch.Tensor,
    max_tokens: int,
    draw: Callable[[torch.Tensor], torch.Tensor],
    repetition_penalty: float,
    stop: Collection[int],
    window: int | None,
) -> Iterator[Token]:
    was_training = model.training
    model.eval()
    try:
        ids_BT = prompts_BT.to(model.embedding.weight.device)
        seen_BV = None
        if repetition_penalty != 1:
            seen_BV = ids_BT.new_zeros(len(ids_BT), model.vocab_size, dtype=torch.bool).scatter_(1, ids_BT, True)
        ended_B = torch.zeros(len(ids_BT), dtype=torch.bool)
        stops = torch.tensor(sorted(stop), dtype=torch.long)
        logits_BV, state = model.prefill(ids_BT if window is None else ids_BT[:, -window:])
        for written in range(1, max_tokens + 1):
            scores_BV = logits_BV.float()
            if not bool(scores_BV.amax(dim=-1).isfinite().all()):
                raise GenerationError(f"the logits of token {written} are not finite: damaged weights, or too narrow a dtype")
            if seen_BV is not None:
                penalised = torch.where(scores_BV > 0, scores_BV / repetition_penalty, scores_BV * repetition_penalty)
                scores_BV = torch.where(seen_BV, penalised, scores_BV)
            next_B = draw(scores_BV)
            gate = state.streams.g
            yield Token(next_B.cpu().masked_fill(ended_B, ENDED), None if gate is None else gate[:, 0].float().mean(-1).cpu())
            if len(stops):
                ended_B |= torch.isin(next_B.cpu(), stops)
            if written == max_tokens or bool(ended_B.all()):
                return
            if seen_BV is not None:
                seen_BV.scatter_(1, next_B[:, None], True)
            if window is None:
                logits_BV, state = model.step(next_B, state)
                continue
            ids_BT = torch.cat((ids_BT, next_B[:, None]), dim=1)[:, -window:]
            logits_BV, state = model.step(next_B, state) if state.length < window else model.prefill(ids_BT)
    finally:
        model.train(was_training)


def choose(
    scores_BV: torch.Tensor, temperature: float, top_k: int, top_p: float, generators: list[torch.Generator]
) -> torch.Tensor:
    """An id for each row, (B,), drawn from softmax(scores / temperature) cut as :func:`generate` says.

    Args:
        generators: one for each row, or one for all.
    """
    if temperature == 0:
        return scores_BV.argmax(dim=-1)
    ids_BK = None
    if top_k or top_p < 1:  # likeliest first
        scores_BV, ids_BK = scores_BV.topk(min(top_k or scores_BV.shape[-1], scores_BV.shape[-1]), dim=-1)
    p_BK = (scores_BV / temperature).softmax(dim=-1).cpu()
    if top_p < 1:
        p_BK = p_BK.masked_fill(p_BK.cumsum(dim=-1) - p_BK >= top_p, 0.0)
    drawn = [torch.multinomial(p, 1, generator=g) for p, g in zip(p_BK.chunk(len(generators)), generators, strict=True)]
    choice_B1 = torch.cat(drawn).to(scores_BV.device)
    return (choice_B1 if ids_BK is None else ids_BK.gather(1, choice_B1))[:, 0]


def _check(
    model: LanguageModel,
    prompts_BT: torch.Tensor,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    seed: int | torch.Generator,
    window: int | None,
) -> None:
    argument(GenerationError, "prompts_BT", prompts_BT, torch.Tensor)
    if prompts_BT.dtype not in (torch.int64, torch.int32) or prompts_BT.ndim != 2 or not prompts_BT.numel():
        got = f"{tuple(prompts_BT.shape)}, {prompts_BT.dtype}"
        raise GenerationError(f"prompts are ids of shape (B, T), at least one token each; got {got}")
    if int(prompts_BT.min()) < 0 or int(prompts_BT.max()) >= model.vocab_size:
        raise GenerationError(f"prompts have ids outside 0 to {model.vocab_size - 1}, this model's vocabulary")
    wrong = {
        f"max_tokens {max_tokens} must be at least 0": max_tokens < 0,
        f"temperature {temperature} must lie in [{SMALLEST}, {LARGEST}], or be 0, which takes the likeliest token": not (
            temperature == 0 or SMALLEST <= temperature <= LARGEST
        ),
        f"top_k {top_k} must be at least 0; 0 keeps all tokens": top_k < 0,
        f"top_p {top_p} must lie in (0, 1]": not 0 < top_p <= 1,
        f"repetition_penalty {repetition_penalty} must lie in [{SMALLEST}, {LARGEST}]; 1 is none": not (
            SMALLEST <= repetition_penalty <= LARGEST
        ),
        f"seed {seed} must be from -2**63 to 2**64 - 1": isinstance(seed, int) and seed not in SEEDS,
        f"window {window} must be at least 1, or None": window is not None and window < 1,
    }
    for message, applies in wrong.items():
        if applies:
            raise GenerationError(message)
