"""Reading ``params.yaml``: every mistake of the file at once, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from lolm import one_line
from lolm.config import dialect, inherit
from lolm.config.params import Params
from lolm.config.sizing import clashes_of_sizes, recalled
from lolm.config.strict import ConfigError, Problem, attempted, untold


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check the whole parameter file.

    Raises:
        ConfigError: the file is missing or is not YAML; or all that is wrong in it, a line each: values that readers of YAML
            disagree on, unknown, missing and repeated keys, wrong types, values out of their range, and those that clash.
    """
    path = Path(path)
    try:
        raw, refused = dialect.parse(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run from the project's root folder") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}; convert it, for example with iconv") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}; mend that line") from None
    try:
        return params_from(raw, refused)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def params_from(raw: Any, refused: Iterable[Problem] = ()) -> Params:
    """The parameters that a file's plain mapping stands for.

    Args:
        raw: as YAML gives it, with ``extends``.
        refused: what is wrong with it already; nothing more is said of these keys.

    Raises:
        ConfigError: all that is wrong.
    """
    refused = list(refused)
    tree, parents, problems = inherit.resolve(raw)
    silent = [problem.key for problem in refused if problem.key]
    broken = {problem.key.removesuffix(".extends") for problem in problems if problem.key.endswith(".extends")}
    while more := {key for key, parent in parents.items() if parent in broken} - broken:
        broken |= more
    unsaid = [problem for problem in problems if not problem.key.endswith(".extends")]
    params, wrong = attempted(Params, tree)
    unsaid += wrong
    arms = {name: arm for name, arm in params.architectures.items() if f"architectures.{name}" not in broken}
    unsaid += untold(clashes_of_sizes(arms, params.sizes, params.scales, recalled(params)), wrong)
    unsaid = inherit.told([_as_written(problem) for problem in unsaid], parents, [*silent, *broken])
    found = [*refused, *(problem for problem in problems if problem.key.endswith(".extends")), *unsaid]
    if found:
        raise ConfigError(*found)
    loaded: Params = params
    return loaded


def _as_written(problem: Problem) -> Problem:
    """In the file the size of an arm stands in its block."""
    key = re.sub(r"^the name of sizes\.", "the name of architectures.", problem.key)
    return problem._replace(key=re.sub(r"^sizes\.([^.]+)", r"architectures.\1.size", key))
