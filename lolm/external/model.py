"""A model of the ``transformers`` library as the laboratory of layers takes models: tokens to logits, with sites."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from lolm import LolmError
from lolm.external.classes import CAVEATS, KINDS, LAYERS, Write
from lolm.mixers.site import Site


class ExternalError(LolmError):
    """A model, a text or a library from outside that cannot be had or is not known; says what to do."""


class ExternalModel(nn.Module):
    """Wraps a causal language model; its weights and its own forward stay as they are.

    Sites are ``stack.<layer>.<part>``, at what is added to the residual stream (B, T, D), multipliers included. They act through
    forward hooks on the sub-modules that :data:`lolm.external.classes.LAYERS` names.

    Args:
        model: a ``…ForCausalLM`` whose base model has ``layers``.

    Raises:
        ExternalError: a class of layer, mixer or MLP that is not described, or one that would be hooked twice.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._sites: dict[str, Site] = {}
        self._owners: dict[str, tuple[nn.Module, ...]] = {}
        hooked: set[int] = set()
        self.caveats: list[str] = []
        layers = getattr(model.base_model, "layers", None)
        if layers is None:
            raise ExternalError(f"{type(model).__name__} has no list of layers in its base model; {_HOW}")
        for number, layer in enumerate(layers):
            name = type(layer).__name__
            if name not in LAYERS:
                raise ExternalError(f"{type(model).__name__}: layers of class {name} are not described; {_HOW}")
            self.caveats += [CAVEATS[name]] if name in CAVEATS and CAVEATS[name] not in self.caveats else []
            for write in LAYERS[name]:
                module = _find(layer, write.module)
                if module is None:
                    continue
                if id(module) in hooked:
                    raise ExternalError(
                        f"{name}.{write.module} serves more than one layer, so it has no write of its own; {_HOW}"
                    )
                hooked.add(id(module))
                self._add(f"stack.{number}.{write.part}", layer, module, write)

    def _add(self, name: str, layer: nn.Module, module: nn.Module, write: Write) -> None:
        owner = _find(layer, write.owner) if write.owner else module
        if owner is None or type(owner).__name__ not in KINDS:
            raise ExternalError(f"{name}: a {type(owner).__name__} is of no kind that is known; {_HOW}")
        times = float(getattr(layer, write.times)) if write.times else 1.0
        if times == 0:
            raise ExternalError(f"{name}: {type(layer).__name__}.{write.times} is 0, so nothing is written there")
        site = self._sites[name] = Site(KINDS[type(owner).__name__])
        self._owners[name] = (owner, module) if isinstance(module, nn.Linear) else (owner,)
        module.register_forward_hook(partial(_answer, site, times))

    def sites(self) -> dict[str, Site]:
        """By ``stack.<layer>.<part>``, in the order of computation."""
        return self._sites

    def site_params(self) -> dict[str, int]:
        """Parameters of what writes at each site, without its norm; a block that serves several layers counts at each."""
        found = {}
        for name, owners in self._owners.items():
            parameters = {id(p): p.numel() for owner in owners for p in owner.parameters()}
            found[name] = sum(parameters.values())
        return found

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) in float32; the library's own, in its own precision, before that."""
        return self.model(input_ids=tokens_BT, use_cache=False).logits.float()


_HOW = "add it to lolm/external/classes.py"


def _find(layer: nn.Module, path: str) -> nn.Module | None:
    found: Any = layer
    for step in path.split("."):
        found = getattr(found, step, None)
    return found


def _answer(site: Site, times: float, module: nn.Module, args: Any, output: Any) -> Any:
    """The hook: an output, or the first of a tuple, such that the site's answer is what is added to the stream."""
    if site.change is None:
        return None  # the library's own tensor, untouched
    first = output[0] if isinstance(output, tuple) else output
    changed = site(first) if times == 1 else site(first * times) / times
    return (changed, *output[1:]) if isinstance(output, tuple) else changed
