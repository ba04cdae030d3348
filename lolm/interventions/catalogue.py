"""The interventions that are scored together: one entry each, and what a model must have for it.

To have a new intervention in every record, add one line to :data:`STANDARD` or :data:`CONTROLS`, and its name to
:data:`lolm.records.names.INTERVENTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from lolm.interventions import gate
from lolm.interventions.branches import branch_alone, match_norm, replace_branch, resample_source, stream_effect
from lolm.interventions.context import Context
from lolm.interventions.core import Intervention
from lolm.interventions.dimensions import dimension_set
from lolm.interventions.memory_and_regime import permute_stream, remove_stream, skip_last_blocks
from lolm.interventions.random_halves import split_set
from lolm.interventions.sites import fusion_of
from lolm.interventions.statistics import Statistics, StreamMeans
from lolm.models.language_model import LanguageModel
from lolm.records import names


@dataclass(frozen=True)
class Settings:
    """A model and how much of it is tried.

    Attributes:
        gate_values: constants that the gate is forced to.
        shares: of the dimensions of a branch that are removed together.
        draws: random groups of dimensions per group.
        splits: draws of two random halves of all dimensions, the null of the inversion.
        recomputed: replacements with which the effects of h and z are computed through.
    """

    model: LanguageModel
    statistics: Statistics | None = None
    seed: int = 0
    gate_values: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    draws: int = 0
    splits: int = 0
    recomputed: tuple[str, ...] = ()

    @property
    def parts(self) -> set[str]:
        return set(self.model.components())

    @property
    def means(self) -> StreamMeans:
        return StreamMeans(None, None) if self.statistics is None else self.statistics.streams

    @property
    def known(self) -> Statistics:
        assert self.statistics is not None  # `full_set` sees to it
        return self.statistics

    @property
    def counts(self) -> list[int]:
        """Numbers of dimensions that are removed together, ascending."""
        return sorted({max(1, round(share * self.model.d_model)) for share in self.shares})


@dataclass(frozen=True)
class Entry:
    """Interventions of one kind.

    Attributes:
        make: from the settings, the interventions.
        needs: parts that a model must have.
    """

    make: Callable[[Settings], list[Intervention]]
    needs: frozenset[str] = frozenset()

    def of(self, settings: Settings) -> list[Intervention]:
        """None where the model lacks a part."""
        return self.make(settings) if self.needs <= settings.parts else []


def entry(make: Callable[[Settings], list[Intervention]], *needs: str) -> Entry:
    return Entry(make, frozenset(needs))


def _removals(stream: str) -> Callable[[Settings], list[Intervention]]:
    def make(s: Settings) -> list[Intervention]:
        mean = {names.MEMORY: s.means.m, names.REGIME: s.means.r}[stream]
        return [remove_stream(stream), *([remove_stream(stream, s.means)] if mean is not None else [])]

    return make


def _blocks(s: Settings) -> list[Intervention]:
    """The serial control: what removing the end of any stack costs."""
    plain = s.parts <= {"stack", "projection"}
    return [skip_last_blocks(count) for count in range(1, len(s.model.stack.layers) + 1)] if plain else []


def _norm_kept(s: Settings) -> list[Intervention]:
    """Removals with the length of o kept. A norm before the head is scale-free: nothing would change there."""
    if not isinstance(s.model.head_norm, nn.Identity):
        return []
    removals = [gate.force_gate(value) for value in s.gate_values if value in (0.0, 1.0) and "gate" in s.parts]
    return [removal | match_norm() for removal in (*removals, *_branches(s))]


def _branches(s: Settings) -> list[Intervention]:
    return [replace_branch(b, by) for b in names.BRANCHES for by in names.REPLACEMENTS] if "latent" in s.parts else []


def _effects(s: Settings) -> list[Intervention]:
    """Of h and z on all that reads them, and on all but the fusion; what they do to the fusion stands with the branches."""
    wanted = [(branch, kind) for branch, kinds in names.EFFECTS.items() for kind in kinds if kind != names.DIRECT]
    sources = {edge.partition("_")[0] for edge in s.model.edges}
    serial = f"{names.SURFACE}_{names.LATENT}" in s.model.edges
    return [
        stream_effect(s.model, branch, kind, by)
        for branch, kind in wanted
        if (serial if kind == names.INTO_LATENT else branch in sources or kind == names.TOTAL)
        for by in s.recomputed
    ]


def _alone(s: Settings) -> list[Intervention]:
    found = [branch_alone(s.model, branch) for branch in names.BRANCHES]
    return found + ([one | gate.freeze_gate_per_dimension() for one in found] if "gate" in s.parts else [])


STANDARD = (  # as published
    entry(lambda s: [Intervention(names.NONE)]),
    entry(lambda s: [gate.force_gate(value) for value in s.gate_values], "gate"),
    entry(lambda s: [gate.blend_gate(alpha, to) for to in (1.0, 0.0) for alpha in (0.25, 0.5, 0.75)], "gate"),
    entry(_removals(names.MEMORY), "memory"),
    entry(_removals(names.REGIME), "regime"),
    # all at once, as in facts D4
    entry(
        lambda s: [gate.force_gate(1.0) | remove_stream(names.MEMORY) | remove_stream(names.REGIME)], "gate", "memory", "regime"
    ),
    entry(_blocks),
)
CONTROLS = (
    entry(lambda s: [gate.freeze_gate_per_dimension()], "gate"),
    entry(lambda s: [gate.freeze_gate_globally()], "gate"),
    entry(lambda s: [gate.shuffle_gate_positions()], "gate"),
    entry(lambda s: [gate.permute_gate_dimensions()], "gate"),
    entry(lambda s: [gate.binarise_gate()], "gate"),
    entry(lambda s: [gate.swap_gate()], "gate"),
    entry(_branches, "fusion"),
    entry(_norm_kept, "fusion"),
    entry(_effects, "fusion", "latent"),
    entry(_alone, "fusion", "latent"),
    entry(lambda s: [resample_source()], "fusion", "latent"),
    entry(
        lambda s: [i for b in names.BRANCHES for i in dimension_set(s.known, b, s.counts, s.draws, s.seed)], "fusion", "latent"
    ),
    entry(lambda s: split_set(s.model.d_model, s.splits, s.seed), "fusion", "latent"),
    entry(lambda s: [permute_stream(names.MEMORY)], "fusion", "memory"),
    entry(lambda s: [permute_stream(names.REGIME)], "fusion", "regime"),
)


def standard_set(model: LanguageModel, gate_values: Iterable[float], means: StreamMeans) -> list[Intervention]:
    """The learned model and the published interventions that apply to it, the learned one first."""
    mean = {name: value for name, value in (("m", means.m), ("r", means.r)) if value is not None}
    settings = Settings(model, Statistics(mean, {}), gate_values=tuple(gate_values))
    return [intervention for entry in STANDARD for intervention in entry.of(settings)]


def full_set(
    model: LanguageModel,
    context: Context,
    gate_values: Iterable[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    shares: Iterable[float] = (0.125, 0.5),
    draws: int = 2,
    splits: int = 19,
    recomputed: Iterable[str] = names.RECOMPUTED,
) -> list[Intervention]:
    """Everything that applies to a model, the learned one first: :data:`STANDARD`, then :data:`CONTROLS`.

    Args:
        context: with statistics, unless the model is a plain stack.
        gate_values, shares, draws, splits, recomputed: see :class:`Settings`.

    Raises:
        InterventionError: statistics are needed and missing.
        RecordError: one has a name that no record can hold.
    """
    statistics = None if fusion_of(model) is None else context.measured()
    settings = Settings(model, statistics, context.seed, tuple(gate_values), tuple(shares), draws, splits, tuple(recomputed))
    found = [intervention for entry in (*STANDARD, *CONTROLS) for intervention in entry.of(settings)]
    for intervention in found:  # before anything is scored
        names.check_intervention(intervention.name)
    return found
