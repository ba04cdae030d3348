"""Replacing a branch at the fusion, u (surface) or v (latent), and keeping the size of what the head reads (spec F3, F4)."""

from __future__ import annotations

import torch

from lolm.interventions.context import Context, InterventionError
from lolm.interventions.core import Change, Intervention, change_site
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
    name = f"{branch}_{by}"

    if branch not in BRANCHES:
        raise InterventionError(f"no branch {branch!r}; the branches are {', '.join(BRANCHES)}")
    name = names.replaced(branch, by)
    return change_branch(branch, name, replacement(BRANCHES[branch], by, name))


def replacement(site: str, by: str, name: str) -> Change:
    """The change that puts something else in the place of the tensor at a site, (B, T, ·).

    Args:
        by: as in :func:`replace_branch`.
        name: of the random choices.

    Raises:
        InterventionError: another replacement.
    """

    def noise(x: torch.Tensor, context: Context) -> torch.Tensor:
        normal = torch.randn(x.shape, generator=context.generator(name)).to(x)
        return context.mean(site, x) + context.std(site, x) * normal

    changes: dict[str, Change] = {
        names.ZERO: lambda x, _: torch.zeros_like(x),
        names.MEAN: lambda x, context: context.mean(site, x),
        names.RESAMPLE: lambda _, context: context.elsewhere(site),
        names.GAUSSIAN: noise,
    }
    if by not in changes:
        raise InterventionError(f"no replacement {by!r}; it is one of {', '.join(names.REPLACEMENTS)}")
    return changes[by]


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
