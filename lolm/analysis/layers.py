"""Which type of layer a model depends on, its recurrent or its attention mixers, and what else could explain it.

For all mixers of either type replaced at once, at one checkpoint of one run,

    S_type = (loss without recurrent − loss) − (loss without attention − loss), nats a token,

so S_type > 0 where the recurrent mixers are missed more. What stands in their place is declared in ``analysis.type_statistic``
before the runs. Types differ in more than their kind: in number, parameters, in what they write, and in which layers they have.
So their share of what is written stands beside it, S per layer, parameter and unit of norm, random sets of mixers that are equal
in one of these, and the exact distribution over all ways to name the mixers' types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

from lolm.analysis.statistics import Estimate
from lolm.records import names
from lolm.records.results import RunRecord
from lolm.records.schema import LayerRemovals

NEITHER, UNDECIDED = "neither", "inconclusive"  # beside the two types: which is missed more
PER = {"": "", "layer": " a layer", names.PARAMETERS: " a million parameters", names.NORM: " a unit of removed norm"}


def damage(found: LayerRemovals | None, kind: str, by: str, step: int | None = None, per: str = "") -> float | None:
    """Loss without all layers of a type minus the loss, nats a token, by a key of PER; None where it was not measured."""
    sites = () if found is None else found.of_type.get(kind, ())
    if found is None or not sites or (lost := found.damage(sites, by, step)) is None:
        return None
    parameters = found.parameters(sites)
    size = {
        "": 1.0,
        "layer": len(sites),
        names.PARAMETERS: None if parameters is None else parameters / 1e6,
        names.NORM: found.norm(sites, step),
    }[per]
    return lost / size if size else None


def statistic(found: LayerRemovals | None, by: str, step: int | None = None, per: str = "") -> float | None:
    """S_type of a model at one checkpoint, default the last; None where it lacks a type or was not measured."""
    recurrent, attention = (damage(found, kind, by, step, per) for kind in names.MIXER_TYPES)
    return None if recurrent is None or attention is None else recurrent - attention


def later_layers(found: LayerRemovals | None, by: str) -> float | None:
    """S_type of single mixers, summed over each type's beyond the first layer, nats; None where one was not measured."""
    if found is None or any(kind not in found.of_type for kind in names.MIXER_TYPES):
        return None
    layer = {site.site: site.layer for site in found.sites}
    first = min(layer[site] for site in found.mixers)
    lost = {site: found.damage((site,), by) for site in found.mixers if layer[site] > first}
    if not lost or None in lost.values():
        return None
    recurrent, attention = (math.fsum(lost[s] for s in found.of_type[kind] if s in lost) for kind in names.MIXER_TYPES)  # type: ignore[misc]
    return recurrent - attention


def share(found: LayerRemovals | None, step: int | None = None) -> float | None:
    """The recurrent mixers' share of the removed norm of both types; None where the model lacks one or none writes anything."""
    if found is None or any(kind not in found.of_type for kind in names.MIXER_TYPES):
        return None
    recurrent, attention = (found.norm(found.of_type[kind], step) for kind in names.MIXER_TYPES)
    return recurrent / (recurrent + attention) if recurrent + attention else None


def missed_more(found: Estimate, margin: float) -> str:
    """Which type: its interval lies beyond the margin; ``neither`` if it lies inside ±margin, else ``inconclusive``."""
    if found.interval is None:
        return UNDECIDED
    low, high = found.interval
    if low > margin:
        return names.RECURRENT
    if high < -margin:
        return names.ATTENTION
    return NEITHER if -margin < low and high < margin else UNDECIDED


def unused(damage: Estimate, margin: float) -> bool:
    """Whether a type is bypassed: removing all of it is shown to cost less than the margin, in either direction."""
    return damage.interval is not None and -margin < damage.interval[0] and damage.interval[1] < margin


# ---------------------------------------------------------------------------------------------- controls


@dataclass(frozen=True)
class Permutation:
    """S_type among those of all ways to name as many of the mixers recurrent, a mean over runs.

    Attributes:
        observed: of the true types.
        all: of every labelling, the true one included, nats.
    """

    observed: float
    all: tuple[float, ...]

    def distances(self) -> tuple[float, list[float]]:
        """Distance from the mean over labellings in its standard deviations, of the true one and of every one."""
        mean = math.fsum(self.all) / len(self.all)
        spread = math.sqrt(math.fsum((s - mean) ** 2 for s in self.all) / len(self.all))
        return (
            (0.0, [0.0] * len(self.all))
            if not spread
            else (abs(self.observed - mean) / spread, [abs(s - mean) / spread for s in self.all])
        )

    @property
    def p_value(self) -> float:
        """Exact, two-sided: the share of labellings that lie as far from their mean as the true one."""
        return joint_p_value([self])


def permutation(found: Sequence[LayerRemovals | None], by: str) -> Permutation | None:
    """Of the runs of one arm, whose sites are the same; None unless every labelling was measured in each."""
    first = found[0] if found else None
    if first is None or any(kind not in first.of_type for kind in names.MIXER_TYPES):
        return None
    true, values = frozenset(first.of_type[names.RECURRENT]), {}
    for chosen in combinations(first.mixers, len(true)):
        rest = [site for site in first.mixers if site not in chosen]
        each = [(None, None) if run is None else (run.damage(chosen, by), run.damage(rest, by)) for run in found]
        if any(None in pair for pair in each):
            return None
        values[frozenset(chosen)] = math.fsum(a - b for a, b in each) / len(each)  # type: ignore[operator]
    return Permutation(values[true], tuple(values.values()))


def joint_p_value(permutations: Sequence[Permutation]) -> float:
    """Exact p of several arms at once: the share of joint labellings whose summed squared distances reach the true ones'."""
    observed, sums = 0.0, [0.0]
    for one in permutations:
        true, each = one.distances()
        observed += true**2
        sums = [total + distance**2 for total in sums for distance in each]
    return sum(total >= observed - 1e-9 for total in sums) / len(sums)


def beyond_random(found: LayerRemovals | None, kind: str, match: str, by: str) -> float | None:
    """Damage without a type minus the mean damage without its random sets of equal ``match``, nats; None if not measured."""
    own = damage(found, kind, by)
    if found is None or own is None:
        return None
    drawn = [found.damage(c.sites, by) for c in found.controls if (c.type, c.match) == (kind, match)]
    return None if not drawn or None in drawn else own - math.fsum(drawn) / len(drawn)  # type: ignore[arg-type]


def matched_sizes(found: LayerRemovals | None, kind: str, match: str) -> list[float]:
    """How many times as large as the type its random sets of equal ``match`` are: the closest there are need not be close."""
    own = () if found is None else found.of_type.get(kind, ())
    if found is None or not own:
        return []
    by_match: dict[str, Callable[[Collection[str]], float | None]] = {
        names.NUMBER: len, names.PARAMETERS: found.parameters, names.NORM: found.norm,
    }  # fmt: skip
    sets = [own, *(c.sites for c in found.controls if (c.type, c.match) == (kind, match))]
    sizes = [float(size) for sites in sets if (size := by_match[match](sites)) is not None]
    return [size / sizes[0] for size in sizes[1:]] if len(sizes) == len(sets) and sizes[0] else []


def early_minus_late(found: LayerRemovals | None, by: str) -> float | None:
    """Mean damage of single mixers in the first half of the layers minus that in the second, nats; the middle layer is out."""
    if found is None:
        return None
    last = max((s.layer for s in found.sites), default=0)
    halves: tuple[list[float | None], list[float | None]] = ([], [])
    for site in found.sites:
        if site.site in found.mixers and 2 * site.layer != last:
            halves[2 * site.layer > last].append(found.damage((site.site,), by))
    if not all(halves) or any(None in half for half in halves):
        return None
    first, second = (math.fsum(half) / len(half) for half in halves)  # type: ignore[arg-type]
    return first - second


# ---------------------------------------------------------------------------------------------- recall, and training without


def recall_lost(run: RunRecord, task: str, kind: str, by: str) -> float | None:
    """Accuracy in a recall task minus that without a type of layer, of the model that was trained on it."""
    names.check_task(task)
    found = None if run.recall is None else run.recall.tasks.get(task)
    if found is None or found.accuracy is None:
        return None
    return next((found.accuracy - row.accuracy for row in found.removed if (row.type, row.by) == (kind, by)), None)


def overstated(with_it: RunRecord, without: RunRecord, kind: str, by: str) -> float | None:
    """Damage of removing a type minus what never having had it costs, an arm of equal size against this one, nats: all on the
    tokens that layers are removed on. None where that was not measured in both."""
    removed = damage(with_it.by_layer, kind, by)
    had, never = (None if run.by_layer is None else run.by_layer.removal() for run in (with_it, without))
    return None if removed is None or had is None or never is None else removed - (never.nats - had.nats)
