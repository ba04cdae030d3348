"""The model of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

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
    with undrawn():  # what constructors draw is lost anyway
        model = family(run.architecture, run.size, run.vocab_size, run.training)
    if torch.get_default_device().type != "meta":
        initialise(model, run.architecture.recipe)
    for module in model.modules():
        if isinstance(module, LanguageModel | Mixer | RMSNorm):
            module.kernels = run.training.kernels
    return model


@contextmanager
def without_values() -> Iterator[None]:
    """What is built inside lies on the meta device: it has shapes and no values, and no random numbers are asked for."""
    with torch.device("meta"), undrawn():
        yield


class undrawn(TorchFunctionMode):
    """Leaves out random draws, also those of the framework's own modules: tensors stay as they were allocated."""

    DRAWS = {"normal_", "uniform_", "kaiming_uniform_", "trunc_normal_", "bernoulli_"}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
