"""Options of each sequence mixer: what ``params.yaml`` may say of it, in blocks and in sizes."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Annotated, Any

from lolm.config.ranges import Count, InnerShare, Natural, Positive, Share
from lolm.config.strict import PartOf

_WIDTH: dict[str, Any] = {"expand": Count, "d_inner": Count | None}
_SSM = _WIDTH | {"d_state": Count, "d_conv": Count}
_STEPS: dict[str, Any] = {"dt_min": Positive, "dt_max": Positive}
_SHARED: dict[str, Any] = {"kv_heads": Count | None, "window": Count | None}
_OPTIONS: dict[str, dict[str, Any]] = {  # what each means stands at the mixer's class in lolm/mixers
    "attention": _SHARED
    | {"head_width": Count | None, "rope": Share, "rope_base": Positive, "out_bias": bool, "conv": Natural},
    "gated_conv": _WIDTH | {"d_conv": Count},
    "hymba": _SHARED | _SSM | {"dt_rank": Count | None},
    "mamba1": _SSM | _STEPS | {"dt_rank": Count | None, "inner_norms": bool},
    "mamba2": _SSM | _STEPS | {"head_width": Count, "groups": Count, "chunk": Count, "A_min": Positive, "A_max": Positive},
    "plain_ssm": {"d_state": Count, "expand": Count},
    "rglru": {
        "width": Count | None, "blocks": Count | None, "d_conv": Count, "min_radius": InnerShare, "max_radius": InnerShare,
        "c": Positive,
    },
}  # fmt: skip


def _part(name: str, fields: dict[str, Any]) -> Any:
    return Annotated[dict[str, Any], PartOf(make_dataclass(name, fields.items()))]


OPTIONS: dict[str, Any] = {name: _part(name, options) for name, options in _OPTIONS.items()}
NAMES = {name: tuple(options) for name, options in _OPTIONS.items()}
Mixers = _part("Mixers", OPTIONS)
