"""What every model offers: streams → fusion → tied head. Interventions act at the seam between the first two, and at sites inside
the stacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lolm.config import ArchitectureConfig, SizeConfig, TrainingConfig
from lolm.mixers.base import reset_children
from lolm.mixers.site import Site
from lolm.models.blocks import Stack, build_norm, norm_params
from lolm.models.component import Component
from lolm.models.experts import Routing
from lolm.ops.cross_entropy import linear_cross_entropy

Change = Callable[[torch.Tensor], torch.Tensor]  # to another of the same shape
FORWARD_METHODS = ("streams", "follow", "fuse", "logits", "nats")  # what reads weights and is called from outside
NOTHING: Mapping[str, Change] = MappingProxyType({})


@dataclass(frozen=True)
class Streams:
    """Everything computed before fusion; None for a stream the model does not have.

    Attributes:
        h: surface, (B, T, D).
        z: latent, (B, T, D).
        m: memory reads, (B, T, D).
        attention: over memory slots, averaged over banks, (B, T, S).
        logits: of the regime codes, (B, T, R).
        p: probabilities of the regime codes, (B, T, R); sampled in training.
        r: regime embedding, (B, T, E).
        g: gate, (B, T, D), expanded where the gate has fewer values.
        routing: of the surface's mixtures of experts.
    """

    h: torch.Tensor
    z: torch.Tensor | None = None
    m: torch.Tensor | None = None
    attention: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    p: torch.Tensor | None = None
    r: torch.Tensor | None = None
    g: torch.Tensor | None = None
    routing: Routing | None = None

    @property
    def router(self) -> torch.Tensor | None:
        """Load-balancing loss, the mean over mixtures of experts."""
        return None if self.routing is None else self.routing.loss

    @property
    def load(self) -> torch.Tensor | None:
        """Share of the assignments that each expert got, (mixtures, experts), without gradient."""
        return None if self.routing is None else self.routing.load

    def last(self) -> Streams:
        """Of the last position alone, T = 1; the routing, which is over tokens, is left out."""
        own = {name: part[:, -1:] for name, part in vars(self).items() if isinstance(part, torch.Tensor)}
        return replace(self, routing=None, **own)

    def detached(self) -> Streams:
        """The same values without the graph that made them."""
        routing = None if self.routing is None else Routing(*(part.detach() for part in self.routing))
        own = {name: part.detach() for name, part in vars(self).items() if isinstance(part, torch.Tensor)}
        return replace(self, routing=routing, **own)


@dataclass
class State:
    """What generation carries from one token to the next; from :meth:`LanguageModel.prefill` and :meth:`LanguageModel.step`.

    A step writes into the state that it is given: go on from the one that it returns, and to continue one text in several ways
    ``copy.deepcopy`` the state before. Rows of the batch never meet.

    Attributes:
        length: tokens so far.
        parts: by component, the batch first in every tensor; what a recurrence has has a constant size, the cache of attention
            without a window grows, and so does that of memory with a fixed number of chunks.
        streams: of the newest token, T = 1: its gate, its regime.
    """

    length: int
    parts: dict[str, Any]
    streams: Streams


def half_precision(device_type: str, precision: str, rounded: bool = False) -> torch.autocast:
    """Inside, a model is measured as it was trained where that was in bfloat16 on a GPU, or where weights are ``rounded`` as they
    are gathered from other processes; elsewhere in float32."""
    enabled = (device_type == "cuda" or rounded) and precision == "bf16"
    return torch.autocast(device_type, torch.bfloat16, enabled=enabled, cache_enabled=False)  # weights may change inside


class LanguageModel(nn.Module, ABC):
    """Token embedding, a stack of blocks, and a head tied to the embedding: logits = norm(o) Eᵀ, no bias (facts A8).

    Attributes:
        stack: the blocks over the token embeddings: all of a decoder, the surface of LOLM.
        kernels: backend of what is compiled (``training.kernels``).
        edges: of the dataflow from the stack's output to the fusion, ``<source>_<target>``, that interventions can reach.
    """

    kernels: str = "auto"
    stack_name = "stack"  # of its weights
    stack: Stack
    edges: tuple[str, ...] = ()

    def __init__(
        self, architecture: ArchitectureConfig, size: SizeConfig, vocab_size: int, training: TrainingConfig | None
    ) -> None:
        super().__init__()
        self.vocab_size, self.d_model, self.dropout = vocab_size, size.d_model, size.dropout
        self.embedding = nn.Embedding(vocab_size, size.d_model)  # N(0, 1) by default
        stack = Stack(architecture.surface, size, bool(training and training.activation_checkpointing))
        self.add_module(self.stack_name, stack)
        self.head_norm = build_norm(architecture.recipe.head_norm, size.d_model)
        self.head_norm_params = norm_params(architecture.recipe.head_norm, size.d_model)

    @abstractmethod
    def streams(self, tokens_BT: torch.Tensor, noise_BTR: torch.Tensor | None = None, skip_last: int = 0) -> Streams:
        """All streams of a batch. ``noise_BTR``: see :meth:`noise`; ``skip_last`` leaves out blocks at the end of the stack."""

    def noise(self, tokens_BT: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """What a training step draws besides dropout; None for a model that draws nothing."""
        return None

    def follow(self, tokens_BT: torch.Tensor, known: Streams, changes: Mapping[str, Change]) -> Streams:
        """The streams of a batch computed again from the stack's output h, with what runs along some edges changed; h itself
        stays, and so does what the fusion reads of it. Behind a single stack nothing follows."""
        return known

    @abstractmethod
    def fuse(self, streams: Streams) -> torch.Tensor:
        """o_BTD, what the head reads."""

    @abstractmethod
    def components(self) -> dict[str, Component]:
        """The parts by name, embedding and head apart, for the accounting of parameters and FLOPs."""

    def state_size(self, length: int) -> int:
        """Elements of the state of one sequence after ``length`` tokens."""
        return sum(part.state_size(length) for part in self.components().values())

    def float_state(self, length: int) -> int:
        """Of these the ones that stay float32 in half precision."""
        return sum(part.float_state(length) for part in self.components().values())

    @property
    def shortest(self) -> int:
        """Tokens that a text must have to be read; with fewer memory with a fixed number of chunks raises ConfigError."""
        return 1

    def pieces(self, length: int, size: int) -> list[tuple[int, int]]:
        """Start and end of the pieces of ``size`` tokens that a text is read in. A rest that is too short to be read belongs to
        the piece before it."""
        starts = list(range(0, length, size))
        if len(starts) > 1 and length - starts[-1] < self.shortest:
            starts.pop()
        return list(zip(starts, [*starts[1:], length][: len(starts)], strict=True))

    def units(self) -> list[nn.Module]:
        """The repeated parts, each called as a module: what is sharded, and compiled, as one."""
        return list(self.stack.layers)

    def sites(self) -> dict[str, Site]:
        """Places inside the stacks where what mixers and MLPs write can be changed, by ``<component>.<layer>.<part>``; see
        :mod:`lolm.interventions.sites`."""
        return {f"{name}.{key}": site for name, part in self.components().items() for key, site in part.sites.items()}

    def reset_parameters(self) -> None:
        """Initial values of everything, before the recipe; :func:`lolm.models.init.initialise` does both."""
        reset_children(self)

    def logits(self, o_BTD: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary, (B, T, V)."""
        # Tied: rows of the embedding are what the head compares o with, so its gradient has two sources.
        return F.linear(self.head_norm(o_BTD), self.embedding.weight)

    def nats(self, o_ND: torch.Tensor, targets_N: torch.Tensor, ignored: int) -> torch.Tensor:
        """Sum of the cross-entropies of :meth:`logits`, which never exist for all N positions at once."""
        return linear_cross_entropy(self.head_norm(o_ND), self.embedding.weight, targets_N, ignored, backend=self.kernels)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Logits_BTV."""
        return self.logits(self.fuse(self.streams(tokens_BT)))

    @torch.no_grad()
    def prefill(self, tokens_BT: torch.Tensor) -> tuple[torch.Tensor, State]:
        """Scores of the token after a prompt, (B, V), and the state behind it, in one pass over all positions.

        In evaluation mode. Scores are those of :meth:`forward` at the last position, here and after any number of steps, up to
        rounding; where memory has a fixed number of chunks, which makes the output at a position depend on the length of the
        text (see :class:`lolm.models.memory.Memory`), those of :meth:`forward` over exactly the tokens so far.

        Raises:
            ConfigError: a prompt of fewer tokens than such a memory has chunks.
        """
        return self._next(tokens_BT, 0, {})

    @torch.no_grad()
    def step(self, tokens_B: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Scores of the token after one more, (B, V), and the state behind it; see :meth:`prefill`."""
        return self._next(tokens_B[:, None], state.length, state.parts)

    def _next(self, tokens_BT: torch.Tensor, length: int, parts: dict[str, Any]) -> tuple[torch.Tensor, State]:
        streams = self.advance(tokens_BT, parts).last()
        return self.logits(self.fuse(streams))[:, 0], State(length + tokens_BT.shape[1], parts, streams)

    @abstractmethod
    def advance(self, tokens_BT: torch.Tensor, parts: dict[str, Any]) -> Streams:
        """The streams of a prompt where ``parts`` is empty, of one more token, T = 1, where it holds the components' states,
        which are put in place of the old ones; see :meth:`lolm.mixers.base.Mixer.advance`."""

    def set_step(self, step: int) -> None:
        """Tell schedules inside the model how far training is; nothing to do by default."""

    def _embed(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.embedding(tokens_BT), self.dropout, self.training)
