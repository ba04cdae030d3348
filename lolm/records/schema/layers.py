"""What the interventions by layer and by type of layer measure, on any stack."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lolm.records import names
from lolm.records.schema.training import Identity, References


@dataclass(frozen=True)
class WriteSite:
    """A place where a mixer or an MLP writes into the residual stream, or a branch of a mixer into that mixer's write.

    Attributes:
        site: ``<stack>.<layer>.<part>``.
        kind: a mixer's name, ``mlp`` or ``experts``.
        type: one of ``names.LAYER_TYPES``; None for a mixer that is of several, whose branches have sites of their own.
        parameters: of what writes, its norm apart; None where the model does not say.
    """

    site: str
    kind: str
    type: str | None
    parameters: int | None

    @property
    def layer(self) -> int:
        return int(self.site.split(".", 2)[1])


@dataclass(frozen=True)
class WrittenNorm:
    """RMS length, over tokens, of a site's write about its mean: what the mean in its place takes away.

    Of a branch it is what that does to the write of its mixer.
    """

    step: int
    site: str
    norm: float


@dataclass(frozen=True)
class Removal:
    """Scores with the writes of ``sites`` replaced, at the weights of one step; the intact model has no sites.

    Attributes:
        by: one of ``names.REPLACEMENTS``; ``none`` for the intact model.
        top1_change: share of the tokens whose most probable next token is another one than the intact model's.
    """

    step: int
    sites: tuple[str, ...]
    by: str
    nats: float
    bits_per_byte: float
    accuracy: float
    top1_change: float


@dataclass(frozen=True)
class MatchedSet:
    """Mixers drawn at random that equal those of a type in their ``number``, ``parameters`` or removed ``norm``."""

    type: str
    match: str
    sites: tuple[str, ...]


@dataclass(frozen=True)
class LayerRemovals:
    """Removals by layer and type of one model: at every checkpoint each type, at the last each site and the controls too."""

    tokens: int
    bytes: int
    sites: tuple[WriteSite, ...]
    norms: tuple[WrittenNorm, ...]
    removals: tuple[Removal, ...]
    controls: tuple[MatchedSet, ...] = ()

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Checkpoints, ascending."""
        return tuple(sorted({row.step for row in self.norms}))

    @cached_property
    def of_type(self) -> dict[str, tuple[str, ...]]:
        """By type the sites of it, of the types that the model has, in the order of ``names.LAYER_TYPES``."""
        found = {kind: tuple(s.site for s in self.sites if s.type == kind) for kind in names.LAYER_TYPES}
        found[names.MLP] = tuple(s.site for s in self.sites if s.type in (names.MLP, names.EXPERT_MLP))
        return {kind: sites for kind, sites in found.items() if sites}

    @property
    def mixers(self) -> tuple[str, ...]:
        """Sites of mixers that are of one of the two types that are held against each other."""
        return tuple(s.site for s in self.sites if s.type in names.MIXER_TYPES)

    def removal(self, sites: Iterable[str] = (), by: str = names.NONE, step: int | None = None) -> Removal | None:
        """Scores without the writes of these sites, in whatever order, at a checkpoint (default: the last); None if not made."""
        step = step if step is not None else self.steps[-1] if self.steps else -1
        return self._rows.get((step, frozenset(sites), by))

    def damage(self, sites: Iterable[str], by: str, step: int | None = None) -> float | None:
        """Loss without them minus the intact model's, nats a token; None if not made."""
        changed, intact = self.removal(sites, by, step), self.removal(step=step)
        return None if changed is None or intact is None else changed.nats - intact.nats

    def parameters(self, sites: Collection[str]) -> int | None:
        """Parameters of all that writes there; None where one does not say."""
        found = [s.parameters for s in self.sites if s.site in sites]
        return None if None in found else sum(found)  # type: ignore[arg-type]

    def norm(self, sites: Collection[str], step: int | None = None) -> float:
        """Sum of the removed norms at a checkpoint, default the last."""
        step = step if step is not None else self.steps[-1]
        return sum(row.norm for row in self.norms if row.step == step and row.site in sites)

    @cached_property
    def _rows(self) -> dict[tuple[int, frozenset[str], str], Removal]:
        return {(row.step, frozenset(row.sites), row.by): row for row in self.removals}


@dataclass(frozen=True)
class Layers(Identity):
    """``layers/<arm>-<seed>.json.xz``: the removals of a run, beside trivial models on the same tokens."""

    split: Literal["test"]
    references: References
    measured: LayerRemovals
