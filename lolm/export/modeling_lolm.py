"""A language model of this project as a class of the ``transformers`` library, computed by this project's own code."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from lolm.config import ArchitectureConfig, SizeConfig, from_mapping
from lolm.export.configuration_lolm import LolmConfig
from lolm.mixers.base import Mixer
from lolm.models.decoder import Decoder
from lolm.models.init import initialise
from lolm.models.language_model import LanguageModel
from lolm.models.lolm import LOLM
from lolm.ops import backends
from lolm.ops.rms_norm import RMSNorm
