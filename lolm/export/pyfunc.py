"""A run as ``mlflow.pyfunc`` loads it: texts in, their losses and continuations out.

MLflow keeps a copy of this and of what it imports with each model (:mod:`lolm.tracking.models`), so that this project need not be
installed. It reads PyTorch, NumPy, pandas, SentencePiece and safetensors.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lolm.config import RunConfig, from_mapping
from lolm.corpus.tokenizer import Tokenizer
from lolm.generation.generate import ENDED, generate
from lolm.models.build import build_model
from lolm.records import sha256_of

HEADS = "objective_heads."  # beside a model's own weights; training alone needs them


class Predictor:
    """A model, its tokenizer, and the tokens it reads at a time."""

    def __init__(self, run: RunConfig, weights: Path, tokenizer: Tokenizer) -> None:
        self.model = build_model(replace(run, training=replace(run.training, kernels="reference"))).eval()
        tensors = load_file(weights)
        self.model.load_state_dict({name: x for name, x in tensors.items() if not name.startswith(HEADS)})
        self.tokenizer, self.length = tokenizer, run.training.seq_len

    def predict(self, model_input: Any, params: dict[str, Any]) -> Any:
        """One row a text, as if it began a document: loss in nats a token and bits per byte, tokens, and how it is continued.

        Args:
            model_input: table with a column ``text``.
            params: those of the model's signature, which MLflow completes by its defaults; ``max_tokens`` 0 continues nothing.

        Raises:
            ConfigError: a text is too short for a memory with a fixed number of chunks.
        """
        import pandas as pd

        return pd.DataFrame([self._row(text, **params) for text in model_input["text"]])

    def _row(self, text: str, max_tokens: int, **sampling: Any) -> dict[str, Any]:
        eos = self.tokenizer.eos_id
        ids = torch.from_numpy(np.concatenate(([eos], self.tokenizer.encode(text))))
        nats, n = 0.0, len(ids) - 1
        with torch.no_grad():
            for start, end in self.model.pieces(n, self.length):
                part = ids[start : end + 1]
                nats += float(F.cross_entropy(self.model(part[None, :-1])[0], part[1:], reduction="sum"))
        written = generate(self.model, ids[None], max_tokens, stop=(eos,), **sampling) if max_tokens else ()
        return {
            "continuation": self.tokenizer.decode([int(token.ids_B) for token in written if int(token.ids_B) != ENDED]),
            "tokens": n,
            "nats_per_token": nats / n if n else math.nan,
            "bits_per_byte": nats / (len(text.encode()) * math.log(2)) if n else math.nan,
        }


def _load_pyfunc(path: str) -> Predictor:
    """What ``mlflow.pyfunc.load_model`` calls, with the folder of ``run.json``.

    Raises:
        FileNotFoundError: weights or tokenizer are not where the project keeps them. ValueError: they are others.
    """
    folder = Path(path)
    link = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    files = {name: _found(folder, **file) for name, file in link["files"].items()}
    tokenizer = Tokenizer(files["tokenizer"].read_bytes())
    return Predictor(from_mapping(RunConfig, link["run"], "run"), files["weights"], tokenizer)


def _found(folder: Path, path: str, sha256: str | None) -> Path:
    """A file of the project: beside ``run.json``, or at its place in a project around that or around the current folder."""
    here = Path.cwd()
    places = [folder / Path(path).name, *(root / path for root in (*folder.resolve().parents, here, *here.parents))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{path}: not in this project; `dvc pull` or `dvc repro` brings it, or put it into {folder}")
    if sha256 and sha256_of(found) != sha256:
        raise ValueError(f"{found}: not the file of this model; trained again since, so take the newer run's model")
    return found
