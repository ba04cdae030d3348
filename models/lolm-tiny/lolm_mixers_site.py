# lolm.mixers.site of this project, with its imports made flat.
"""A place inside a model where a tensor can be looked at and replaced from outside."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Site:
    """Called as ``x = site(x)`` where x is written; gives x back as it is unless ``change`` is set.

    No module and no hook: what is not changed costs one comparison, and weights, checkpoints and compilation don't see it. Set
    ``change`` through :func:`lolm.interventions.streams_under`, which takes it away again.

    Attributes:
        kind: what writes here: a mixer's name, ``mlp`` or ``experts``.
        change: maps the tensor to another of the same shape.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.change: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.change is None else self.change(x)
