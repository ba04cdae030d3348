"""The one error of data."""

from __future__ import annotations

from lolm import LolmError


class DataError(LolmError):
    """Data that is missing, broken or too small; the message names the file or value and says what to do."""
