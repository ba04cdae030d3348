"""Which runs are made and compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Annotated

from lolm.config.ranges import Name, Seed
from lolm.config.strict import Items, nearest, refuse

Arms = Annotated[tuple[Name, ...], Items(least=1, distinct=True)]


@dataclass(frozen=True)
class StudyConfig:
    """Which runs to make and compare. Runs are shared: an arm and seed that two studies name is trained once.

    ``factors`` is the design of a two-level factorial study: for each factor the arms at its high level; all other arms of the
    study are at its low level. Columns are balanced and orthogonal, so the main effect of a factor on any measurement y, in a
    seed, is the mean of y over its high arms − the mean over its low ones, with interactions aliased as the comment at the study
    says. A factor can be told from the arms' configurations as well; the tests hold the two against each other.

    Raises:
        ConfigError: subject, baseline, recall or factors name an arm that is not the study's; the subject is its own baseline
            beside other arms; factors that are unbalanced or not orthogonal.
    """

    arms: Arms
    seeds: Annotated[tuple[Seed, ...], Items(least=1, distinct=True)]
    subject: str  # the arm that the claims are about
    baseline: str  # the arm that they are held against; the pair is the one declared comparison; "": none is declared
    matched: bool = True  # whether the two must have equally many parameters
    recall: Arms | None = None  # the arms that are also trained on the recall tasks; None: all
    layers: Arms | None = None  # the arms whose layers are removed by type; None: the plain stacks
    factors: dict[Name, Arms] = field(default_factory=dict)
    scale: str = ""  # the one scale that it is made for; its claims stand in the ledger of every scale; "": any
    name: str = ""  # its key under `studies`, and its folder under reports/<scale>/

    def __post_init__(self) -> None:
        refuse([*self._strangers(), *self._unbalanced()])

    def _strangers(self) -> Iterator[tuple[bool, str, str]]:
        lists = {"subject": (self.subject,), "baseline": (self.baseline,) if self.baseline else (), "recall": self.recall or ()}
        lists["layers"] = self.layers or ()
        itself = self.baseline == self.subject and len(self.arms) > 1
        yield itself, "baseline", f"{self.baseline!r} is the subject itself; name another of its arms, or '' for none"
        for key, arms in (lists | {f"factors.{name}": arms for name, arms in self.factors.items()}).items():
            for arm in arms:
                yield arm not in self.arms, key, f"{arm!r} is not among the study's arms{nearest(arm, self.arms)}"

    def _unbalanced(self) -> Iterator[tuple[bool, str, str]]:
        count = len(self.arms)
        if count == 0:  # refused already
            return
        for name, high in self.factors.items():
            text = f"{len(high)} of {count} arms are at the high level; it must be half of them"
            yield 2 * len(high) != count, f"factors.{name}", text
        for first, second in combinations(self.factors, 2):
            both = len(set(self.factors[first]) & set(self.factors[second]))
            text = (
                f"is not orthogonal to factors.{second}: {both} of {count} arms are at the high level of both; it must be a "
                "quarter of them"
            )
            yield 4 * both != count, f"factors.{first}", text

    @property
    def recall_arms(self) -> tuple[str, ...]:
        """The arms that are also trained on the recall tasks."""
        return self.arms if self.recall is None else self.recall
