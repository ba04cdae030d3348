"""A trained model in one line: prompt it, score a text, ask what it would say without a part of itself.

>>> run = lolm.load("artifacts/tiny/runs/lolm-1")
>>> run.generate("The rain", seed=1) == "".join(piece.text for piece in run.generate("The rain", seed=1, stream=True))
True
>>> scored = run.score("The rain stopped.")
>>> scored.tokens == len(scored.table), scored.bytes
(True, 17)
>>> run.intervene("The rain stopped.", "gate=1").learned == scored
True
"""

from __future__ import annotations

import codecs
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lolm import LolmError
from lolm.config import RunConfig
from lolm.config.arguments import argument
from lolm.config.strict import nearest
from lolm.corpus.tokenizer import Tokenizer, tokenizer_of
from lolm.data.batches import EvaluationSet
from lolm.data.stream import TokenStream
from lolm.export import from_hub, is_export, open_export
from lolm.generation import generate
from lolm.generation.generate import ENDED
from lolm.interventions import EMPTY, Context, Intervention, StreamMeans, full_set, fusion_of, measure, standard_set
from lolm.laboratory.token_losses import TokenLosses, losses_by_token
from lolm.models.language_model import LanguageModel
from lolm.records import Layout, RecordError, RunKey, names, read, run_of
from lolm.records.results import RunRecord
from lolm.records.results import load_run as load_records
from lolm.records.schema import RunHeader
from lolm.training.checkpoint import load_run

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # of weights
MEASURED = 16_384  # tokens of validation text from which means for interventions are taken
RUNS = "artifacts/<scale>/runs/<arm>-<seed>"


class LoadError(LolmError):
    """A folder that no model can be loaded from, or a question that it cannot answer."""


class Piece(NamedTuple):
    """A part of a text that is being written: a token's text, empty inside a character of several tokens; its id; and the mean
    gate where it was predicted, None without a gate."""

    text: str
    id: int
    gate: float | None


class ScoredToken(NamedTuple):
    """A token of a text: what it stands for, its id, its loss in nats given those before it, and the mean gate where it is read,
    None without a gate."""

    text: str
    id: int
    nats: float
    gate: float | None


@dataclass(frozen=True)
class Scored:
    """How well a model predicts a text.

    Attributes:
        table: a row for each token; ``pandas.DataFrame(scored.table)`` is a table of them.
        nats: the whole text's, a sum.
    """

    table: tuple[ScoredToken, ...]
    nats: float
    bytes: int

    @property
    def tokens(self) -> int:
        return len(self.table)

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        return self.nats / (self.bytes * math.log(2))


@dataclass(frozen=True)
class Intervened:
    """A text as the learned model predicts it, and the model under an intervention."""

    learned: Scored
    changed: Scored

    @property
    def effect(self) -> float:
        """What the intervention costs, nats a token; below 0 it helps."""
        return self.changed.nats_per_token - self.learned.nats_per_token


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with what belongs to it.

    Attributes:
        source: what it was loaded from.
        model: in evaluation mode.
        config: of the run that trained it.
        records: what was measured of it, as the project's reports have it; None where they do not.
        held_out: its validation text; None where that does not lie with it.
    """

    source: str
    model: LanguageModel
    tokenizer: Tokenizer
    config: RunConfig
    records: RunRecord | None = None
    held_out: TokenStream | None = None

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 128,
        temperature: float = 0.8,
        top_k: int = 50,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        window: int | None = None,
        stream: bool = False,
    ) -> Any:
        """Continue a text as if it began a document; returns what is written, a ``str`` without the prompt.

        Args:
            max_tokens, temperature, top_k, top_p, repetition_penalty, seed, window: see :func:`lolm.generation.generate`.
            stop: texts before which writing ends; the end of a document always ends it.
            stream: return an iterator of :class:`Piece` in its place, each as soon as it is certain.

        Raises:
            GenerationError: a setting out of range or of another type, or logits that are not finite.
            LoadError: a prompt or a stop that is no text.
            ConfigError: the prompt is too short for a memory with a fixed number of chunks.
        """
        argument(LoadError, "prompt", prompt, str)
        argument(LoadError, "stream", stream, bool)
        stops = (stop,) if isinstance(stop, str) else argument(LoadError, "stop", stop, str, Sequence)
        for text in stops:
            argument(LoadError, "a text of stop", text, str)
        ids = torch.from_numpy(np.concatenate(([self.tokenizer.eos_id], self.tokenizer.encode(prompt))))[None]
        eos = self.tokenizer.eos_id
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": repetition_penalty}
        tokens = generate(self.model, ids, max_tokens, **settings, seed=seed, stop=(eos,), window=window)  # type: ignore[arg-type]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def pieces() -> Iterator[Piece]:
            for ids_B, gate_B in tokens:
                if (token := int(ids_B)) not in (eos, ENDED):
                    gate = None if gate_B is None else float(gate_B)
                    yield Piece(decoder.decode(self.tokenizer.texts[token]), token, gate)
            if rest := decoder.decode(b"", final=True):  # the last character was cut
                yield Piece(rest, token, None)

        written = _until(pieces(), tuple(stops))
        return written if stream else "".join(piece.text for piece in written)

    def score(self, text: str, *, window: int | None = None) -> Scored:
        """How well the model predicts a text, read as if it began a document.

        Args:
            window: tokens that are read together; by default as many as in training. A longer text is cut, as in an evaluation,
                and the first tokens of each window know little of what was before.

        Raises:
            ConfigError: text or window are too short for a memory with a fixed number of chunks.
            DataError: the text is empty, or no Unicode.
            LoadError: something else than a text, a window of no token, or a loss that is not finite.
        """
        return self._losses(text, Intervention(names.NONE), window, EMPTY, None).learned

    def intervene(self, text: str, intervention: str | Intervention, *, window: int | None = None) -> Intervened:
        """Score a text in the learned model and under an intervention; see :meth:`score`.

        Args:
            intervention: a label of :attr:`interventions`, such as ``gate=0.5``; or one of your own, which can change any site of
                the model, see :mod:`lolm.interventions`.

        Raises:
            ConfigError: text or window are too short for a memory with a fixed number of chunks.
            LoadError: no intervention of this model has that label, names the nearest; it needs held-out text and there is none;
                or a loss is not finite.
            InterventionError: the model has no place for it, or it needs held-out text and there is none.
            DataError: the text is empty, or no Unicode; or the held-out text is damaged, or too short for it.
        """
        argument(LoadError, "intervention", intervention, str, Intervention)
        if isinstance(intervention, str):
            if intervention not in self.interventions:
                raise LoadError(self._unknown(intervention))
            intervention = self.interventions[intervention]
        return self._losses(text, intervention, window, self._context, self._other_text)

    @cached_property
    def interventions(self) -> dict[str, Intervention]:
        """What :mod:`lolm.interventions.catalogue` has for this model, by label; without held-out text the published ones."""
        if self._context is EMPTY and fusion_of(self.model) is not None:
            found = standard_set(self.model, (0.0, 0.25, 0.5, 0.75, 1.0), StreamMeans(None, None))
        else:
            found = full_set(self.model, self._context)
        return {intervention.label: intervention for intervention in found}

    def _unknown(self, label: str) -> str:
        """What is wrong with a label: the catalogue has it, with held-out text, or not at all."""
        name = label.partition("=")[0]
        if (
            self._context is EMPTY
            and fusion_of(self.model) is not None
            and name not in {i.name for i in self.interventions.values()}
        ):
            with suppress(RecordError):
                names.check_intervention(name)
                return (
                    f"intervention {label!r} needs held-out text, which is not beside {self.source}; load the run's own folder, "
                    f"{RUNS}, in a project where `dvc repro` or `dvc pull` has brought it and its shards"
                )
        return f"no intervention {label!r} of this model{nearest(label, self.interventions)}"

    @cached_property
    def _other_text(self) -> TokenStream | None:
        """The held-out text, its bytes compared with their checksums now that it is needed."""
        if self.held_out is not None:
            self.held_out.verify()
        return self.held_out

    @cached_property
    def _context(self) -> Context:
        """Means of what a model's parts write in held-out text."""
        if self._other_text is None or fusion_of(self.model) is None:
            return EMPTY
        held_out = EvaluationSet(self._other_text, MEASURED, self.config.training.seq_len)
        return Context(measure(self.model, (x_BT for x_BT, _ in held_out.batches(8))), seed=self.config.seed)

    def _losses(
        self, text: str, intervention: Intervention, window: int | None, context: Context, elsewhere: TokenStream | None
    ) -> Intervened:
        argument(LoadError, "text", text, str)
        window = argument(LoadError, "window", window, int, type(None))
        if window is not None and window < 1:
            raise LoadError(f"window {window} must be at least 1, or None: as in training")
        ids, before = self.tokenizer.encode(text), self.tokenizer.eos_id
        size = window or self.config.training.seq_len
        found = []
        for start, end in self.model.pieces(len(ids), size) or [(0, 0)]:
            part = ids[start:end]
            found.append(losses_by_token(self.model, part, before, intervention, context.statistics, elsewhere, context.seed))
            before = int(part[-1])
        learned, changed = (self._scored(text, parts) for parts in zip(*found, strict=True))
        for scored, under in ((learned, ""), (changed, f" under {intervention.label}")):
            if wrong := [i for i, row in enumerate(scored.table) if not math.isfinite(row.nats)]:
                raise LoadError(
                    f"{self.source}: the loss of token {wrong[0]}{under} is {scored.table[wrong[0]].nats}: damaged weights, too "
                    "narrow a dtype, or an intervention that leaves no finite logits"
                )
        return Intervened(learned, changed)

    def _scored(self, text: str, parts: Sequence[TokenLosses]) -> Scored:
        rows = [
            ScoredToken(
                self.tokenizer.texts[i].decode("utf-8", "replace"), int(i), float(nats), None if gate is None else float(gate)
            )
            for part in parts
            for i, nats, gate in zip(part.ids, part.nats, [None] * len(part.ids) if part.gate is None else part.gate, strict=True)
        ]
        return Scored(tuple(rows), sum(row.nats for row in rows), len(text.encode()))


def load(
    source: str | Path,
    *,
    device: str | int | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    step: int | None = None,
    annealed: bool = False,
) -> LoadedModel:
    """Load a trained model.

    Args:
        source: folder of a run's weights, ``artifacts/<scale>/runs/<arm>-<seed>`` of a project; or one that ``lolm export``
            wrote, or its name on the Hugging Face hub, ``owner/name``; those have no held-out text beside them, and records where
            the current project, or the one that they lie in, has the run's.
        device, dtype: of the weights; float32 by default, or another of :data:`DTYPES`.
        step: whose weights a run kept, a snapshot; by default its last. An export has those of one step. Records are the whole
            run's.
        annealed: take the copy of the run that was annealed to an end at ``step``, not the run as it went on there.

    Raises:
        LoadError: that is no run's folder; a device that PyTorch does not have here; an export of another step; or an argument of
            another type.
        LolmError: its records, weights or tokenizer are missing or broken, text and tokenizer beside it are others than it was
            trained with, or no weights of that step were kept (names those that were); names the file.
    """
    argument(LoadError, "source", source, str, os.PathLike)
    argument(LoadError, "device", device, str, int, torch.device)
    step = argument(LoadError, "step", step, int, type(None))
    argument(LoadError, "annealed", annealed, bool)
    if argument(LoadError, "dtype", dtype, torch.dtype, type(None)) not in (None, *DTYPES):
        raise LoadError(f"dtype {dtype}: weights are one of {', '.join(map(str, DTYPES))}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch's, of a name that is none and of a device that is not there
        reason = str(error).partition("\n")[0]
        raise LoadError(f"device {str(device)!r} cannot be used here: {reason}") from None
    folder = Path(source)
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        folder = from_hub(str(source))
    found = (_exported if is_export(folder) else _run)(folder, step, annealed)
    found.model.to(device=device, dtype=dtype).eval()
    return found


def _exported(folder: Path, step: int | None, annealed: bool) -> LoadedModel:
    """A run that went out as a folder of the transformers library."""
    model, tokenizer, header = open_export(folder)
    last = header.run.training.steps
    own = last if header.step is None else header.step
    asked = annealed or step is not None
    if step not in (None, own) or (asked and annealed != header.annealed and own != last):
        what = "an annealed copy that ended at step" if header.annealed else "step"
        raise LoadError(f"{folder}: an export has weights of one step, this one of {what} {own}; load the run's own folder")
    return LoadedModel(str(folder), model, tokenizer, header.run, _records_of(folder, header))


def _records_of(folder: Path, header: RunHeader) -> RunRecord | None:
    """The records of an exported run in the current project, or in one around the folder."""
    key = RunKey(header.run.arm, header.run.seed)
    for root in (Path(), *folder.resolve().parents):
        layout = Layout(header.run.scale, root)
        with suppress(RecordError):  # none there, or another version's
            if read(layout.header(*key), RunHeader).fingerprint == header.fingerprint:
                break
    else:
        return None
    return load_records(layout, key)


def _run(folder: Path, step: int | None, annealed: bool) -> LoadedModel:
    """A run of this or of another project."""
    place = run_of(folder)
    if not folder.is_dir():
        raise LoadError(f"{folder}: no such folder; a run's weights lie in {RUNS}, and `dvc repro` or `dvc pull` brings them")
    if place is None:
        raise LoadError(f"{folder}: not the folder of a run, nor an export of one; give {RUNS}")
    layout, key = place
    trained = load_run(layout.train(*key), folder)
    trained.check_data(layout)
    trained.kept(step, annealed)
    tokenizer = tokenizer_of(layout, trained.run.vocab_size)
    held_out = TokenStream.open(layout.shards, "validation") if layout.shards.is_dir() else None
    return LoadedModel(str(folder), trained.model, tokenizer, trained.run, load_records(layout, key), held_out)


def _until(pieces: Iterator[Piece], stops: tuple[str, ...]) -> Iterator[Piece]:
    """Pieces up to the first of some texts; one that may be the beginning of such a text waits for what follows."""
    longest, kept, waiting = max(map(len, stops), default=0), "", []
    for piece in pieces:
        waiting.append(piece)
        kept += piece.text
        ends = [place for stop in stops if stop and (place := kept.find(stop)) >= 0]
        if ends:
            left = min(ends)
            for piece in waiting:
                if left > 0:
                    yield piece._replace(text=piece.text[:left])
                left -= len(piece.text)
            return
        while waiting and len(kept) - len(waiting[0].text) >= longest - 1:
            kept = kept[len(waiting[0].text) :]
            yield waiting.pop(0)
    yield from waiting
