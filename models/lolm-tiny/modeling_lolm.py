# lolm.export.modeling_lolm of this project, with its imports made flat.
"""A language model of this project as a class of the ``transformers`` library, computed by this project's own code."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .lolm_config_architecture import ArchitectureConfig
from .lolm_config_sizes import SizeConfig
from .lolm_config_strict import from_mapping
from .configuration_lolm import LolmConfig
from .lolm_mixers_base import Mixer
from .lolm_models_decoder import Decoder
from .lolm_models_init import initialise
from .lolm_models_language_model import LanguageModel
from .lolm_models_language_model import State
from .lolm_models_lolm import LOLM
from .lolm_ops_backends import refuse_loop
from .lolm_ops_rms_norm import RMSNorm

_backends = sys.modules[refuse_loop.__module__]
if _backends.__name__ != "lolm.ops.backends":  # a copy, without kernels for GPUs: slow is better than refused
    _backends.LONGEST_LOOP = sys.maxsize  # type: ignore[attr-defined]


class LolmCache:
    """What generation carries between tokens; the ``past_key_values`` of :class:`LolmForCausalLM`. A forward pass changes it."""

    is_compileable = False

    def __init__(self, state: State) -> None:
        self.state = state

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens so far."""
        return self.state.length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i goes on from what row ``beam_idx[i]`` was."""
        self.state.parts = _rows(self.state.parts, beam_idx)


def _rows(value: Any, index: torch.Tensor) -> Any:
    """The same structure with rows of every tensor's first dimension, the batch, chosen by index."""
    if isinstance(value, torch.Tensor):
        return value.index_select(0, index.to(value.device)) if value.ndim else value
    if isinstance(value, dict):
        return {key: _rows(inner, index) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        rows = [_rows(inner, index) for inner in value]
        return type(value)(*rows) if hasattr(value, "_fields") else type(value)(rows)
    if hasattr(value, "__dict__"):
        twin = copy.copy(value)
        for key, inner in vars(value).items():
            object.__setattr__(twin, key, _rows(inner, index))  # some are frozen
        return twin
    return value


class LolmForCausalLM(PreTrainedModel, GenerationMixin):
    """Logits are those of this project's reference operations, bit for bit; the head is the embedding, so there is no other one.

    Weights are float32; for half precision run it under ``torch.autocast``, which leaves decays and step sizes as they are.
    Auxiliary losses of training are not part of it. All texts of a batch that generates have one length: recurrent layers know
    no padding.
    """

    config_class = LolmConfig
    base_model_prefix = "model"

    def __init__(self, config: LolmConfig) -> None:
        super().__init__(config)
        self.architecture = from_mapping(ArchitectureConfig, config.architecture, "architecture")
        family = {"lolm": LOLM, "decoder": Decoder}[self.architecture.family]
        self.model = family(self.architecture, from_mapping(SizeConfig, config.size, "size"), config.vocab_size)
        for module in self.model.modules():
            if isinstance(module, LanguageModel | Mixer | RMSNorm):
                module.kernels = "reference"
        self.filled = not self.model.embedding.weight.is_meta
        if self.filled:
            initialise(self.model, self.architecture.recipe)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: the recipe fills a model as a whole, when it is made. Without values it is made to be filled from a file, and
        one that lacks some must not look like one that has them all."""
        if not self.filled and any(not p.is_meta for p in module.parameters(recurse=False)):
            raise ValueError("the file of weights lacks some that this architecture has; export the run again")

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.model.embedding

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # it has its own

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: LolmCache | None = None,
        use_cache: bool | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V), or of the last ``logits_to_keep`` positions.

        Args:
            input_ids: (B, T); with ``past_key_values`` the tokens that follow those that it holds.
            attention_mask: (B, T); padding may stand behind a text alone, and not where a cache is made.
            past_key_values: what an earlier call gave; it is changed.
            use_cache: whether to give one; by default where one was given.
            labels: (B, T), as ``input_ids``, −100 where no loss is wanted; shifted inside.

        Raises:
            ValueError: padding in any other place.
        """
        use_cache = past_key_values is not None if use_cache is None else use_cache
        counted = self.architecture.family == "lolm" and self.architecture.memory.chunking == "count"
        if attention_mask is not None and not attention_mask.all():
            behind = bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())
            if use_cache or counted or not behind:
                raise ValueError(
                    "padding where this model cannot pass over it: give texts of one length together, or one by one "
                    "(without a cache padding may stand behind a text, but for memory with a fixed number of chunks)"
                )
        if past_key_values is not None:
            columns = []
            for tokens_B in input_ids.unbind(1):
                logits_BV, past_key_values.state = self.model.step(tokens_B, past_key_values.state)
                columns.append(logits_BV)
            logits = torch.stack(columns, dim=1)[:, -logits_to_keep:]
        elif use_cache:
            logits, state = self.model.prefill(input_ids)
            past_key_values = LolmCache(state)
            logits = logits[:, None] if logits_to_keep == 1 else self.model(input_ids)[:, -logits_to_keep:]
        else:
            logits = self.model(input_ids)[:, -logits_to_keep:]
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        cache: Any = past_key_values if use_cache else None
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
