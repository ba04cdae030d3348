"""Encoding text and writing token files: ours, and the same job by ``datasets`` with a tokenizer of ``tokenizers``."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import Settings
from benchmarks.timing import Part, Samples, Unavailable, rates, ratios, slopes, summary, timed
from lolm.config import scale_of
from lolm.corpus.documents import Document
from lolm.corpus.shards import write_split
from lolm.corpus.sources import read_documents
from lolm.corpus.tokenizer import Tokenizer, sample_lines, train_tokenizer

PORTIONS = (0.25, 0.5, 1.0)  # of the documents, for the growth with their number
PIECE = 20_000  # characters of a document here: books are cut, so that there are many documents


def corpus_slice(settings: Settings) -> list[Document]:
    """The first ``text_bytes`` bytes of the scale's corpus as documents of at most ``PIECE`` characters.

    Raises:
        Unavailable: the corpus comes from the network.
    """
    config = scale_of(settings.params, settings.scale).corpus
    if config.source == "hub":
        raise Unavailable(f"the corpus of scale {settings.scale!r} comes from the network; a local one can be measured")
    pieces: list[Document] = []
    size = 0
    for document in read_documents(config):
        for start in range(0, len(document.text), PIECE):
            text = document.text[start : start + PIECE]
            pieces.append(Document(f"{document.id}/{start}", document.source, document.licence, text))
            size += len(text.encode())
            if size >= settings.text_bytes:
                return pieces
    return pieces


def size_of(documents: Sequence[Document]) -> int:
    """UTF-8 bytes of text."""
    return sum(len(document.text.encode()) for document in documents)


def own_job(documents: Sequence[Document], tokenizer: Tokenizer, folder: Path) -> None:
    """What the stage ``shards`` does with one split."""
    shutil.rmtree(folder, ignore_errors=True)
    write_split(documents, tokenizer, folder, 16_777_216, np.dtype("<u2"))


def trained_peer(documents: Sequence[Document], vocab_size: int) -> Any:
    """A byte-level BPE of ``tokenizers`` with an id for the end of a document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )  # fmt: skip
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    return tokenizer


def peer_job(data: Any, tokenizer: Any, path: Path) -> None:
    """``Dataset.map`` over batches in memory, then one flat file of uint16 with the end of each document."""
    end = tokenizer.token_to_id("</s>")

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [encoding.ids + [end] for encoding in tokenizer.encode_batch(batch["text"])]}

    made = data.map(encode, batched=True, remove_columns=["text"], keep_in_memory=True, load_from_cache_file=False)
    column = made.data.column("ids")
    np.concatenate([chunk.values.to_numpy() for chunk in column.chunks]).astype("<u2").tofile(path)


def text(settings: Settings, stack: ExitStack) -> Part:
    """Megabytes a second of both on a slice of the corpus, one thread, warm; and how ours grows with the documents."""
    import datasets

    datasets.disable_progress_bars()
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # ours has one thread

    def restore() -> None:
        if before is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before

    stack.callback(restore)
    documents = corpus_slice(settings)
    vocab_size = scale_of(settings.params, settings.scale).tokenizer.vocab_size
    texts = [document.text for document in documents]
    total = size_of(documents)
    tokenizer = Tokenizer(train_tokenizer(sample_lines(texts, total, total), vocab_size))
    peer, data = trained_peer(documents, vocab_size), datasets.Dataset.from_dict({"text": texts})
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    slices = {portion: documents[: max(1, round(portion * len(documents)))] for portion in PORTIONS}
    sizes = [size_of(part) for part in slices.values()]

    def own(portion: float) -> Callable[[], float]:
        return lambda: timed(lambda: own_job(slices[portion], tokenizer, folder / "own"))

    measures: dict[str, Callable[[], float]] = {f"own/{portion:g}": own(portion) for portion in PORTIONS}
    measures["peer"] = lambda: timed(lambda: peer_job(data, peer, folder / "peer.bin"))
    for warm in measures.values():
        warm()

    def result(samples: Samples) -> dict[str, Any]:
        series = [samples[f"own/{portion:g}"] for portion in PORTIONS]
        return {
            "bytes": total,
            "documents": len(documents),
            "vocab_size": vocab_size,
            "own_megabytes_per_second": summary(rates(total / 1e6, series[-1])),
            "datasets_megabytes_per_second": summary(rates(total / 1e6, samples["peer"])),
            "datasets_over_own": summary(ratios(samples["peer"], series[-1])),
            "growth_with_documents": {
                "seconds": {str(size): summary(values) for size, values in zip(sizes, series, strict=True)},
                "slope": summary(slopes(sizes, series)),
            },
        }

    return Part(measures, result)
