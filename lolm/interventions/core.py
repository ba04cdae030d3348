"""What an intervention is, what it may know, and how it is carried out.

It acts at the seam between the streams and their fusion, o = g ⊙ u + (1 − g) ⊙ v + W_m m + W_r r, in three places: on the
streams, on the branches u and v, and on o. Streams and gate were computed before, so changing one changes none of the others,
as in the published protocol (spec D3, D4). The fusion itself runs as always, whatever its form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce

import torch

from lolm import LolmError
from lolm.data.batches import stream_seed
from lolm.interventions.statistics import Statistics, fusion_of
from lolm.models.language_model import LanguageModel, Streams


class InterventionError(LolmError):
    """An intervention that the model has no place for, or that was not given what it needs."""


@dataclass(frozen=True)
class Context:
    """What an intervention may need to know besides the thing it changes.

    Attributes:
        statistics: of the model on a data set, see :func:`lolm.interventions.measure`.
        other: gives what :func:`lolm.interventions.observe` sees on as many other documents; called at most when needed.
        full: the o of the unchanged model on this batch, (B, T, D).
        seed: of all random choices.
        batch: number of the batch; draws of different batches are independent.
    """

    statistics: Statistics | None = None
    other: Callable[[], Mapping[str, torch.Tensor]] | None = None
    full: torch.Tensor | None = None
    seed: int = 0
    batch: int = 0

    def measured(self) -> Statistics:
        """The statistics; raises InterventionError without any."""
        if self.statistics is None:
            raise InterventionError("this intervention needs statistics of the model; give Context(statistics=measure(...))")
        return self.statistics

    def mean(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Mean over tokens of the thing ``name`` (a key of Statistics), expanded to the shape of ``like``."""
        return self._found(self.measured().mean, name).to(like).expand_as(like)

    def std(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Standard deviation over tokens, as :meth:`mean`."""
        return self._found(self.measured().std, name).to(like).expand_as(like)

    def elsewhere(self, name: str) -> torch.Tensor:
        """The thing ``name`` in other documents, (B, T, ·); raises InterventionError where none were given."""
        if self.other is None:
            raise InterventionError(
                "this intervention needs other documents; score at least two windows, or give Context(other=)"
            )
        return self._found(self.other(), name)

    def generator(self, name: str, every_batch: bool = True) -> torch.Generator:
        """A fresh CPU generator for one purpose, so that no intervention's draws depend on which others are scored.

        Args:
            every_batch: draw anew in each batch; else the same in all of them.
        """
        return seeded(self.seed, f"{name}/{self.batch}" if every_batch else name)

    @staticmethod
    def _found(things: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        if name not in things:
            raise InterventionError(f"this model has no {name!r} to go by, only {', '.join(sorted(things))}")
        return things[name]


EMPTY = Context()
Change = Callable[[torch.Tensor, Context], torch.Tensor]


def seeded(seed: int, name: str) -> torch.Generator:
    """The CPU generator of one random choice."""
    return torch.Generator().manual_seed(stream_seed(seed, f"interventions/{name}") % 2**63)


@dataclass(frozen=True)
class Intervention:
    """A named change. ``a | b`` does a, then b.

    Attributes:
        name: what is done, e.g. ``gate``.
        value: its parameter, e.g. the constant the gate is forced to; None for none.
        streams: (streams, context) → streams; None leaves them.
        surface: (u_BTD, context) → u_BTD, the surface branch at the fusion; None leaves it.
        latent: (v_BTD, context) → v_BTD, the latent branch.
        output: (o_BTD, context) → o_BTD; ``context.full`` is there.
        skip_last: blocks left out at the end of the surface, which needs the streams computed anew.
    """

    name: str
    value: float | None = None
    streams: Callable[[Streams, Context], Streams] | None = None
    surface: Change | None = None
    latent: Change | None = None
    output: Change | None = None
    skip_last: int = 0

    def apply(self, streams: Streams, context: Context = EMPTY) -> Streams:
        """The part that acts on the streams."""
        return streams if self.streams is None else self.streams(streams, context)

    @property
    def label(self) -> str:
        """``name``, or ``name=value``."""
        return self.name if self.value is None else f"{self.name}={self.value:g}"

    def __or__(self, then: Intervention) -> Intervention:
        if self.value is not None and then.value is not None:
            name, value = f"{self.label}+{then.label}", None
        else:
            name, value = f"{self.name}+{then.name}", self.value if then.value is None else then.value
        return Intervention(
            name,
            value,
            _chain(self.streams, then.streams),
            _chain(self.surface, then.surface),
            _chain(self.latent, then.latent),
            _chain(self.output, then.output),
            self.skip_last + then.skip_last,
        )


def compose(first: Intervention, *others: Intervention) -> Intervention:
    """One after the other, as ``first | …``."""
    return reduce(lambda a, b: a | b, others, first)


def intervene(model: LanguageModel, intervention: Intervention, streams: Streams, context: Context = EMPTY) -> torch.Tensor:
    """o_BTD under an intervention, given the streams of a batch.

    Streams must have been computed without the last ``skip_last`` blocks already.

    Raises:
        InterventionError: the model lacks a branch that is to be changed, or ``context`` what the change needs.
    """
    changed = intervention.apply(streams, context)
    with _at_the_seam(model, intervention, context):
        o = model.fuse(changed)
    if intervention.output is None:
        return o
    return intervention.output(o, context if context.full is not None else replace(context, full=model.fuse(streams)))


@contextmanager
def _at_the_seam(model: LanguageModel, intervention: Intervention, context: Context) -> Iterator[None]:
    """While open, what the branch norms answer is changed: that is u and v, whichever way the fusion joins them."""
    changing = False

    def hook(change: Change) -> Callable[..., torch.Tensor | None]:
        def changed(module: torch.nn.Module, inputs: tuple, out: torch.Tensor) -> torch.Tensor | None:
            nonlocal changing
            if changing:  # the change itself looks at branches, those of other documents: they stay as they are
                return None
            changing = True
            try:
                return change(out, context)
            finally:
                changing = False

        return changed

    with ExitStack() as hooks:
        for branch in ("surface", "latent"):
            change: Change | None = getattr(intervention, branch)
            if change is None:
                continue
            fusion = fusion_of(model)
            if fusion is None or getattr(fusion, branch) is None:
                raise InterventionError(f"{intervention.name}: this model's fusion has no {branch} branch; leave it out")
            norm: torch.nn.Module = getattr(fusion, f"{branch}_norm")
            hooks.callback(norm.register_forward_hook(hook(change)).remove)
        yield


def _chain(first, then):
    """Both functions of (thing, context), either of which may be None."""
    if first is None or then is None:
        return then if first is None else first
    return lambda thing, context: then(first(thing, context), context)
