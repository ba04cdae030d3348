"""The one error of interventions."""

from __future__ import annotations

from lolm import LolmError


class InterventionError(LolmError):
    """An intervention that the model has no place for, or that was not given what it needs."""
