"""The places of a model where an intervention can act, by name.

At the seam, with one tensor each (B, T, ·)::

    h  z  m  r  g          streams: surface, latent, memory, regime embedding, gate
    u  v  memory  regime   what the fusion joins: the surface and the latent branch, W_m m and W_r r
    o                      what the head reads

On the way there, ``<source>_<target>``: what of h reaches latent stream, memory, regime and gate, and of z regime and gate, as in
``surface_latent``. What follows is computed again; h and z themselves, and what the fusion reads of them, stay.

Inside a stack, ``<stack>.<layer>.<part>``: what the mixer or the MLP of a layer writes into the residual stream, (B, T, D), such
as ``stack.3.mixer`` of a decoder and ``surface.0.mlp`` or ``latent.1.mixer`` of LOLM. Where the latent layers are chained without
a residual stream, it is what a layer hands to the next. A mixer with branches has a site for each, ``stack.3.mixer.attention``,
(B, T, inner width): what of its write comes from there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from lolm.mixers.site import Site
from lolm.models.fusion import Fusion
from lolm.models.language_model import LanguageModel
from lolm.records import names

STREAMS = {"h": "surface stream", "z": "latent stream", "m": "memory", "r": "regime", "g": "gate"}
TERMS = {"u": names.SURFACE, "v": names.LATENT, "memory": names.MEMORY, "regime": names.REGIME}
OUTPUT = "o"
EDGES = {  # and the stream that runs along
    **{f"{names.SURFACE}_{to}": "h" for to in (names.LATENT, names.MEMORY, names.REGIME, "gate")},
    **{f"{names.LATENT}_{to}": "z" for to in (names.REGIME, "gate")},
}
# What is asked for together, by what :attr:`lolm.mixers.site.Site.kind` may be. A mixer that is both, such as Hymba's, is in
# neither; its branches are.
TYPES = {
    names.RECURRENT: ("mamba1", "mamba2", "plain_ssm", "rglru", "gated_deltanet", "kda"),
    names.ATTENTION: ("attention",),
    names.CONVOLUTION: ("gated_conv",),
    names.MLP: ("mlp", "experts"),
    names.EXPERT_MLP: ("experts",),
}


class HasSites(Protocol):
    """All that interventions inside the stacks ask of a model; any :class:`torch.nn.Module` may offer it."""

    def sites(self) -> dict[str, Site]:
        """By ``<stack>.<layer>.<part>``, in the order of computation within each stack."""


@dataclass(frozen=True)
class SiteInfo:
    """A site of a model.

    Attributes:
        kind: ``stream``, ``term`` or ``output`` at the seam, ``edge`` before it; inside a stack the mixer's name as in
            ``params.yaml``, ``mlp`` or ``experts``.
        stack, layer: None outside the stacks.
    """

    name: str
    kind: str
    stack: str | None = None
    layer: int | None = None


def is_inside(site: str) -> bool:
    """Whether a site's name is that of a place inside a stack."""
    return site not in STREAMS and site not in TERMS and site not in EDGES and site != OUTPUT


def fusion_of(model: LanguageModel) -> Fusion | None:
    """Where the branches meet; None for a model that has one stack."""
    fusion = model.components().get("fusion")
    return fusion if isinstance(fusion, Fusion) else None


def inner_sites(model: HasSites) -> list[SiteInfo]:
    """The sites inside a model's stacks, in the order of computation within each."""
    found = []
    for name, site in model.sites().items():
        stack, layer, _ = name.split(".", 2)
        found.append(SiteInfo(name, site.kind, stack, int(layer)))
    return found


def type_of(kind: str) -> str | None:
    """The type, a key of :data:`TYPES`, of what writes at a site; None for a mixer that is of several."""
    return next((name for name in reversed(TYPES) if kind in TYPES[name] or kind == name), None)


def sites(model: LanguageModel) -> list[SiteInfo]:
    """Every site of a model, in the order of computation within each stack, the seam last."""
    found = inner_sites(model)
    found += [SiteInfo(name, "edge") for name in EDGES if name in model.edges]
    parts, fusion = model.components(), fusion_of(model)
    has = {"h": True, "z": "latent" in parts, "m": "memory" in parts, "r": "regime" in parts, "g": "gate" in parts}
    found += [SiteInfo(name, "stream") for name in STREAMS if has[name]]
    if fusion is not None:
        found += [SiteInfo(name, "term") for name, part in TERMS.items() if getattr(fusion, part) is not None]
    return [*found, SiteInfo(OUTPUT, "output")]


def writes(
    model: HasSites, kind: str | None = None, layers: Collection[int] | None = None, stack: str | None = None
) -> list[str]:
    """Names of the sites inside a model's stacks, those that fit all that is given.

    Args:
        kind: a mixer's name, ``mlp`` or ``experts``, or one of :data:`TYPES`, such as ``recurrent``.
        layers: from 0.
        stack: ``stack`` of a decoder; ``surface`` or ``latent``.
    """
    kinds = None if kind is None else TYPES.get(kind, (kind,))
    return [
        site.name
        for site in inner_sites(model)
        if (kinds is None or site.kind in kinds or site.kind == kind)
        and (layers is None or site.layer in layers)
        and (stack is None or site.stack == stack)
    ]
