"""Replacing a branch at the fusion, u (surface) or v (latent), and keeping the size of what the head reads (spec F3, F4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lolm.interventions.core import Change, Context, Intervention, InterventionError
from lolm.models.language_model import Streams

BRANCHES = {"surface": "u", "latent": "v"}
SOURCES = {"surface": "h", "latent": "z"}
REPLACEMENTS = ("zero", "mean", "resample", "gaussian")


def change_branch(branch: str, name: str, change: Change, value: float | None = None) -> Intervention:
    """u := change(u, context) for ``surface``, v := change(v, context) for ``latent``.

    Raises:
        InterventionError: no such branch.
    """
    if branch not in BRANCHES:
        raise InterventionError(f"no branch {branch!r}; the branches are {', '.join(BRANCHES)}")
    places: dict[str, Any] = {branch: change}
    return Intervention(name, value, **places)


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

    def change(x: torch.Tensor, context: Context) -> torch.Tensor:
        field = BRANCHES[branch]
        if by == "zero":
            return torch.zeros_like(x)
        if by == "mean":
            return context.mean(field, x)
        if by == "resample":
            return context.elsewhere(field)
        noise = torch.randn(x.shape, generator=context.generator(name)).to(x)
        return context.mean(field, x) + context.std(field, x) * noise

    if by not in REPLACEMENTS:
        raise InterventionError(f"no replacement {by!r}; a branch is replaced by {', '.join(REPLACEMENTS)}")
    return change_branch(branch, name, change)


def resample_source(branch: str = "latent") -> Intervention:
    """h (``surface``) or z (``latent``) of another document reaches the fusion.

    Gate, memory and regime keep what they computed from the true stream: nothing that follows is recomputed, as nowhere in the
    published protocol. So this equals :func:`replace_branch` by ``resample``, one map and one norm earlier.
    """
    field = SOURCES[branch]

    def apply(s: Streams, context: Context) -> Streams:
        changed: dict[str, Any] = {field: context.elsewhere(field)}
        return replace(s, **changed)

    return Intervention(f"{branch}_source_resample", None, apply)


def match_norm() -> Intervention:
    """Rescale o, token by token, to the length it has in the unchanged model: ``replace_branch(...) | match_norm()``.

    An o that is all zeros has no direction and stays.
    """

    def change(o: torch.Tensor, context: Context) -> torch.Tensor:
        assert context.full is not None  # `intervene` sees to it
        wanted, found = (x.norm(dim=-1, keepdim=True) for x in (context.full, o))
        return torch.where(found > 0, o * (wanted / found.clamp(min=torch.finfo(o.dtype).tiny)), o)

    return Intervention("match_norm", output=change)
