"""Take a public model to the laboratory of layers: what its mixers and MLPs write is replaced, one by one and by type.

Not a stage of `dvc repro`: a public model is of no scale and no study, takes gigabytes that this project does not track, and most
machines that reproduce it have no network. The record is committed; the ledger of all studies reads it.

Writes ``reports/external/<name>.json``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from lolm.analysis.layers import statistic
from lolm.config import ConfigError, ExternalConfig, load_params, nearest
from lolm.corpus.documents import iterate_split
from lolm.corpus.sources import read_documents
from lolm.data.errors import DataError
from lolm.evaluation.ngram import Bigram
from lolm.external import TextWindows, load_model, load_tokenizer, revision_of, tokenizer_checksum, windows_of
from lolm.laboratory.layers import measure_layers
from lolm.records import Layout, names, write
from lolm.records.layout import external_record
from lolm.records.schema import External
from pipeline.environment import installed
from pipeline.stage import main, training_device

# What the library computes a recurrence or a convolution with, where it is installed; else its reference in PyTorch.
LIBRARIES = ("transformers", "torch", "mamba-ssm", "causal-conv1d", "flash-linear-attention", "kernels")


def external() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="key under `external` in params.yaml")
    parser.add_argument("--scale", help="whose test split `text: {source: test}` is (default: the scale of params.yaml)")
    args = parser.parse_args()
    params = load_params().select(args.scale)
    if args.name not in params.external:
        raise ConfigError(f"no {args.name!r} under 'external'{nearest(args.name, params.external)}; templates stand there")
    record = measured(args.name, params.external[args.name], Layout(params.scale))
    path = external_record(args.name)
    write(path, record)
    print(*described(record), f"record: {path}", sep="\n")


def measured(name: str, config: ExternalConfig, layout: Layout) -> External:
    """All that is measured on one public model."""
    device, tokenizer = training_device(), load_tokenizer(name, config)
    next(iter(texts_of(name, config, layout, "test")), None)  # what is wrong there is told before gigabytes are loaded
    model = load_model(name, config, device)
    vocab_size = model.model.get_output_embeddings().weight.shape[0]
    scored, others = text_of(name, config, tokenizer, vocab_size, layout)
    counted = Bigram(others, np.array([[1, len(others)]]))  # type: ignore[arg-type]
    return External(
        name=name,
        config=config,
        revision=revision_of(model, config),
        architecture=type(model.model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocab_size=vocab_size,
        uniform=math.log(vocab_size),
        unigram=counted.losses(scored)["unigram"],  # type: ignore[arg-type]
        text=scored.checksum,
        tokenizer=tokenizer_checksum(tokenizer),
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        versions=installed(LIBRARIES),
        measured=measure_layers(model, scored, others, config.layers, seed=config.seed, step=0),  # type: ignore[arg-type]
        caveats=tuple(model.caveats),
    )


def texts_of(name: str, config: ExternalConfig, layout: Layout, split: str) -> Iterator[str]:
    """The texts of a split of the scale's corpus, or of the files or data set that the entry names, whole.

    Raises:
        DataError: they cannot be read.
    """
    if config.text.source == "test":
        yield from (document.text for document in iterate_split(layout.corpus, split))
        return
    try:
        yield from (document.text for document in read_documents(config.text.corpus))
    except DataError as error:
        raise DataError(f"external.{name}.text, whose keys are those of a corpus: {error}") from None


def text_of(name: str, config: ExternalConfig, tokenizer, vocab_size: int, layout: Layout) -> tuple[TextWindows, TextWindows]:
    """The scored windows, and as many of other text for the means: the validation split, or what follows in the same files."""
    count = config.tokens // config.seq_len

    def windows(texts: Iterable[str], sets: int) -> list[TextWindows]:
        return windows_of(texts, tokenizer, config.seq_len, [count] * sets, vocab_size)

    if config.text.source == "test":
        scored, others = (windows(texts_of(name, config, layout, split), 1)[0] for split in ("test", "validation"))
    else:
        scored, others = windows(texts_of(name, config, layout, "test"), 2)
    return scored, others


def described(record: External) -> list[str]:
    """What was found, in lines."""
    found, intact = record.measured, record.measured.removal()
    assert intact is not None
    size = f"{record.parameters / 1e6:,.0f}M parameters"
    lines = [
        f"{record.name}: {record.architecture}, {size}, {record.config.dtype} on {record.device}",
        f"intact: {intact.nats:.4f} nats a token, {intact.bits_per_byte:.4f} bits a byte; uniform {record.uniform:.4f}, unigram "
        f"{record.unigram:.4f}",
    ]
    for kind, sites in found.of_type.items():
        for by in names.REPLACEMENTS:
            row = found.removal(sites, by)
            if row is not None:
                worse = ", worse than a uniform guess" if row.nats > record.uniform else ""
                lines.append(f"without {kind} ({len(sites)} sites), {by}: {row.nats - intact.nats:+.4f} nats{worse}")
    by_mean = statistic(found, names.MEAN)
    if by_mean is not None:
        lines.append(f"S_type, mean: {by_mean:+.4f} nats (above 0: the recurrent mixers are missed more)")
    return [*lines, *record.caveats]


if __name__ == "__main__":
    main(external)
