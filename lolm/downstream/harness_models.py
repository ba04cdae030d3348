"""Models as lm-evaluation-harness asks them: a trained one, and a bigram to hold beside it.

Sequences are run in batches of exactly equal length and never padded: the memory of the published recipe cuts a sequence into
chunks by its length, so that padding would change its scores.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows

from lolm.corpus.tokenizer import Tokenizer
from lolm.evaluation.held_out import token_losses
from lolm.evaluation.ngram import Bigram
from lolm.generation import generate
from lolm.models.language_model import LanguageModel

MOST_GENERATED = 256  # tokens, where a task does not say; as in the harness


class HarnessModel(TemplateLM):
    """A scorer of token ids under the interface of the harness.

    A context of no text but white space is taken as the id that ends a document, after which texts begin in training; any other
    stands as it is, with nothing before it, as in the harness's own models. Context and continuation are tokenised as one text,
    which is then split where the context's ids end. A request longer than ``max_length`` inputs loses the beginning of its
    context; a continuation that is longer by itself is scored whole, window after window, as the harness does for documents.

    Args:
        max_length: T, the most tokens a model reads.
        batch_tokens: so many are run at a time, at least one sequence.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, batch_tokens: int) -> None:
        super().__init__()
        self.ids, self.max_length, self.batch_tokens = tokenizer, max_length, batch_tokens

    @abstractmethod
    def losses(self, ids_BL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nats of every id after the first, and whether it was the likeliest: two (B, L − 1)."""

    @abstractmethod
    def continued(self, context: list[int], tokens: int) -> Iterator[int]:
        """The likeliest next id, at most ``tokens`` times."""

    @property
    def eot_token_id(self) -> int:
        return self.ids.eos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.ids.encode(string).tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each request's continuation, nats, and whether every token of it was the likeliest."""
        of_length: dict[int, list[tuple[int, list[int], int]]] = defaultdict(list)
        for i, (_, context, continuation) in enumerate(requests):
            for ids, scored in self._windows(context, continuation):
                of_length[len(ids)].append((i, ids, scored))
        nats, greedy = np.zeros(len(requests)), np.ones(len(requests), dtype=bool)
        for length, windows in sorted(of_length.items()):
            size = max(1, self.batch_tokens // length)
            for first in range(0, len(windows), size):
                batch = windows[first : first + size]
                for (i, _, scored), row, right in zip(batch, *self.losses(np.array([ids for _, ids, _ in batch])), strict=True):
                    nats[i] += row[length - 1 - scored :].sum()
                    greedy[i] &= right[length - 1 - scored :].all()
        return list(zip((-nats).tolist(), greedy.tolist(), strict=True))

    def _windows(self, context: list[int], continuation: list[int]) -> Iterator[tuple[list[int], int]]:
        """Ids of at most ``max_length`` inputs, and how many at their end are scored."""
        context = context or [self.prefix_token_id]  # the harness counts white space at its end with the continuation
        if 0 < len(continuation) <= self.max_length:
            yield (context + continuation)[-(self.max_length + 1) :], len(continuation)
            return
        for inputs, targets in get_rolling_token_windows(continuation, context[-1], self.max_length, context_len=1):
            yield [*inputs, targets[-1]], len(targets)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]
        wanted = [(("", text), [self.prefix_token_id], self.tok_encode(text)) for text in texts]
        return [found for found, _ in self._loglikelihood_tokens(wanted)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, each up to the first of its stop texts or the end of the document."""
        written = []
        for context, options in (request.args for request in requests):
            stops = options.get("until") or []
            stops, ids, text = [stops] if isinstance(stops, str) else stops, [], ""
            for token in self.continued(
                self.tok_encode(context) or [self.prefix_token_id], options.get("max_gen_toks", MOST_GENERATED)
            ):
                if token == self.eot_token_id:
                    break
                ids.append(token)
                text = self.ids.decode(ids)
                if any(stop in text for stop in stops):
                    break
            written.append(min((text.split(stop)[0] for stop in stops), key=len, default=text))
        return written


class TrainedModel(HarnessModel):
    """A model of this project, in evaluation mode."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, max_length: int, batch_tokens: int) -> None:
        super().__init__(tokenizer, max_length, batch_tokens)
        self.model = model

    def losses(self, ids_BL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return token_losses(self.model, ids_BL, len(ids_BL))

    def continued(self, context: list[int], tokens: int) -> Iterator[int]:
        prompt_1T = torch.tensor([context])
        for token in generate(self.model, prompt_1T, tokens, temperature=0.0, window=self.max_length):
            yield int(token.ids_B[0])


class BigramModel(HarnessModel):
    """A bigram that was counted on the text a run trained on: what a score is worth that takes no more than word pairs."""

    def __init__(self, bigram: Bigram, tokenizer: Tokenizer, max_length: int, batch_tokens: int) -> None:
        super().__init__(tokenizer, max_length, batch_tokens)
        self.bigram = bigram
        self._likeliest: dict[int, int] = {}

    def losses(self, ids_BL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        previous, following = ids_BL[:, :-1], ids_BL[:, 1:]
        first = np.vectorize(self._after, otypes=[np.int64])(previous)
        return -np.log(self.bigram.probability(previous, following)), first == following

    def continued(self, context: list[int], tokens: int) -> Iterator[int]:
        token = context[-1]
        for _ in range(tokens):
            yield (token := self._after(token))

    def _after(self, token: int) -> int:
        if token not in self._likeliest:
            every = np.arange(self.bigram.vocab_size)
            self._likeliest[token] = int(self.bigram.probability(np.full_like(every, token), every).argmax())
        return self._likeliest[token]
