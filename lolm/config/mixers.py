"""Options of each sequence mixer: what ``params.yaml`` may say of it, in blocks and in sizes."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Annotated, Any

from lolm.config.ranges import InnerShare, Positive, Share, Size, SizeOrZero
from lolm.config.strict import ConfigError, PartOf, Problem, checked, nearest, whole_numbers

_WIDTH: dict[str, Any] = {"expand": Size, "d_inner": Size | None}
_SSM = _WIDTH | {"d_state": Size, "d_conv": Size}
_STEPS: dict[str, Any] = {"dt_min": Positive, "dt_max": Positive}
_SHARED: dict[str, Any] = {"kv_heads": Size | None, "window": Size | None}
_OPTIONS: dict[str, dict[str, Any]] = {  # what each means stands at the mixer's class in lolm/mixers
    "attention": _SHARED
    | {"head_width": Size | None, "rope": Share, "rope_base": Positive, "out_bias": bool, "conv": SizeOrZero},
    "gated_conv": _WIDTH | {"d_conv": Size},
    "hymba": _SHARED | _SSM | {"dt_rank": Size | None},
    "mamba1": _SSM | _STEPS | {"dt_rank": Size | None, "inner_norms": bool},
    "mamba2": _SSM | _STEPS | {"head_width": Size, "groups": Size, "chunk": Size, "A_min": Positive, "A_max": Positive},
    "plain_ssm": {"d_state": Size, "expand": Size},
    "rglru": {
        "width": Size | None, "blocks": Size | None, "d_conv": Size, "min_radius": InnerShare, "max_radius": InnerShare,
        "c": Positive,
    },
}  # fmt: skip


OPTIONS: dict[str, Any] = {}  # by mixer: a mapping of some of its options
NAMES: dict[str, tuple[str, ...]] = {}
WHOLE: dict[str, tuple[str, ...]] = {}  # those that are whole numbers


def declare(name: str, options: dict[str, Any]) -> None:
    """Let ``params.yaml`` name a mixer.

    Args:
        options: annotations of :mod:`lolm.config.ranges`, of each argument that an arm or a size may give it.
    """
    kinds = make_dataclass(name, options.items())
    OPTIONS[name] = Annotated[dict[str, Any], PartOf(kinds)]
    NAMES[name], WHOLE[name] = tuple(options), whole_numbers(kinds)


for _name, _options in _OPTIONS.items():
    declare(_name, _options)


def check(name: str, options: dict[str, Any], name_at: str = "name", options_at: str = "options") -> None:
    """Raises ConfigError for a mixer that was not declared, naming the nearest, and for options that are not its own."""
    if name not in OPTIONS:
        raise ConfigError(Problem(name_at, f"no mixer {name!r}{nearest(name, OPTIONS)}"))
    checked(OPTIONS[name], options, options_at)


def wrong_options(mixers: dict[str, dict[str, Any]] | None) -> list[tuple[bool, str, str]]:
    """What is wrong with options by mixer, as sizes have them: rows of :func:`lolm.config.strict.refuse`."""
    problems: list[Problem] = []
    for name, options in (mixers or {}).items():
        try:
            check(name, options, f"mixers.{name}", f"mixers.{name}")
        except ConfigError as error:
            problems += error.problems
    return [(True, problem.key, problem.text) for problem in problems]
