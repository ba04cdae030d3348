"""What an intervention is, and how it is carried out.

An intervention changes tensors at *sites*, see :mod:`lolm.interventions.sites`. At the seam between the streams and their fusion,
o = g ⊙ u + (1 − g) ⊙ v + W_m m + W_r r, the streams and the gate were computed before, so changing one changes none of the
others, as in the published protocol (facts D3, D4). Inside a stack, at what a mixer or an MLP writes into the residual stream,
and along the edges from the streams to what reads them, everything after the site is computed from the changed tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce

import torch

from lolm.interventions.context import EMPTY, Context
from lolm.interventions.errors import InterventionError
from lolm.interventions.sites import EDGES, OUTPUT, STREAMS, TERMS, HasSites, fusion_of, is_inside
from lolm.models.fusion import Fusion
from lolm.models.language_model import LanguageModel, Streams
from lolm.records import names

Change = Callable[[torch.Tensor, Context], torch.Tensor]


@dataclass(frozen=True)
class Intervention:
    """A named change. ``a | b`` does a, then b.

    Attributes:
        name: what is done, e.g. ``gate``; as it stands in records.
        value: its parameter, e.g. the constant the gate is forced to; None for none.
        changes: (site, change) in the order they are done; a change maps the site's tensor and the context to a tensor of the
            same shape.
        skip_last: blocks left out at the end of the (surface) stack.
    """

    name: str
    value: float | None = None
    changes: tuple[tuple[str, Change], ...] = ()
    skip_last: int = 0

    @property
    def inside(self) -> bool:
        """Whether it acts inside the stacks, so that the streams have to be computed anew."""
        return self.skip_last != 0 or bool(self.changes_where(is_inside))

    @property
    def follows(self) -> bool:
        """Whether it changes what runs from one stream to another, so that what reads it has to be computed anew."""
        return any(site in EDGES for site, _ in self.changes)

    def changes_where(self, chosen: Callable[[str], bool]) -> dict[str, list[Change]]:
        """Those of ``changes`` at some sites, in their order."""
        found: dict[str, list[Change]] = {}
        for site, change in self.changes:
            if chosen(site):
                found.setdefault(site, []).append(change)
        return found

    def apply(self, streams: Streams, context: Context = EMPTY) -> Streams:
        """The part that acts on the streams.

        Raises:
            InterventionError: the model has no such stream, ``context`` lacks what the change needs, or it gives another shape.
        """
        for site, change in self.changes:
            if site in STREAMS:
                stream = getattr(streams, site)
                if stream is None:
                    raise InterventionError(f"{self.name}: this model has no {STREAMS[site]} to change; leave it out")
                changed = {site: _made(self.name, change, stream, context)}
                streams = replace(streams, **changed)  # type: ignore[arg-type]
        return streams

    @property
    def label(self) -> str:
        """``name``, or ``name=value``."""
        return self.name if self.value is None else f"{self.name}={self.value:g}"

    def __or__(self, then: Intervention) -> Intervention:
        if self.value is not None and then.value is not None:
            name, value = names.joined(self.label, then.label), None
        else:
            name, value = names.joined(self.name, then.name), self.value if then.value is None else then.value
        return Intervention(name, value, self.changes + then.changes, self.skip_last + then.skip_last)


def change_site(site: str, name: str, change: Change, value: float | None = None) -> Intervention:
    """The tensor at a site := change(it, context). :func:`lolm.interventions.sites` lists those of a model."""
    return Intervention(name, value, ((site, change),))


def compose(first: Intervention, *others: Intervention) -> Intervention:
    """One after the other, as ``first | …``."""
    return reduce(lambda a, b: a | b, others, first)


@dataclass(frozen=True)
class KnownTerms:
    """The fusion's terms of some streams, to be taken again where streams are the very same tensors."""

    streams: Streams
    terms: dict[str, torch.Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, model: LanguageModel, streams: Streams) -> KnownTerms | None:
        """Of the unchanged streams; None for a model that has no fusion."""
        fusion = fusion_of(model)
        return None if fusion is None else cls(streams, fusion.terms(streams.h, streams.z, streams.m, streams.r))

    def of_streams(self, fusion: Fusion, streams: Streams) -> dict[str, torch.Tensor]:
        """``fusion.terms`` of streams of which most are known."""
        if streams.h is not self.streams.h or streams.z is not self.streams.z:
            return fusion.terms(streams.h, streams.z, streams.m, streams.r)
        if streams.m is self.streams.m and streams.r is self.streams.r:
            return dict(self.terms)
        return self.terms | fusion.beside(streams.m, streams.r)


def streams_under(
    model: LanguageModel,
    intervention: Intervention,
    tokens_BT: torch.Tensor,
    context: Context = EMPTY,
    known: Streams | None = None,
) -> Streams:
    """The streams of a batch with an intervention's changes before the seam made, those at it not yet.

    Args:
        known: the streams of the unchanged model, of which the stack's output need not be computed again.

    Raises:
        InterventionError: the model has no such site, or not so many blocks to leave out; or ``context`` lacks what the change
            needs.
    """
    if (skipped := intervention.skip_last) and not 0 < skipped <= len(model.stack.layers):
        stack = f"the {len(model.stack.layers)} blocks of this model's stack"
        raise InterventionError(f"{intervention.name}: cannot leave out {skipped} of {stack}")
    edges = intervention.changes_where(EDGES.__contains__)
    for edge in edges:
        if edge not in model.edges:
            raise InterventionError(
                f"{intervention.name}: this model has no edge {edge!r}; it has {', '.join(model.edges) or 'none'}"
            )
    if edges and intervention.inside and context.other is not None:
        seen = context.other()  # while the model is still unchanged
        context = replace(context, other=lambda: seen)
    with inside(model, intervention, context):
        if known is None or intervention.inside:
            known = model.streams(tokens_BT, skip_last=intervention.skip_last)
        changes = {edge: partial(_in_order, intervention.name, of_edge, context) for edge, of_edge in edges.items()}
        return model.follow(tokens_BT, known, changes) if changes else known


def intervene(
    model: LanguageModel,
    intervention: Intervention,
    streams: Streams,
    context: Context = EMPTY,
    known: KnownTerms | None = None,
) -> torch.Tensor:
    """o_BTD under an intervention.

    Args:
        streams: of a batch, from :func:`streams_under` where the intervention acts before the seam.
        known: terms that need not be computed again.

    Raises:
        InterventionError: the model lacks a site that is to be changed, or ``context`` what the change needs.
    """
    changed = intervention.apply(streams, context)
    o = _fuse(model, intervention, changed, context, known)
    for site, change in intervention.changes:
        if site == OUTPUT:
            if context.full is None:
                context = replace(context, full=model.fuse(streams))
            o = _made(intervention.name, change, o, context)
    return o


def _fuse(
    model: LanguageModel, intervention: Intervention, streams: Streams, context: Context, known: KnownTerms | None
) -> torch.Tensor:
    """The fusion as always, with its terms changed where an intervention says so."""
    fusion = fusion_of(model)
    if fusion is None:
        for site, _ in intervention.changes:
            if site in TERMS:
                raise InterventionError(f"{intervention.name}: this model's fusion has no {TERMS[site]} branch; leave it out")
        return model.fuse(streams)
    s = streams
    terms = fusion.terms(s.h, s.z, s.m, s.r) if known is None else known.of_streams(fusion, s)
    for site, change in intervention.changes:
        if site in TERMS:
            if TERMS[site] not in terms:
                raise InterventionError(f"{intervention.name}: this model's fusion has no {TERMS[site]} branch; leave it out")
            terms[TERMS[site]] = _made(intervention.name, change, terms[TERMS[site]], context)
    return fusion.join(terms, streams.g)


@contextmanager
def inside(model: HasSites, intervention: Intervention, context: Context = EMPTY) -> Iterator[None]:
    """While open, the model's own sites answer with what the intervention makes of them: for any model that has sites.

    Raises:
        InterventionError: the model has no such site.
    """
    changes = intervention.changes_where(is_inside)
    sites = model.sites() if changes else {}
    for name in changes:
        if name not in sites:
            raise InterventionError(f"{intervention.name}: this model has no site {name!r}; it has {', '.join(sites)}")
    before = {name: sites[name].change for name in changes}
    try:
        for name, of_site in changes.items():
            sites[name].change = partial(_in_order, intervention.name, of_site, context)
        yield
    finally:
        for name, change in before.items():
            sites[name].change = change


def _in_order(name: str, changes: list[Change], context: Context, x: torch.Tensor) -> torch.Tensor:
    for change in changes:
        x = _made(name, change, x, context)
    return x


def _made(name: str, change: Change, x: torch.Tensor, context: Context) -> torch.Tensor:
    """What a change makes of a site's tensor; another shape would be broadcast, and something else measured than was meant."""
    made = change(x, context)
    if not isinstance(made, torch.Tensor) or made.shape != x.shape:
        found = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise InterventionError(f"{name}: a change must return a tensor of the shape it is given, {tuple(x.shape)}, not {found}")
    return made
