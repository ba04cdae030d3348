"""Text as a public model's own tokenizer cuts it, in windows for the laboratory of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from lolm.data.errors import DataError


class TextWindows:
    """A fixed set of windows of tokens, one after the other; the like of :class:`lolm.data.batches.EvaluationSet`.

    Attributes:
        windows_NL: (N, T + 1) int64; inputs are all but the last id, targets all but the first. Where the tokenizer begins a text
            with a token of its own, each window does, and that token is no target.
        vocab_size: V of the model's head.
        n_tokens, n_bytes: scored targets, and the UTF-8 bytes of text that they stand for.
        checksum: SHA-256 over the ids.
    """

    def __init__(self, windows_NL: np.ndarray, n_bytes: int, vocab_size: int) -> None:
        self.windows_NL, self.n_bytes, self.vocab_size = windows_NL, n_bytes, vocab_size
        self.n_tokens = windows_NL[:, 1:].size
        self.checksum = hashlib.sha256(windows_NL.astype("<i8").tobytes()).hexdigest()

    def windows(self) -> Iterator[np.ndarray]:
        """Each window, (T + 1,)."""
        return iter(self.windows_NL)

    def batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and targets, each (B, T) int64, in order; the last batch may be smaller."""
        for rows in torch.from_numpy(self.windows_NL).split(batch_size):
            yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    # What an n-gram model asks of a stream of tokens: all windows end to end.

    def __len__(self) -> int:
        return self.windows_NL.size

    def window(self, start: int, length: int) -> np.ndarray:
        return self.windows_NL.reshape(-1)[start : start + length]


def windows_of(texts: Iterable[str], tokenizer: Any, seq_len: int, counts: list[int], vocab_size: int) -> list[TextWindows]:
    """Documents end to end, each followed by the tokenizer's end of text if it has one, cut into sets of windows.

    A token counts the bytes from where the token before it ended to where it ends, so that characters that several tokens share,
    and blanks that belong to none, count once.

    Args:
        counts: windows of each set, one set behind the other; no document is read beyond them.

    Raises:
        DataError: the text is too short, or has tokens that the model has no embedding for.
    """
    first = tokenizer("", add_special_tokens=True)["input_ids"]
    start = first[:1] if first and first[0] == tokenizer.bos_token_id else []
    step = seq_len if start else seq_len + 1  # without a first token of its own a window's first id is no target
    wanted = sum(counts) * step
    ids: list[int] = []
    sizes: list[int] = []
    for text in texts:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids += encoded["input_ids"]
        sizes += _bytes_of(text, encoded["offset_mapping"])
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
            sizes.append(0)
        if len(ids) >= wanted:
            break
    if len(ids) < wanted:
        raise DataError(
            f"the text has {len(ids):,} tokens, and {wanted:,} are needed; give more text, or lower tokens or seq_len"
        )
    if max(ids[:wanted]) >= vocab_size:
        raise DataError(
            f"the tokenizer gives id {max(ids[:wanted])}, and the model has {vocab_size} embeddings; they do not belong together"
        )
    ids_NL = np.array(ids[:wanted], dtype=np.int64).reshape(-1, step)
    sizes_NL = np.array(sizes[:wanted], dtype=np.int64).reshape(-1, step)
    if start:
        ids_NL = np.concatenate([np.full((len(ids_NL), 1), start[0]), ids_NL], axis=1)
    bounds = np.cumsum([0, *counts])
    return [
        TextWindows(ids_NL[low:high], int(sizes_NL[low:high, -seq_len:].sum()), vocab_size)
        for low, high in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def _bytes_of(text: str, offsets: Iterable[tuple[int, int]]) -> list[int]:
    """UTF-8 bytes of each token."""
    ends = np.array([end for _, end in offsets], dtype=np.int64)
    if not len(ends):
        return []
    width = np.array([0, *(len(character.encode()) for character in text)]).cumsum()  # bytes before each character
    return np.diff(width[np.maximum.accumulate(ends)], prepend=0).tolist()
