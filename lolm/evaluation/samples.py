"""Texts that a model writes, and how much they repeat themselves."""

from __future__ import annotations

import numpy as np
import torch

from lolm.corpus.tokenizer import Tokenizer
from lolm.data.batches import EvaluationSet, stream_seed
from lolm.data.stream import TokenStream
from lolm.generation import generate
from lolm.models.language_model import LanguageModel
from lolm.records.schema import Diversity, Example, Samples

TEMPERATURE, TOP_K = 0.8, 50  # as published (facts C)
EXAMPLES = 2  # texts that are kept


def written_ids(model: LanguageModel, prompts_BT: torch.Tensor, tokens: int, window: int, seed: int) -> torch.Tensor:
    """Continue each prompt by ``tokens`` ids, (B, tokens), as published: at temperature 0.8 from the 50 most likely, and every
    token read off the last ``window`` tokens, so that nobody is asked to extrapolate."""
    noise = torch.Generator().manual_seed(stream_seed(seed, "evaluation/samples") % 2**63)
    sampled = generate(model, prompts_BT, tokens, temperature=TEMPERATURE, top_k=TOP_K, seed=noise, window=window)
    return torch.stack([token.ids_B for token in sampled], dim=1)


def diversity(texts: list[str]) -> Diversity:
    """How varied texts are, in bigrams of words between white space.

    Returns:
        ``distinct_2``: distinct bigrams / bigrams within a text, averaged over the texts that have a bigram;
        ``bigram_repetition``: 1 − that, the share of bigrams that the same text had before; ``distinct_2_pooled``: distinct
        bigrams / bigrams over all texts together (Li et al. 2016, arXiv 1510.03055); ``words``. All fall with the length of the
        texts, so compare equal numbers of tokens. None where no text has two words.
    """
    words = [text.split() for text in texts]
    bigrams = [list(zip(line[:-1], line[1:], strict=True)) for line in words if len(line) > 1]
    within = sum(len(set(pairs)) / len(pairs) for pairs in bigrams) / len(bigrams) if bigrams else None
    pooled = [pair for pairs in bigrams for pair in pairs]
    return Diversity(
        words=sum(len(line) for line in words),
        distinct_2=within,
        distinct_2_pooled=len(set(pooled)) / len(pooled) if pooled else None,
        bigram_repetition=None if within is None else 1 - within,
    )


def sample_texts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    stream: TokenStream,
    count: int,
    prompt_tokens: int,
    sample_tokens: int,
    window: int,
    seed: int,
) -> Samples | None:
    """Continue prompts that are spread evenly over a split, all in one batch; None when ``count`` is 0.

    Returns:
        :func:`diversity` of the model's texts and, as reference, of the text's own continuations; the first two as examples.

    Raises:
        DataError: the split is shorter than a prompt and its continuation.
        ConfigError: the prompts are too short for a memory with a fixed number of chunks.
    """
    if not count:
        return None
    length = prompt_tokens + sample_tokens
    windows_NL = np.stack(list(EvaluationSet(stream, count * length, length).windows()))[:, :length]
    prompts_NT = windows_NL[:, :prompt_tokens]
    written_NT = written_ids(model, torch.from_numpy(prompts_NT), sample_tokens, window, seed).numpy()
    prompts, written, real = (
        [tokenizer.decode(ids) for ids in rows] for rows in (prompts_NT, written_NT, windows_NL[:, prompt_tokens:])
    )
    examples = zip(prompts[:EXAMPLES], written, real, strict=False)
    return Samples(
        texts=len(written),
        prompt_tokens=prompt_tokens,
        sample_tokens=sample_tokens,
        temperature=TEMPERATURE,
        top_k=TOP_K,
        generated=diversity(written),
        real=diversity(real),
        examples=tuple(Example(*texts) for texts in examples),
    )
