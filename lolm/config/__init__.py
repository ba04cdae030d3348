"""Configuration: frozen dataclasses, loaded strictly from ``params.yaml``."""

from lolm.config.schema import *  # noqa: F403
from lolm.config.schema import Edge
from lolm.config.strict import ConfigError, flatten, from_mapping, nearest, to_mapping

__all__ = ["ConfigError", "Edge", "flatten", "from_mapping", "nearest", "to_mapping"]
