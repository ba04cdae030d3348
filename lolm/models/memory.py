"""The persistent memory: three banks of slots, read by attention, written chunk by chunk (spec A4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from lolm.config import ConfigError, MemoryConfig, MemorySize
from lolm.mixers.base import keep_init, no_decay
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
        self.slots = nn.Parameter(0.02 * torch.randn(banks, slots, d_model))
        self.query = nn.Linear(d_model, banks * d_model, bias=False)
        self.content = nn.Linear(d_model, banks * d_model, bias=False)
        self.keep = nn.Linear(d_model, banks * slots)  # α
        self.write = nn.Linear(d_model, banks * slots)  # β
        self.combine = nn.Linear(banks * d_model, d_model, bias=False)
        keep_init(self.slots)
        no_decay(self.slots)

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
        batch, length, d = h_BTD.shape
        banks, slots = self.size.banks, self.size.slots
        state_BMSD = self.slots.expand(batch, banks, slots, d)
        query_BMTD = self.query(h_BTD).view(batch, length, banks, d).transpose(1, 2)
        reads, attentions = [], []
        bounds = self.bounds(length)
        queries_BMtD = query_BMTD.split([stop - start for start, stop in bounds], dim=2)  # slices have a dearer gradient
        for (start, stop), query_BMtD in zip(bounds, queries_BMtD, strict=True):
            scores = query_BMtD @ state_BMSD.to(query_BMTD.dtype).transpose(-1, -2) / math.sqrt(d)
            attention_BMtS = F.softmax(scores, dim=-1, dtype=torch.float32)
            reads.append(attention_BMtS.to(h_BTD.dtype) @ state_BMSD.to(h_BTD.dtype))
            attentions.append(attention_BMtS.mean(dim=1))
            if (start, stop) != bounds[-1]:
                state_BMSD = self._written(state_BMSD, h_BTD[:, start:stop].mean(dim=1))
        read_BTMD = torch.cat(reads, dim=2).transpose(1, 2)
        return self.combine(read_BTMD.flatten(2)), torch.cat(attentions, dim=1)

    def _written(self, state_BMSD: torch.Tensor, mean_BD: torch.Tensor) -> torch.Tensor:
        def per_slot(layer: nn.Linear) -> torch.Tensor:
            return torch.sigmoid(layer(mean_BD)).view(*state_BMSD.shape[:3], 1)

        content = self.content(mean_BD).view(mean_BD.shape[0], self.size.banks, 1, -1)
        return per_slot(self.keep) * state_BMSD + per_slot(self.write) * content

    def num_params(self) -> int:
        d, banks, slots = self.d_model, self.size.banks, self.size.slots
        return banks * (slots * d + 2 * d * d + 2 * (d * slots + slots)) + banks * d * d

    def flops_per_token(self, length: int) -> float:
        d, banks, slots = self.d_model, self.size.banks, self.size.slots
        per_token = 2 * banks * d * d + 4 * banks * slots * d + 2 * banks * d * d  # query; scores and reads; combine
        per_write = 2 * banks * d * (d + 2 * slots) + 3 * banks * slots * d  # content, α and β; the update of the slots
        return per_token + per_write * (len(self.bounds(length)) - 1) / length

    def state_size(self, length: int) -> int:
        return self.size.banks * self.size.slots * self.d_model + self.d_model  # slots, and the running sum of a chunk
