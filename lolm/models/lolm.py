"""LOLM: surface decoder, latent SSM, memory, regime codes, gate, fusion (facts A1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from lolm.config import ArchitectureConfig, ConfigError, SizeConfig, TrainingConfig
from lolm.models.blocks import Stack
from lolm.models.component import Component
from lolm.models.experts import Routing
from lolm.models.fusion import Fusion
from lolm.models.gate import build_gate
from lolm.models.language_model import NOTHING, Change, LanguageModel, Streams
from lolm.models.latent import Latent
from lolm.models.memory import Memory
from lolm.models.regime import Regime


class LOLM(LanguageModel):
    """h = surface(tokens); z = latent(h); m = memory(h); r, p = regime(z, h, m); g = gate(z, h, m, r); o = fusion.

    The latent stream reads the surface's output, as published, or the token embeddings (``latent.input``), which makes the
    two truly parallel. A stream that is switched off enters regime and gate as zeros. The gate needs the latent stream.

    ``architecture.detach`` stops gradients along single edges of this dataflow; values are the same. An intervention can change
    what arrives at the end of one (:meth:`follow`).
    """

    stack_name = "surface"
    surface: Stack

    def __init__(
        self, architecture: ArchitectureConfig, size: SizeConfig, vocab_size: int, training: TrainingConfig | None = None
    ) -> None:
        super().__init__(architecture, size, vocab_size, training)
        d = size.d_model
        has_latent = architecture.latent.form != "none"
        form = architecture.gate.form
        if form != "none" and not has_latent:
            raise ConfigError(
                f"architecture: gate.form {form!r} joins surface and latent; set gate.form: none with latent.form: none"
            )
        self.latent_input, self.detached = architecture.latent.input, frozenset(architecture.detach)
        latent_size = _size(size, "latent") if has_latent else None
        self.latent = None
        if latent_size is not None:
            again = self.stack.activation_checkpointing
            self.latent = Latent(architecture.latent, latent_size, d, size.n_heads, size.dropout, again)
        self.memory = Memory(architecture.memory, _size(size, "memory"), d) if architecture.memory.enabled else None
        self.regime = Regime(architecture.regime, _size(size, "regime"), d) if architecture.regime.enabled else None
        self.regime_width = size.regime.width if size.regime is not None else 0  # the gate keeps its inputs without the regime
        self.gate = build_gate(architecture.gate, d, self.regime_width)
        width = self.regime_width if self.regime is not None else 0
        norm, isolate = architecture.gate.branch_norm, architecture.regime.isolate
        cut = "latent_fusion" in self.detached
        self.fusion = Fusion(d, has_latent, self.memory is not None, width, norm, isolate, form == "concat", cut)
        parts = (("memory", self.memory), ("regime", self.regime), ("gate", self.gate))
        there = [name for name, part in parts if part is not None]
        reads = {"surface": ["latent"] * (has_latent and self.latent_input == "surface") + there}
        reads["latent"] = [name for name in there if has_latent and name != "memory"]
        self.edges = tuple(f"{source}_{target}" for source, targets in reads.items() for target in targets)

    @property
    def stack(self) -> Stack:  # type: ignore[override]
        """The surface decoder, under the name that every family has for its blocks."""
        return self.surface

    def streams(self, tokens_BT: torch.Tensor, noise_BTR: torch.Tensor | None = None, skip_last: int = 0) -> Streams:
        x = self._embed(tokens_BT)
        h, routing = self.surface(x, skip_last)
        return self._behind(x, h, routing, noise_BTR)

    def noise(self, tokens_BT: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        return None if self.regime is None else self.regime.noise(tokens_BT.shape, generator)

    def follow(self, tokens_BT: torch.Tensor, known: Streams, changes: Mapping[str, Change]) -> Streams:
        return self._behind(self._embed(tokens_BT), known.h, known.routing, None, changes)

    def advance(self, tokens_BT: torch.Tensor, parts: dict[str, Any]) -> Streams:
        x, known = self._embed(tokens_BT), bool(parts)
        h, parts["surface"] = self.surface.advance(x, parts.get("surface"))
        z = m = attention = None
        if self.latent is not None:
            z, parts["latent"] = self.latent.advance(h if self.latent_input == "surface" else x, parts.get("latent"))
        again = self._again
        if self.memory is not None:
            (m, attention), parts["memory"] = self.memory.advance(h, parts.get("memory"), again)
        if again:
            hz_BT2D = torch.stack((h, torch.zeros_like(h) if z is None else z), dim=2)
            hz_BT2D = torch.cat((parts["again"], hz_BT2D), dim=1) if known else hz_BT2D
            parts["again"] = hz_BT2D[:, -again:].clone()
            h, z = hz_BT2D[:, :, 0], None if z is None else hz_BT2D[:, :, 1]

        def regime(z: torch.Tensor, h: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            found, parts["regime"] = self.regime.advance(z, h, m, parts.get("regime"))  # type: ignore[union-attr]
            return found

        return self._joined(h, z, m, attention, None, self.regime if again or self.regime is None else regime, NOTHING)

    @property
    def _again(self) -> int:
        """Tokens that run again with a new one: with a fixed number of chunks those before it read something else now, and the
        regime's convolution looks back at what they read, so as many as it sees."""
        if self.memory is None or self.memory.chunking != "count" or self.regime is None:
            return 0
        return max(0, self.regime.config.neighbour_conv - 1)

    def _behind(
        self,
        x: torch.Tensor,
        h: torch.Tensor,
        routing: Routing | None,
        noise_BTR: torch.Tensor | None,
        changes: Mapping[str, Change] = NOTHING,
    ) -> Streams:
        """All streams, from the embeddings and the surface's output."""
        along = partial(self._along, changes)
        z = None if self.latent is None else self.latent(along("surface_latent", h) if self.latent_input == "surface" else x)
        m, attention = (None, None) if self.memory is None else self.memory(along("surface_memory", h))
        regime = None if self.regime is None else partial(self.regime, noise_BTR=noise_BTR)
        return self._joined(h, z, m, attention, routing, regime, changes)

    def _along(self, changes: Mapping[str, Change], edge: str, sent: torch.Tensor) -> torch.Tensor:
        """What arrives at the end of an edge: what was sent, without its gradient where the edge is cut."""
        sent = sent.detach() if edge in self.detached else sent
        return changes[edge](sent) if edge in changes else sent

    def _joined(
        self,
        h: torch.Tensor,
        z: torch.Tensor | None,
        m: torch.Tensor | None,
        attention: torch.Tensor | None,
        routing: Routing | None,
        regime: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]] | None,
        changes: Mapping[str, Change],
    ) -> Streams:
        """All streams, from those that are not read off others by a regime or a gate."""
        along = partial(self._along, changes)
        # Regime and gate keep their width without a stream, so that arms with and without it differ in nothing else.
        zeros = torch.zeros_like(h)
        z_in, m_in = (zeros if s is None else s for s in (z, m))
        logits, p, r = (
            (None, None, None) if regime is None else regime(along("latent_regime", z_in), along("surface_regime", h), m_in)
        )
        r_in = h.new_zeros(*h.shape[:2], self.regime_width) if r is None else r
        g = None
        if self.gate is not None:
            g = self.gate(along("latent_gate", z_in), along("surface_gate", h), m_in, along("regime_gate", r_in))
        return Streams(h, z, m, attention, logits, p, r, g, routing)

    def fuse(self, streams: Streams) -> torch.Tensor:
        return self.fusion(streams.h, streams.z, streams.m, streams.r, streams.g)

    def components(self) -> dict[str, Component]:
        parts = {name: getattr(self, name) for name in ("surface", "latent", "memory", "regime", "gate", "fusion")}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def shortest(self) -> int:
        return self.memory.size.chunks if self.memory is not None and self.memory.chunking == "count" else 1

    def state_size(self, length: int) -> int:
        if not self._again or self.regime is None:
            return super().state_size(length)
        return super().state_size(length) - self.regime.state_size(length) + self._again_size(length)

    def float_state(self, length: int) -> int:
        return super().float_state(length) + (self._again_size(length) if self.regime is not None else 0)

    def _again_size(self, length: int) -> int:
        """h and z in place of the regime's logits."""
        return 2 * min(length, self._again) * self.d_model

    def units(self) -> list[nn.Module]:
        return super().units() + ([] if self.latent is None else list(self.latent.layers))

    def set_step(self, step: int) -> None:
        if self.regime is not None:
            self.regime.set_step(step)


def _size(size: SizeConfig, part: str):
    value = getattr(size, part)
    if value is None:
        raise ConfigError(f"sizes: {part!r} is missing, and this architecture has that stream")
    return value
