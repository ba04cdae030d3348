"""The persistent memory: three banks of slots, read by attention, written chunk by chunk (facts A4)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lolm.config import ConfigError, MemoryConfig, MemorySize
from lolm.mixers.base import fills, keep_init, no_decay
from lolm.mixers.cache import Cache
from lolm.models.component import Component


class Memory(Component):
    """Each token reads the state left by earlier chunks; each chunk writes its mean hidden state.

    read_t = softmax(W_q h_t Mᵀ / √D) M for each bank; after a chunk with mean h̄:
    M ← α ⊙ M + β ⊗ W_c h̄, with α = σ(W_α h̄ + b_α) and β = σ(W_β h̄ + b_β) one value per slot; m = W_comb [reads].

    The state starts from the learned slots at every call, as in every published run: nothing is carried between sequences.

    Chunking:
        ``count``   a fixed number of chunks of ⌊T / C⌋ tokens, the last takes the rest (published). The output at a
                    position then depends on the length of the whole sequence.
        ``tokens``  chunks of fixed length, so a prefix gives the same output as the full text.
    """

    def __init__(self, config: MemoryConfig, size: MemorySize, d_model: int) -> None:
        super().__init__()
        self.chunking, self.size, self.d_model = config.chunking, size, d_model
        banks, slots = size.banks, size.slots
        self.slots = nn.Parameter(torch.empty(banks, slots, d_model))
        self.query = nn.Linear(d_model, banks * d_model, bias=False)
        self.content = nn.Linear(d_model, banks * d_model, bias=False)
        self.keep = nn.Linear(d_model, banks * slots)  # α
        self.write = nn.Linear(d_model, banks * slots)  # β
        self.combine = nn.Linear(banks * d_model, d_model, bias=False)
        keep_init(self, "slots")
        no_decay(self, "slots")
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        self.slots.normal_().mul_(0.02)
        super().reset_parameters()

    def bounds(self, length: int) -> list[tuple[int, int]]:
        """Start and end of each chunk of a sequence.

        Raises:
            ConfigError: fewer tokens than chunks, which leaves empty chunks without a mean.
        """
        if self.chunking == "tokens":
            width = self.size.chunk_tokens
            return [(start, min(start + width, length)) for start in range(0, length, width)]
        chunks = self.size.chunks
        if length < chunks:
            raise ConfigError(
                f"a sequence of {length} tokens cannot be cut into memory.chunks = {chunks} chunks; use chunking: tokens"
            )
        width = length // chunks
        return [(i * width, (i + 1) * width if i < chunks - 1 else length) for i in range(chunks)]

    def forward(self, h_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns m_BTD and the attention over slots averaged over banks, (B, T, S)."""
        length = h_BTD.shape[1]
        bounds = self.bounds(length)
        states_BCMSD = self._states(h_BTD, bounds).to(h_BTD.dtype)
        query_BTMD = self._queries(h_BTD)
        cut = bounds[-1][0]
        if length - cut == bounds[0][1]:  # all chunks have one length and are read together
            read_BTE, attention_BTS = self._read(query_BTMD, states_BCMSD)
        else:  # all but the last
            queries = query_BTMD.split([cut, length - cut], dim=1)
            states = states_BCMSD.split([len(bounds) - 1, 1], dim=1)
            parts = [self._read(query, state) for query, state in zip(queries, states, strict=True)]
            read_BTE, attention_BTS = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return self.combine(read_BTE), attention_BTS

    def advance(self, h_BTD: torch.Tensor, state: Any, again: int = 0) -> tuple[tuple[torch.Tensor, torch.Tensor], Any]:
        """What :meth:`forward` returns, and the state; see :meth:`lolm.mixers.base.Mixer.advance`.

        Chunks of fixed length have slots, the sum over the chunk that is being read and how many tokens it has. With a fixed
        number of chunks every token moves their borders: all of h is kept, and the ``again`` tokens before the new one, which
        now read something else, are read again with it.
        """
        if self.chunking == "count":
            if state is None:
                return self(h_BTD), Cache(h_BTD)
            state.append(h_BTD[:, 0])
            return self._read_last(state.entries, 1 + again), state
        if state is None:
            start = self.bounds(h_BTD.shape[1])[-1][0]
            slots_BMSD = self._states(h_BTD, self.bounds(h_BTD.shape[1]))[:, -1]
            read = self(h_BTD)
            sum_BD, tokens = h_BTD[:, start:].sum(dim=1), h_BTD.shape[1] - start
        else:
            slots_BMSD, sum_BD, tokens = state
            read_BTE, attention_BTS = self._read(self._queries(h_BTD), slots_BMSD[:, None])
            read, sum_BD, tokens = (self.combine(read_BTE), attention_BTS), sum_BD + h_BTD[:, 0], tokens + 1
        if tokens == self.size.chunk_tokens:
            keep_B1MS1, written_B1MSD = self._writes((sum_BD / tokens)[:, None])
            slots_BMSD, sum_BD, tokens = keep_B1MS1[:, 0] * slots_BMSD + written_B1MSD[:, 0], torch.zeros_like(sum_BD), 0
        return read, (slots_BMSD, sum_BD, tokens)

    def _read_last(self, h_BTD: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What :meth:`forward` returns of the last tokens alone."""
        length = h_BTD.shape[1]
        bounds = self.bounds(length)
        first = max(0, length - tokens)
        chunk_t = [min(t // bounds[0][1], len(bounds) - 1) for t in range(first, length)]
        read_BtE, attention_BtS = self._read(self._queries(h_BTD[:, first:]), self._states(h_BTD, bounds)[:, chunk_t])
        return self.combine(read_BtE), attention_BtS

    def _queries(self, h_BTD: torch.Tensor) -> torch.Tensor:
        return self.query(h_BTD).unflatten(-1, (self.size.banks, -1))

    def _writes(self, mean_BCD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α, (B, C, banks, S, 1), and β ⊗ W_c h̄, (B, C, banks, S, D), of chunks with these means."""
        shape = *mean_BCD.shape[:2], self.size.banks
        keep_BCMS1, write_BCMS1 = (torch.sigmoid(layer(mean_BCD)).view(*shape, -1, 1) for layer in (self.keep, self.write))
        return keep_BCMS1, write_BCMS1 * self.content(mean_BCD).view(*shape, 1, self.d_model)

    def _states(self, h_BTD: torch.Tensor, bounds: list[tuple[int, int]]) -> torch.Tensor:
        """The state that each of the C chunks reads, (B, C, banks, S, D)."""
        batch, banks, slots, writers = len(h_BTD), self.size.banks, self.size.slots, len(bounds) - 1
        state_BMSD = self.slots.expand(batch, banks, slots, self.d_model)
        if not writers:
            return state_BMSD[:, None]
        mean_BCD = h_BTD[:, : bounds[-1][0]].unflatten(1, (writers, -1)).mean(dim=2)
        keep_BCMS1, written_BCMSD = self._writes(mean_BCD)
        # Causal by a shift: a chunk reads what earlier chunks wrote, never its own mean, which knows tokens still to come.
        states = [state_BMSD]
        for keep_BMS1, written_BMSD in zip(keep_BCMS1.unbind(1), written_BCMSD.unbind(1), strict=True):
            states.append(keep_BMS1 * states[-1] + written_BMSD)
        return torch.stack(states, dim=1)

    def _read(self, query_BtMD: torch.Tensor, state_BcMSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads of c chunks of one length, the banks side by side, (B, t, banks · D), and the mean attention, (B, t, S)."""
        query_BcMqD = query_BtMD.unflatten(1, (state_BcMSD.shape[1], -1)).transpose(2, 3)
        scores = query_BcMqD @ state_BcMSD.transpose(-1, -2) / math.sqrt(self.d_model)
        attention_BcMqS = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        read_BcMqD = attention_BcMqS.to(state_BcMSD.dtype) @ state_BcMSD
        return read_BcMqD.transpose(2, 3).flatten(3).flatten(1, 2), attention_BcMqS.mean(dim=2).flatten(1, 2)

    def num_params(self) -> int:
        d, banks, slots = self.d_model, self.size.banks, self.size.slots
        return banks * (slots * d + 2 * d * d + 2 * (d * slots + slots)) + banks * d * d

    def flops_per_token(self, length: int) -> float:
        d, banks, slots = self.d_model, self.size.banks, self.size.slots
        per_token = 2 * banks * d * d + 4 * banks * slots * d + 2 * banks * d * d  # query; scores and reads; combine
        per_write = 2 * banks * d * (d + 2 * slots) + 3 * banks * slots * d  # content, α and β; the update of the slots
        return per_token + per_write * (len(self.bounds(length)) - 1) / length

    def state_size(self, length: int) -> int:
        if self.chunking == "count":
            return length * self.d_model
        return self.size.banks * self.size.slots * self.d_model + self.d_model  # slots, and the running sum of a chunk

    def float_state(self, length: int) -> int:
        return self.state_size(length)
