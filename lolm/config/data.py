"""Where the text comes from, and how it becomes tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from lolm.config.ranges import VOCABULARY, Count, ShareBelowOne, Text
from lolm.config.strict import Range, refuse

SMALLEST_VOCABULARY = 260  # 256 bytes, 3 control tokens and one piece


@dataclass(frozen=True)
class CorpusConfig:
    """Where the documents come from, and which of them are held out."""

    source: Literal["embedded", "local", "hub"] = "embedded"
    path: Text = "lolm/corpus/embedded/embedded.jsonl.xz"  # embedded: the committed corpus; local: a file, a folder or a glob
    name: Text | None = None  # hub: data set name, e.g. roneneldan/TinyStories
    subset: Text | None = None  # hub: configuration of the data set
    split: Text = "train"  # hub: split that is streamed
    text_field: Text = "text"
    id_field: Text | None = "id"  # documents without one are named by file and position
    max_documents: Count | None = None
    max_bytes: Count | None = None  # stop reading after this much text (streams are endless)
    validation_fraction: ShareBelowOne = 0.03  # share of the documents that a hash of the id sends to validation
    test_fraction: ShareBelowOne = 0.03
    validation: tuple[str, ...] = ()  # ids that are held out by name, before the hash decides the rest
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        both = set(self.validation) & set(self.test)
        held_out = self.validation_fraction + self.test_fraction
        refuse(
            [
                (self.source == "hub" and not self.name, "name", "is required where source is 'hub'"),
                (self.source == "embedded" and bool(self.name), "name", "is of source 'hub'; set source, or name: null"),
                (held_out >= 1, "validation_fraction", f"with test_fraction {held_out:g}: nothing is left to train on"),
                (bool(both), "validation", f"{', '.join(sorted(both))}: named under test too"),
            ]
        )


@dataclass(frozen=True)
class TokenizerConfig:
    """SentencePiece BPE with byte fallback, trained on the training split."""

    vocab_size: Annotated[int, Range(least=SMALLEST_VOCABULARY, most=VOCABULARY)]
    train_bytes: Count = 20_000_000  # text shown to the trainer, spread evenly over the training documents


@dataclass(frozen=True)
class ShardsConfig:
    """Flat token files that are memory-mapped."""

    shard_tokens: Count = 16_777_216
