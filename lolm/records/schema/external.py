"""What the laboratory of layers measures on a public model."""

from __future__ import annotations

from dataclasses import dataclass

from lolm.config import ExternalConfig
from lolm.records.schema.layers import LayerRemovals


@dataclass(frozen=True)
class External:
    """``external/<name>.json``: removals by layer and type of one public model, beside trivial models on the same tokens.

    Attributes:
        name: key of ``external`` in ``params.yaml``; ``config`` is what stood there.
        revision: commit on the hub; of a folder a hash of its configuration and weights.
        architecture: class of the library.
        parameters: of the whole model.
        vocab_size: V, rows of its head.
        uniform, unigram: nats; ln V, and an order-0 model of the text that the means are of.
        text, tokenizer: checksums: of the scored ids, and of all that decides which ids a text becomes.
        versions: of the libraries that computed it, those of kernels where installed.
        caveats: what a reader has to know about the model's wiring.
    """

    name: str
    config: ExternalConfig
    revision: str
    architecture: str
    parameters: int
    vocab_size: int
    uniform: float
    unigram: float
    text: str
    tokenizer: str
    device: str
    versions: dict[str, str]
    measured: LayerRemovals
    caveats: tuple[str, ...] = ()
