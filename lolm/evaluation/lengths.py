"""Length extrapolation: the same text scored in windows longer than those of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lolm.data.batches import EvaluationSet
from lolm.data.stream import TokenStream
from lolm.evaluation.held_out import token_losses
from lolm.models.language_model import LanguageModel
from lolm.records.schema import Beyond, Lengths, LengthScore


def score_lengths(
    model: LanguageModel,
    stream: TokenStream,
    n_tokens: int | Literal["all"],
    seq_len: int,
    lengths: Sequence[int],
    batch_size: int,
) -> Lengths:
    """Score one text in windows of ``length`` · ``seq_len`` tokens for each length.

    The text is about ``n_tokens`` targets in blocks of the longest window that the split can fill. A shorter window cuts each
    block into as many whole ones as it holds, so lengths that divide the longest score exactly the same targets, and differ
    only in how much text before them the model sees.

    Args:
        seq_len: tokens of a training window.
        lengths: multiples of it.
        batch_size: windows of ``seq_len`` at a time; of longer ones fewer, to the same number of tokens.

    Returns:
        the scores of each length by its number, and why a length is left out that the split cannot fill.

    Raises:
        DataError: the split has no room for a window of ``seq_len``.
    """
    room = len(stream) - 1
    wanted = sorted(set(lengths))
    fitting = [length for length in wanted if length * seq_len <= room]
    left_out = {
        str(length): f"the {stream.split} split has {len(stream)} tokens, a window of {length * seq_len} needs one more than that"
        for length in wanted
        if length not in fitting
    }
    block = max(fitting, default=1) * seq_len
    blocks_NL = np.stack(list(EvaluationSet(stream, n_tokens, block).windows()))
    bytes_NT = stream.token_bytes[blocks_NL[:, 1:]]

    def losses(length: int) -> np.ndarray:
        size = length * seq_len
        return _cut_losses(model, blocks_NL, size, max(1, batch_size // length))

    trained_NT = losses(1)
    windows = {}
    for length in fitting:
        nats_NT = trained_NT if length == 1 else losses(length)
        scored = nats_NT.shape[1]
        beyond = None
        if length > 1:
            late_T = np.arange(scored) % (length * seq_len) >= seq_len  # targets with more text before them than in training
            beyond = Beyond(
                tokens=len(nats_NT) * int(late_T.sum()),
                nats=float(nats_NT[:, late_T].mean()),
                nats_trained=float(trained_NT[:, :scored][:, late_T].mean()),
            )
        windows[str(length)] = LengthScore(
            seq_len=length * seq_len,
            tokens=nats_NT.size,
            nats=float(nats_NT.mean()),
            bits_per_byte=float(nats_NT.sum() / (math.log(2) * bytes_NT[:, :scored].sum())),
            beyond=beyond,
        )
    return Lengths(windows, left_out)


def _cut_losses(model: LanguageModel, blocks_NL: np.ndarray, size: int, batch_size: int) -> np.ndarray:
    """Nats of the targets of N blocks when each is cut into whole windows of ``size`` targets: (N, windows · size)."""
    count = (blocks_NL.shape[1] - 1) // size
    windows = np.stack([block[i * size : (i + 1) * size + 1] for block in blocks_NL for i in range(count)])
    return token_losses(model, windows, batch_size)[0].reshape(len(blocks_NL), count * size)
