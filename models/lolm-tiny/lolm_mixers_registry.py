# lolm.mixers.registry of this project, with its imports made flat.
"""Every sequence mixer by the name ``params.yaml`` calls it."""

from __future__ import annotations

from .lolm_config_strict import ConfigError
from .lolm_config_architecture import MixerConfig
from .lolm_config_strict import nearest
from .lolm_mixers_attention import Attention
from .lolm_mixers_base import Mixer
from .lolm_mixers_gated_conv import GatedConv
from .lolm_mixers_hymba import Hymba
from .lolm_mixers_mamba1 import Mamba1
from .lolm_mixers_mamba2 import Mamba2
from .lolm_mixers_plain_ssm import PlainSSM
from .lolm_mixers_rglru import RGLRU

MIXERS: dict[str, type[Mixer]] = {
    "attention": Attention,
    "gated_conv": GatedConv,
    "hymba": Hymba,
    "mamba1": Mamba1,
    "mamba2": Mamba2,
    "plain_ssm": PlainSSM,
    "rglru": RGLRU,
}


def build_mixer(config: MixerConfig, d_model: int, n_heads: int, dropout: float) -> Mixer:
    """Construct a registered mixer.

    Raises:
        ConfigError: unknown name (names the nearest), an option the mixer does not take, or options that clash.
    """
    if config.name not in MIXERS:
        raise ConfigError(f"no mixer {config.name!r}{nearest(config.name, MIXERS)}")
    try:
        return MIXERS[config.name](d_model=d_model, n_heads=n_heads, dropout=dropout, **config.options)
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"mixer {config.name!r}: {error}") from None
