"""Public models that are taken to the laboratory of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from lolm.config.data import CorpusConfig
from lolm.config.measuring import LayersConfig
from lolm.config.ranges import MANY, Count, Seed, Size, SizeOrZero, Text
from lolm.config.strict import Range, refuse


@dataclass(frozen=True)
class ExternalText:
    """What a public model is scored on; ``test`` is the test split of the selected scale's corpus, as text."""

    source: Literal["test", "local", "hub"] = "test"
    path: Text | None = None  # local: a file, a folder or a glob of .txt, .jsonl or .parquet
    name: Text | None = None  # hub: data set
    subset: Text | None = None  # hub: configuration of the data set
    split: Text = "test"  # hub: its split
    text_field: Text = "text"

    def __post_init__(self) -> None:
        refuse(
            [
                (self.source == "local" and self.path is None, "path", "is required where source is 'local'"),
                (self.source == "hub" and self.name is None, "name", "is required where source is 'hub'"),
                (self.source != "local" and self.path is not None, "path", "is of source 'local'; set source, or path: null"),
                (self.source != "hub" and self.name is not None, "name", "is of source 'hub'; set source, or name: null"),
            ]
        )

    @property
    def corpus(self) -> CorpusConfig:
        """As a source of documents, of ``local`` or ``hub``."""
        source: Literal["local", "hub"] = "hub" if self.source == "hub" else "local"
        return CorpusConfig(source, self.path or "", self.name, self.subset, self.split, self.text_field, id_field=None)


@dataclass(frozen=True)
class ExternalConfig:
    """One public model, its text, and how much of that is scored.

    Attributes:
        model: id on the Hugging Face hub, or a folder as ``save_pretrained`` writes it.
        revision: of the hub's repository: a commit, a tag or a branch; the record holds the commit.
        dtype: of weights and arithmetic; losses are summed in float64.
        tokens: scored, and as many more for the means that stand for removed writes.
        seq_len: T of a window; windows begin as the tokenizer begins a text.
        draws, labellings: as of :class:`~lolm.config.measuring.LayersConfig`.
        seed: of random sets and noise.
    """

    model: Text
    revision: Text = "main"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    text: ExternalText = ExternalText()
    tokens: Count = 32_768
    seq_len: Annotated[int, Range(least=2, most=MANY)] = 1024
    batch_size: Size = 4
    draws: SizeOrZero = 8
    labellings: SizeOrZero = 70
    seed: Seed = 0

    def __post_init__(self) -> None:
        few = self.tokens < 2 * self.seq_len
        refuse([(few, "tokens", f"{self.tokens} are less than two windows of seq_len {self.seq_len}")])

    @property
    def layers(self) -> LayersConfig:
        """What the laboratory of layers is asked for."""
        return LayersConfig(self.tokens, self.batch_size, self.draws, self.labellings)
