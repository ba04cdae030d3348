"""Replacing a branch at the fusion, u (surface) or v (latent), or the stream it is made of for all that reads it; and keeping the
size of what the head reads (facts F3, F4)."""

from __future__ import annotations

import torch

from lolm.interventions.context import Context
from lolm.interventions.core import Change, Intervention, change_site, compose
from lolm.interventions.errors import InterventionError
from lolm.interventions.sites import EDGES, fusion_of
from lolm.models.language_model import LanguageModel
from lolm.records import names

BRANCHES = {names.SURFACE: "u", names.LATENT: "v"}  # their sites
SOURCES = {names.SURFACE: "h", names.LATENT: "z"}  # of the streams that they are made of


def change_branch(branch: str, name: str, change: Change, value: float | None = None) -> Intervention:
    """u := change(u, context) for ``surface``, v := change(v, context) for ``latent``.

    Raises:
        InterventionError: no such branch.
    """
    if branch not in BRANCHES:
        raise InterventionError(f"no branch {branch!r}; the branches are {', '.join(BRANCHES)}")
    return change_site(BRANCHES[branch], name, change, value)


def replace_branch(branch: str, by: str) -> Intervention:
    """Remove what a branch says, in one of four ways.

    Args:
        branch: ``surface`` or ``latent``.
        by: ``zero``; ``mean``, over tokens; ``resample``, the branch at the same positions of another document; ``gaussian``,
            independent noise of the branch's mean and variance in every dimension.

    Raises:
        InterventionError: another branch or replacement.
    """
    name = names.replaced(branch, by)
    return change_branch(branch, name, replacement(BRANCHES.get(branch, branch), by, name))


def replacement(site: str, by: str, name: str) -> Change:
    """The change that puts something else in the place of the tensor at a site, (B, T, ·).

    Args:
        by: as in :func:`replace_branch`.
        name: of the random choices.

    Raises:
        InterventionError: another replacement.
    """

    what = EDGES.get(site, site)

    def noise(x: torch.Tensor, context: Context) -> torch.Tensor:
        normal = torch.randn(x.shape, generator=context.generator(name)).to(x)
        return context.mean(what, x) + context.std(what, x) * normal

    changes: dict[str, Change] = {
        names.ZERO: lambda x, _: torch.zeros_like(x),
        names.MEAN: lambda x, context: context.mean(what, x),
        names.RESAMPLE: lambda _, context: context.elsewhere(what),
        names.GAUSSIAN: noise,
    }
    if by not in changes:
        raise InterventionError(f"no replacement {by!r}; it is one of {', '.join(names.REPLACEMENTS)}")
    return changes[by]


def stream_effect(model: LanguageModel, branch: str, kind: str, by: str) -> Intervention:
    """Remove what h (``surface``) or z (``latent``) says to some of what reads it, and compute again what follows.

    The fusion reads it as the branch u or v, which is replaced as by :func:`replace_branch`; the other readers, latent stream,
    memory, regime and gate, get a replacement of the stream itself. Means and other documents are the unchanged model's.

    Args:
        kind: ``direct``, at the fusion alone: :func:`replace_branch`; ``indirect``, at all others; ``total``, at all; for h
            ``into_latent``, at the SSM's input alone.

    Raises:
        InterventionError: another kind or replacement, or nothing in this model reads the stream so.
    """
    if branch not in names.EFFECTS or kind not in names.EFFECTS[branch]:
        raise InterventionError(f"no effect {kind!r} of {branch!r}; there are {names.EFFECTS}")
    name = names.effect(branch, kind, by)
    edges = [edge for edge in model.edges if EDGES[edge] == SOURCES[branch] and kind != names.DIRECT]
    if kind == names.INTO_LATENT:
        edges = [edge for edge in edges if edge == f"{names.SURFACE}_{names.LATENT}"]
    changed = [change_site(edge, name, replacement(edge, by, name)) for edge in edges]
    changed += [replace_branch(branch, by)] if kind in (names.DIRECT, names.TOTAL) else []
    if not changed:
        raise InterventionError(f"{name}: nothing in this model reads the {branch} stream so; leave it out")
    return Intervention(name, None, compose(*changed).changes)


def branch_alone(model: LanguageModel, branch: str) -> Intervention:
    """All that the fusion adds beside u or v, at its mean: the other branch, memory and regime.

    The gate still weighs as it learned to, and so tells the head something of the other stream: ``branch_alone(...) |
    freeze_gate_per_dimension()`` leaves the branch as the only thing that depends on the text.

    Raises:
        InterventionError: no such branch, or a model without a latent one.
    """
    fusion = fusion_of(model)
    if branch not in BRANCHES or fusion is None or fusion.latent is None:
        raise InterventionError(f"no branch {branch!r} to leave alone in this model; a LOLM has {', '.join(BRANCHES)}")
    sites = [site for name, site in BRANCHES.items() if name != branch]
    sites += [site for site, part in (("m", fusion.memory), ("r", fusion.regime)) if part is not None]
    name = names.alone(branch)
    return Intervention(name, None, tuple((site, replacement(site, names.MEAN, name)) for site in sites))


def resample_source(branch: str = names.LATENT) -> Intervention:
    """h (``surface``) or z (``latent``) of another document reaches the fusion.

    Gate, memory and regime keep what they computed from the true stream: nothing that follows is recomputed, as nowhere in the
    published protocol. So this equals :func:`replace_branch` by ``resample``, one map and one norm earlier.
    """
    site = SOURCES[branch]
    return change_site(site, names.source_resampled(branch), lambda _, context: context.elsewhere(site))


def match_norm() -> Intervention:
    """Rescale o, token by token, to the length it has in the unchanged model: ``replace_branch(...) | match_norm()``.

    An o that is all zeros has no direction and stays.
    """

    def change(o: torch.Tensor, context: Context) -> torch.Tensor:
        assert context.full is not None  # `intervene` sees to it
        before, after = (x.norm(dim=-1, keepdim=True) for x in (context.full, o))
        return torch.where(after > 0, o * (before / after.clamp(min=torch.finfo(o.dtype).tiny)), o)

    return change_site("o", names.MATCH_NORM, change)
