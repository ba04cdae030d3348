"""What the tensors at a model's sites look like on average: the material of mean ablations and of their controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lolm.interventions.errors import InterventionError
from lolm.interventions.sites import STREAMS, HasSites, fusion_of
from lolm.models.language_model import LanguageModel, Streams


@dataclass(frozen=True)
class StreamMeans:
    """Means over all tokens of a data set: m_D and r_E."""

    m: torch.Tensor | None
    r: torch.Tensor | None


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation over all tokens of a data set, per dimension, each (D,) or (E,).

    Keys, each only where the model has it: the streams ``h z m r``, the gate ``g``, the branches ``u`` (surface) and ``v``
    (latent), and what the gate lets through of them, ``gu`` = g ⊙ u and ``gv`` = (1 − g) ⊙ v (u and v without a gate); and the
    sites inside the stacks that were asked for.
    """

    mean: dict[str, torch.Tensor]
    std: dict[str, torch.Tensor]

    @property
    def streams(self) -> StreamMeans:
        """The means that :func:`lolm.interventions.remove_stream` takes."""
        return StreamMeans(self.mean.get("m"), self.mean.get("r"))


def observe(model: LanguageModel, streams: Streams) -> dict[str, torch.Tensor]:
    """Everything at the seam that an intervention may replace, under the keys of :class:`Statistics`, each (B, T, ·)."""
    seen = {name: stream for name in STREAMS if (stream := getattr(streams, name)) is not None}
    fusion = fusion_of(model)
    if fusion is not None:
        u, v = fusion.branches(streams.h, streams.z)
        seen |= {"u": u, "gu": u if streams.g is None else streams.g * u}
        if v is not None:
            seen |= {"v": v, "gv": v if streams.g is None else (1 - streams.g) * v}
    return seen


@torch.no_grad()
def observe_writes(model: HasSites, tokens_BT: torch.Tensor, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """The tensors at sites inside the stacks, each (B, T, ·), all of them or those named; without gradients.

    They are the unchanged model's, also from within a change: what stands in a site's place stays what it would have written.

    Raises:
        InterventionError: the model has no such site.
    """
    with _watched(model, names) as written:
        run: Any = getattr(model, "streams", model)  # without a head, where it can be left out
        run(tokens_BT)
    return written


@torch.no_grad()
def measure(model: LanguageModel, batches: Iterable[torch.Tensor], names: Iterable[str] = ()) -> Statistics:
    """Statistics over token batches (B, T), in evaluation mode; sums are kept in float64.

    Args:
        names: sites inside the stacks, see :func:`lolm.interventions.writes`, beside everything at the seam.

    Raises:
        InterventionError: the model has no such site.
    """
    model.eval()
    names = list(names)

    def seen(x_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        with _watched(model, names) as written:
            streams = model.streams(x_BT.to(model.embedding.weight.device))
        return observe(model, streams) | written

    return _moments(map(seen, batches))


@torch.no_grad()
def measure_writes(model: HasSites, batches: Iterable[torch.Tensor]) -> Statistics:
    """:func:`measure` at the sites inside the stacks alone, of any model that has sites; token batches on its device."""
    return _moments(observe_writes(model, x_BT) for x_BT in batches)


def other_documents(batches: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """For each batch of windows (B, T) as many others, each the one half the set away: neighbours may be of one document.

    One window alone has none.
    """
    if sum(map(len, batches)) < 2:
        return [None for _ in batches]
    windows = torch.cat(list(batches))
    return list(windows.roll(-(len(windows) // 2), 0).split([len(batch) for batch in batches]))


def _moments(batches: Iterable[dict[str, torch.Tensor]]) -> Statistics:
    sums: dict[str, torch.Tensor] = {}
    squares: dict[str, torch.Tensor] = {}
    tokens: dict[str, int] = {}
    for batch in batches:
        for name, seen in batch.items():
            wide = seen.double().flatten(0, 1)
            tokens[name] = tokens.get(name, 0) + len(wide)
            sums[name] = sums.get(name, 0.0) + wide.sum(dim=0)
            squares[name] = squares.get(name, 0.0) + wide.square().sum(dim=0)
    mean = {name: total / tokens[name] for name, total in sums.items()}
    std = {name: (squares[name] / tokens[name] - mean[name].square()).clamp(min=0).sqrt().float() for name in mean}
    return Statistics({name: value.float() for name, value in mean.items()}, std)


@contextmanager
def _watched(model: HasSites, names: Iterable[str] | None) -> Iterator[dict[str, torch.Tensor]]:
    """While open, what passes the named sites (None: all) is entered under their names."""
    sites = model.sites()
    written: dict[str, torch.Tensor] = {}
    watched = set(sites if names is None else names)
    if unknown := sorted(watched - set(sites)):
        raise InterventionError(f"this model has no site {unknown[0]!r}; it has {', '.join(sites)}")

    def watcher(name: str):
        def watch(x: torch.Tensor) -> torch.Tensor:
            written[name] = x
            return x

        return watch

    before = {name: site.change for name, site in sites.items()}
    try:
        # Another document may be looked at from within a change, which is then lifted: at the watched sites and before them.
        for name, site in sites.items():
            site.change = watcher(name) if name in watched else None
        yield written
    finally:
        for name, site in sites.items():
            site.change = before[name]
