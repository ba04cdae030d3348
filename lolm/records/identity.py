"""What tells one run from another: hashes of configurations, data and code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(*parts: Any) -> str:
    """Short hash (16 hex digits) of configurations (see :func:`essence`) and JSON-able parts."""
    text = json.dumps([essence(part) for part in parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]  # names of files may be no Unicode


def essence(config: Any) -> Any:
    """The plain value of a configuration without the settings that are at their defaults.

    A setting that is added later, with the behaviour of before as its default, leaves the identity of older runs as it was. So a
    default that a run rests on never changes its meaning: a new behaviour is a new value. Fields marked with
    ``metadata={"identity": False}`` say how a run is made and not what it is, and are left out.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {}
        for spec in dataclasses.fields(config):
            if not spec.metadata.get("identity", True):
                continue
            value = getattr(config, spec.name)
            default = spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default
            if default is dataclasses.MISSING or value != default:
                values[spec.name] = essence(value)
        return values
    if isinstance(config, dict):
        return {str(key): essence(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [essence(value) for value in config]
    return config
