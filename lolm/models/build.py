"""The model of a run."""

from __future__ import annotations

import torch

from lolm.config import RunConfig
from lolm.mixers.base import Mixer
from lolm.models.decoder import Decoder
from lolm.models.init import initialise
from lolm.models.language_model import LanguageModel
from lolm.models.lolm import LOLM
from lolm.ops.rms_norm import RMSNorm

FAMILIES: dict[str, type[LanguageModel]] = {"lolm": LOLM, "decoder": Decoder}  # ``family`` of an architecture


def build_model(run: RunConfig) -> LanguageModel:
    """Construct and initialise the model of a run. Its weights are a function of torch's random state alone.

    Under ``torch.device("meta")`` it has shapes and no values, see :func:`lolm.models.init.initialise`.
    """
    family = FAMILIES[run.architecture.family]
    device = torch.get_default_device()
    with torch.device("meta"):  # what constructors draw is lost anyway
        model = family(run.architecture, run.size, run.vocab_size, run.training)
    if device.type != "meta":
        model.to_empty(device=device)
        initialise(model, run.architecture.recipe)
    for module in model.modules():
        if isinstance(module, LanguageModel | Mixer | RMSNorm):
            module.kernels = run.training.kernels
    return model
