"""The whole of ``params.yaml``, and the run that is resolved from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lolm.config.architecture import ArchitectureConfig, RecipeConfig, StackConfig
from lolm.config.cluster import ClusterConfig
from lolm.config.data import CorpusConfig, ShardsConfig, TokenizerConfig
from lolm.config.external import ExternalConfig
from lolm.config.measuring import (
    AblationConfig,
    AnalysisConfig,
    DownstreamConfig,
    EvaluationConfig,
    LayersConfig,
    RecallConfig,
    SweepConfig,
)
from lolm.config.ranges import Name, Size
from lolm.config.sizes import PARTS, SizeConfig, SizeRule
from lolm.config.strict import ConfigError, nearest, refuse
from lolm.config.study import StudyConfig
from lolm.config.training import TrainingConfig

FOLDERS = ("train", "evaluate", "ablate", "layers", "recall", "downstream", "sweep", "metrics", "runs")  # of records
SHARED = ("budgets", "external", "figures", "gpu")  # folders beside those of scales, of records and pages that are of none


@dataclass(frozen=True)
class ScaleConfig:
    """One preset of ``scales``. ``width_multiple``: what derived widths are rounded to, where a size does not say otherwise."""

    corpus: CorpusConfig
    tokenizer: TokenizerConfig
    training: TrainingConfig
    sizes: dict[Name, SizeRule]
    shards: ShardsConfig = ShardsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    ablation: AblationConfig = AblationConfig()
    layers: LayersConfig = LayersConfig()
    sweep: SweepConfig = SweepConfig()
    recall: RecallConfig = RecallConfig()
    width_multiple: Size = 1

    def __post_init__(self) -> None:
        length = self.training.seq_len
        scored = {
            "training.eval_tokens": self.training.eval_tokens,
            "evaluation.tokens": length if self.evaluation.tokens == "all" else self.evaluation.tokens,
            "evaluation.subset_tokens": self.evaluation.subset_tokens or length,
            "ablation.tokens": self.ablation.tokens,
            "layers.tokens": self.layers.tokens,
            "ablation.calibration_tokens": self.ablation.calibration_tokens,
            "ablation.refit_tokens": self.ablation.refit_tokens,
        }
        refuse((n < length, key, f"{n} are less than one sequence of training.seq_len {length}") for key, n in scored.items())


def clashes_of_names(
    scale: Any,
    study: Any,
    studies: Mapping[str, StudyConfig],
    scales: Mapping[str, ScaleConfig],
    rules: Mapping[str, SizeRule],
    named: Mapping[str, Collection[str]],
) -> Iterator[tuple[bool, str, str]]:
    """Rows (wrong, key, text) of the names that sections give one another; ``named`` has those that there are, by section."""
    for key, name, section in (("scale", scale, "scales"), ("study", study, "studies")):
        if isinstance(name, str):
            yield name not in named[section], key, f"{name!r} is not one of {section!r}{nearest(name, named[section])}"
    for key, chosen in studies.items():
        yield (
            chosen.name not in ("", key),
            f"studies.{key}.name",
            f"is {chosen.name!r}; leave it out, a study is called by its key",
        )
        yield key in FOLDERS, f"studies.{key}", "its folder cannot be called so: records of runs lie there"
    for key in scales:
        yield key in SHARED, f"scales.{key}", "its folder cannot be called so: what is of no scale lies there"
    arms = [(f"studies.{key}.arms", arm) for key, chosen in studies.items() for arm in chosen.arms]
    arms += [(f"scales.{key}.sizes", arm) for key, preset in scales.items() for arm in preset.sizes]
    said = {f"sizes.{arm}": rule for arm, rule in rules.items()}
    said |= {f"scales.{key}.sizes.{arm}": rule for key, preset in scales.items() for arm, rule in preset.sizes.items()}
    for key in ("like", "rate_of"):
        arms += [(f"{where}.{key}", name) for where, rule in said.items() if (name := getattr(rule, key)) is not None]
    known = named["architectures"]
    for where, arm in arms:
        yield arm not in known, where, f"no arm {arm!r} under 'architectures'{nearest(arm, known)}" if arm not in known else ""


@dataclass(frozen=True)
class Params:
    """The whole of ``params.yaml``, with every ``extends`` resolved.

    Attributes:
        sizes: by arm, how its size follows from another's at every scale: the ``size`` of its block in the file.
        budgets: the study over sizes and budgets: by scale, the study of its runs.
        recipes, surfaces: what ``recipe`` and ``surface`` of an arm may name.
        external: public models for the laboratory of layers.
        cluster: what a run gets on a cluster.
        downstream: tasks that `make downstream` scores.
    """

    scale: str
    study: str
    studies: dict[Name, StudyConfig]
    analysis: AnalysisConfig
    architectures: dict[Name, ArchitectureConfig]
    scales: dict[Name, ScaleConfig]
    sizes: dict[Name, SizeRule] = field(default_factory=dict)
    budgets: dict[Name, str] = field(default_factory=dict)
    recipes: dict[Name, RecipeConfig] = field(default_factory=dict)
    surfaces: dict[Name, StackConfig] = field(default_factory=dict)
    external: dict[Name, ExternalConfig] = field(default_factory=dict)
    cluster: ClusterConfig = ClusterConfig()
    downstream: DownstreamConfig = DownstreamConfig()

    def __post_init__(self) -> None:
        named: dict[str, Collection[str]] = {"architectures": self.architectures, "scales": self.scales, "studies": self.studies}
        clashes = clashes_of_names(self.scale, self.study, self.studies, self.scales, self.sizes, named)
        refuse([*clashes, *self._unknown_scales(), *self._same_labels()])
        object.__setattr__(self, "studies", {key: replace(study, name=key) for key, study in self.studies.items()})

    def _unknown_scales(self) -> Iterator[tuple[bool, str, str]]:
        scales = [(f"studies.{name}.scale", study.scale) for name, study in self.studies.items() if study.scale]
        for key, name in [*scales, *((f"the name of budgets.{scale}", scale) for scale in self.budgets)]:
            yield name not in self.scales, key, f"no scale {name!r} under 'scales'{nearest(name, self.scales)}"
        for scale, study in self.budgets.items():
            yield (
                study not in self.studies,
                f"budgets.{scale}",
                f"no study {study!r} under 'studies'{nearest(study, self.studies)}",
            )

    def _same_labels(self) -> Iterator[tuple[bool, str, str]]:
        first: dict[str, str] = {}
        for arm, architecture in self.architectures.items():
            other = first.setdefault(architecture.label, arm)
            text = f"{architecture.label!r} is that of {other!r} too, and pages tell arms apart by it; give it one of its own"
            yield other != arm, f"architectures.{arm}.label", text

    @property
    def selected(self) -> StudyConfig:
        """The study that ``study`` names."""
        return self.studies[self.study]

    @property
    def layers_arms(self) -> tuple[str, ...]:
        """Arms of the selected study whose layers are removed by type: those it names, else its plain stacks."""
        chosen = self.selected
        plain = tuple(arm for arm in chosen.arms if self.architectures[arm].family == "decoder")
        return plain if chosen.layers is None else chosen.layers

    def scales_for(self, study: str) -> tuple[str, ...]:
        """The scales that a study is made for: its own, or those that name it under ``budgets``. None: any."""
        own = self.studies[study].scale
        return (own,) if own else tuple(scale for scale, name in self.budgets.items() if name == study)

    def is_made_for(self, study: str, scale: str) -> bool:
        """Whether a study's runs at a scale are meant: it is made for any, or for this one."""
        return scale in (self.scales_for(study) or (scale,))

    def select(self, scale: str | None = None, study: str | None = None) -> Params:
        """The same parameters with another scale, another study, or both; raises ConfigError naming the nearest."""
        scale, study = scale or self.scale, study or self.study
        scale_of(self, scale)
        if study not in self.studies:
            raise ConfigError(f"no study {study!r} under 'studies'{nearest(study, self.studies)}")
        return replace(self, scale=scale, study=study)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the bits of one run, given its data."""

    scale: str
    arm: str
    seed: int
    vocab_size: int
    architecture: ArchitectureConfig
    size: SizeConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        refuse([*self._wrong_parts(), *self._wrong_blocks()])

    def _wrong_parts(self) -> Iterator[tuple[bool, str, str]]:
        architecture, where = self.architecture, f"scales.{self.scale}.sizes.{self.arm}"
        if architecture.family != "lolm":
            for part in PARTS:
                text = "is of LOLM's parts, and an arm of family decoder has none; leave it out"
                yield getattr(self.size, part) is not None, f"{where}.{part}", text
            return
        objectives, batch = architecture.objectives, self.training.batch_size
        wanted = {
            "latent": architecture.latent.form != "none",
            "memory": architecture.memory.enabled,
            "regime": architecture.regime.enabled,
            "future": architecture.predicts != "none",
        }
        for part, needed in wanted.items():
            yield needed and getattr(self.size, part) is None, f"{where}.{part}", "is missing, and the arm uses it"
        text = (
            f"{batch} leaves arm {self.arm!r} no negatives, taken from the other sequences of a batch (objectives.negatives: "
            f"{objectives.negatives}); set it to 2 or more"
        )
        yield self.contrasts_sequences and batch < 2, f"scales.{self.scale}.training.batch_size", text

    def _wrong_blocks(self) -> Iterator[tuple[bool, str, str]]:
        blocks, where = self.architecture.surface.blocks.values(), f"scales.{self.scale}.sizes.{self.arm}"
        used = {block.mixer.name for block in blocks}
        for name in self.size.mixers if used else ():
            yield name not in used, f"{where}.mixers", f"no block of the arm has a mixer {name!r}{nearest(name, used)}"
        has_mlp = any(block.mlp != "none" for block in blocks)
        yield has_mlp and self.size.d_ff < 1, f"{where}.d_ff", "is missing, and blocks of the arm have an MLP"

    @property
    def contrasts_sequences(self) -> bool:
        """Whether a loss takes its negatives from the other sequences of a micro-batch, whose size is then part of the loss."""
        return self.architecture.predicts == "cpc" and self.architecture.objectives.negatives != "sequence"

    @property
    def name(self) -> str:
        """Name of the run for people: ``lolm · tiny · seed 1``."""
        return f"{self.arm} · {self.scale} · seed {self.seed}"


def scale_of(params: Params, scale: str) -> ScaleConfig:
    """The preset of a scale; raises ConfigError naming the nearest one."""
    if scale not in params.scales:
        raise ConfigError(f"no scale {scale!r}{nearest(scale, params.scales)}")
    return params.scales[scale]
