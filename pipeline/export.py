"""Write trained runs for the transformers library, and hold what it reads there against the run: every run of the study that is
not written, or one, into ``artifacts/<scale>/exports/<run>``.

Not a stage of `dvc repro`: it takes the extra `external`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from lolm.data.batches import EvaluationSet
from lolm.data.stream import TokenStream
from lolm.export.folder import HEADER, ExportError, export, open_export
from lolm.external.load import transformers
from lolm.records import Layout, RunKey, read, sha256_of, write
from pipeline.identity import inputs_of, text_hashes, weights_hash
from pipeline.runs import per_run
from pipeline.stage import Stage, main

WINDOWS = 4  # of held-out text that both read
ROUNDING = 1e-3  # more than kernels and classes differ in a logit


@dataclass(frozen=True)
class Exported:
    """``artifacts/<scale>/exports/<run>.json``.

    Attributes:
        inputs: hash of what it was made from.
        kind: the class that the folder is read as.
        largest_difference: of a logit of this class from the run's, over ``tokens`` tokens of held-out text.
    """

    inputs: str
    kind: str
    largest_difference: float
    tokens: int


@torch.no_grad()
def make(stage: Stage, key: RunKey) -> None:
    """Raises ExportError where the library computes something else than the run."""
    made_from, folder = inputs(stage, key), export(stage.layout.weights(*key))
    ours, _, header = open_export(folder)
    theirs = transformers().AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    length = header.run.training.seq_len
    held_out = EvaluationSet(TokenStream.open(stage.layout.shards, "validation"), WINDOWS * length, length)
    ((x_BT, _),) = held_out.batches(WINDOWS)
    found = Exported(made_from, type(theirs).__name__, float((theirs(x_BT).logits - ours(x_BT)).abs().max()), x_BT.numel())
    if not found.largest_difference < ROUNDING:
        raise ExportError(f"{folder}: {found.kind} gives logits that differ from the run's by {found.largest_difference:.2g}")
    write(record_of(stage.layout, key), found)
    print(f"{key}: {found.kind}, logits within {found.largest_difference:.1e} of the run's over {found.tokens:,} tokens")


def inputs(stage: Stage, key: RunKey) -> str:
    """Of weights and tokenizer, and of what the card says: records and verdicts."""
    layout = stage.layout
    said = [layout.header(*key), layout.evaluation(*key), layout.reports / "claims.json"]
    return inputs_of(
        "export", [sha256_of(path) for path in said if path.exists()], weights_hash(layout, key), *text_hashes(layout)
    )


def why(stage: Stage, key: RunKey) -> str | None:
    path = record_of(stage.layout, key)
    if stage.layout.divergence(*key).exists():
        return None
    if not path.exists() or not (path.with_suffix("") / HEADER).exists():
        return "not written"
    return None if read(path, Exported).inputs == inputs(stage, key) else "other weights, records or code"


def record_of(layout: Layout, key: RunKey) -> Path:
    return layout.artifacts / "exports" / f"{key}.json"


def checked() -> None:
    os.environ.setdefault("HF_MODULES_CACHE", str(Path(".scratch/modules").resolve()))  # copies of the folders' own code
    transformers().utils.logging.disable_progress_bar()  # where it is not installed, what to install
    per_run("export", __doc__, make, why, inputs)


if __name__ == "__main__":
    main(checked)
