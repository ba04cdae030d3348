# lolm.export.configuration_lolm of this project, with its imports made flat.
"""Configuration of an exported model; a file of its own, as the ``transformers`` library has it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class LolmConfig(PreTrainedConfig):
    """Everything that decides what the model computes, given its weights.

    Args:
        architecture: what the model is made of, as the section of that name of this project's ``params.yaml`` resolves.
        size: how large it is.
        vocab_size: V.
        training_length: tokens of a training sequence; longer texts are taken, and were never seen.
    """

    model_type = "lolm"

    def __init__(
        self,
        architecture: dict[str, Any] | None = None,
        size: dict[str, Any] | None = None,
        vocab_size: int = 0,
        training_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.architecture, self.size = architecture or {}, size or {}
        self.vocab_size, self.training_length = vocab_size, training_length
        # By the names that tools of the library ask for.
        self.hidden_size, self.num_hidden_layers, self.num_attention_heads = (
            self.size.get(name, 0) for name in ("d_model", "n_layers", "n_heads")
        )
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            kwargs.pop(name, None)
        super().__init__(**{"tie_word_embeddings": True} | kwargs)
