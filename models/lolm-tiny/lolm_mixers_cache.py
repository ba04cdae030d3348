# lolm.mixers.cache of this project, with its imports made flat.
"""What generation keeps of past tokens where a part reads them again: all of them, or those of a window."""

from __future__ import annotations

import torch

FIRST = 64  # entries that a first buffer has room for


class Cache:
    """Entries of past tokens, (B, T, …): all, in a buffer that doubles when full, or with ``limit`` the last ones, in a ring.

    A ring that has gone round is not in the order of time.

    Args:
        x_BT: the entries of the tokens so far, (B, T, …); T may be 0.
        limit: W, how many are kept.

    Attributes:
        length: tokens so far, forgotten ones included.
    """

    def __init__(self, x_BT: torch.Tensor, limit: int | None = None) -> None:
        self.length, self.limit = x_BT.shape[1], limit
        turned = limit is not None and self.length > limit
        # Token t lies at t mod W, also where the parallel pass has left tokens out.
        self._buffer = x_BT[:, -limit:].roll(self.length % limit, 1) if turned else x_BT.clone()  # type: ignore[operator]

    @property
    def entries(self) -> torch.Tensor:
        """What is kept, (B, ≤ W, …): a view, which the next :meth:`append` writes into."""
        return self._buffer[:, : self.length]

    def append(self, x_B: torch.Tensor) -> None:
        """The entry of the next token, (B, …)."""
        place = self.length if self.limit is None else self.length % self.limit
        size = self._buffer.shape[1]
        if place == size:
            room = max(FIRST, 2 * size)
            room = room if self.limit is None else min(room, self.limit)
            grown = x_B.new_empty(len(x_B), room, *x_B.shape[1:])
            grown[:, :size] = self._buffer
            self._buffer = grown
        self._buffer[:, place] = x_B
        self.length += 1
