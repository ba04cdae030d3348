"""What the pipeline reads from the environment: the names of the variables, and what they say, checked; versions of packages."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from lolm.config import ConfigError, Problem
from lolm.config.ranges import Count, Natural, Port
from lolm.config.strict import from_text

ALONE = "LOLM_ALONE"  # of a piece: no other is made beside it
DEVICE = "LOLM_DEVICE"  # of a stage whose pieces are made on other machines: what they train on
FORCE = "LOLM_FORCE"  # make also what is made already
IDENTITY = "LOLM_IDENTITY"  # of a task: what its piece is to be made from
JOBS = "LOLM_JOBS"  # pieces at a time
LAUNCHER = "LOLM_LAUNCHER"  # where pieces are made
PARENT = "LOLM_PARENT"  # of a job: the process that it must not outlive
PORT = "MASTER_PORT"  # where the processes of a run on several nodes meet
RECORDED = "LOLM_RECORDED"  # a run whose records are whole is made, though its weights are not here
STAGES = "LOLM_STAGES"  # of the runner's stages: the names of all, in order
Launcher = Literal["local", "slurm"]
KINDS: dict[str, Any] = {
    ALONE: Literal[0, 1],
    DEVICE: Literal["cpu", "cuda"],
    FORCE: Literal[0, 1],
    JOBS: Count,
    LAUNCHER: Launcher,
    PARENT: Natural,
    PORT: Port,
    RECORDED: Literal[0, 1],
}


def said(variable: str) -> Any:
    """The value of one of :data:`KINDS`; None where it is empty or not set.

    Raises:
        ConfigError: it has a value that it cannot have; names it.
    """
    text = os.environ.get(variable)
    return from_text(KINDS[variable], text, variable) if text else None


def check() -> None:
    """Raises ConfigError naming every variable that has a value which it cannot have."""
    problems: list[Problem] = []
    for variable in KINDS:
        try:
            said(variable)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
