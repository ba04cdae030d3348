"""Configuration: frozen dataclasses, loaded strictly from ``params.yaml``.

``params.yaml`` says *which* runs to make (``scale``, ``study``), *what* each arm is (``architectures``) and *how large*
(``scales.<scale>.sizes``). :func:`load_params` checks all of it; :func:`lolm.accounting.resolve.resolve_run` joins the halves of
one arm into the :class:`RunConfig` that is trained.
"""

from lolm.config.architecture import (
    ArchitectureConfig,
    BlockConfig,
    Edge,
    GateConfig,
    LatentConfig,
    MemoryConfig,
    MixerConfig,
    ObjectiveConfig,
    RecipeConfig,
    RegimeConfig,
    StackConfig,
)
from lolm.config.cluster import ClusterConfig
from lolm.config.data import CorpusConfig, ShardsConfig, TokenizerConfig
from lolm.config.external import ExternalConfig, ExternalText
from lolm.config.loading import load_params, params_from
from lolm.config.measuring import (
    AblationConfig,
    AnalysisConfig,
    DownstreamConfig,
    EvaluationConfig,
    LayersConfig,
    RecallConfig,
    SweepConfig,
)
from lolm.config.params import Params, RunConfig, ScaleConfig, scale_of
from lolm.config.sizes import FutureSize, LatentSize, MemorySize, RegimeSize, SizeConfig, SizeRule
from lolm.config.sizing import arms_of, tuned_arm
from lolm.config.strict import ConfigError, Problem, flatten, from_mapping, nearest, to_mapping
from lolm.config.study import StudyConfig
from lolm.config.training import TrainingConfig

__all__ = [
    "AblationConfig",
    "AnalysisConfig",
    "ArchitectureConfig",
    "BlockConfig",
    "ClusterConfig",
    "ConfigError",
    "CorpusConfig",
    "DownstreamConfig",
    "Edge",
    "EvaluationConfig",
    "ExternalConfig",
    "ExternalText",
    "FutureSize",
    "GateConfig",
    "LatentConfig",
    "LatentSize",
    "LayersConfig",
    "MemoryConfig",
    "MemorySize",
    "MixerConfig",
    "ObjectiveConfig",
    "Params",
    "Problem",
    "RecallConfig",
    "RecipeConfig",
    "RegimeConfig",
    "RegimeSize",
    "RunConfig",
    "ScaleConfig",
    "ShardsConfig",
    "SizeConfig",
    "SizeRule",
    "StackConfig",
    "StudyConfig",
    "SweepConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "arms_of",
    "flatten",
    "from_mapping",
    "load_params",
    "nearest",
    "params_from",
    "scale_of",
    "to_mapping",
    "tuned_arm",
]
