"""What an arm is, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from lolm.config.faulty import FAULTY
from lolm.config.mixers import check
from lolm.config.ranges import Label, Name, NonNegative, Positive, Share, Size, SizeOrZero
from lolm.config.strict import Items, nearest, refuse


@dataclass(frozen=True)
class MixerConfig:
    """A sequence mixer by its registered name, with that mixer's own options."""

    name: Name
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self.name, self.options)


@dataclass(frozen=True)
class BlockConfig:
    """Pre-norm residual block: x + mixer(norm(x)), then x + mlp(norm(x))."""

    mixer: MixerConfig
    mlp: Literal["gelu", "swiglu", "geglu", "none"] = "gelu"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    mlp_bias: bool = False
    experts: SizeOrZero = 0  # a sparse mixture of that many MLPs in place of one
    experts_per_token: Size = 2

    def __post_init__(self) -> None:
        refuse(
            [
                (bool(self.experts) and self.mlp == "none", "experts", f"a mixture of {self.experts} needs an mlp"),
                (
                    bool(self.experts) and self.experts_per_token > self.experts,
                    "experts_per_token",
                    f"{self.experts_per_token} of {self.experts} experts for a token; at most all of them",
                ),
            ]
        )


@dataclass(frozen=True)
class StackConfig:
    """A decoder as a pattern: block names repeated cyclically over the layers."""

    blocks: dict[Name, BlockConfig]
    pattern: Annotated[tuple[str, ...], Items(least=1)]
    final_norm: Literal["layernorm", "rmsnorm"] = "layernorm"

    def __post_init__(self) -> None:
        refuse(
            (name not in self.blocks, "pattern", f"block {name!r} is not among 'blocks'{nearest(name, self.blocks)}")
            for name in dict.fromkeys(self.pattern)
        )


@dataclass(frozen=True)
class RecipeConfig:
    """What distinguishes one recipe from another and holds for every arm (facts A9, B)."""

    init: Literal["framework", "scaled"]  # PyTorch defaults with an N(0,1) embedding, or N(0, 0.02) with scaled residual outputs
    head_norm: Literal["none", "layernorm", "rmsnorm"]  # normalisation between the last stream and the tied head
    weight_decay: Literal["all", "matrices"]  # decay everything, or weight matrices only
    clip: Literal["joint", "separate"] = "joint"  # loss heads clipped together with the model or on their own


@dataclass(frozen=True)
class LatentConfig:
    """The latent stream (facts A3)."""

    form: Literal["mamba", "plain", "conv", "transformer", "none"] = (
        "mamba"  # SSM-M: stock Mamba-1; SSM-P: plain; the SSM's controls
    )
    wiring: Literal["chain", "postnorm", "prenorm"] = "chain"  # how layers are joined; as published: mamba chain, plain postnorm
    input: Literal["surface", "embedding"] = "surface"  # serial as published, or truly parallel
    conv: SizeOrZero = 0  # form: transformer, width of a causal convolution of queries, keys and values; 0 = none


@dataclass(frozen=True)
class MemoryConfig:
    """The persistent memory (facts A4)."""

    enabled: bool = True
    chunking: Literal["count", "tokens"] = "tokens"  # a fixed number of chunks (published) or chunks of fixed length


@dataclass(frozen=True)
class RegimeConfig:
    """The layer of regime codes (facts A5)."""

    enabled: bool = True
    neighbour_conv: SizeOrZero = 7  # kernel of the causal convolution over time; 0 = none
    clamp: Positive | None = 5.0  # logits clamped to [-clamp, clamp]
    isolate: bool = True  # r detached where it enters the fusion sum
    eval_temperature: Literal["one", "trained"] = "one"  # as published: 1.0, whatever the schedule reached


@dataclass(frozen=True)
class GateConfig:
    """How surface and latent are joined (facts A6, A7): the manifestation gate, or a simpler rule in its place."""

    form: Literal["dimension", "scalar", "static_dimension", "static_scalar", "fixed", "none", "concat"] = "dimension"
    bias: float = -0.5  # initial logit of the gate; 0 leaves the framework's default bias
    value: Share = 0.5  # form: fixed
    branch_norm: bool = True  # LayerNorm on both branches before they are joined


ROUTER_WEIGHT = 0.001


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights and forms of the seven loss terms (facts B)."""

    future: Literal["cpc", "cosine", "none"] = "cpc"
    negatives: Literal["sequence", "batch", "position"] = "sequence"  # cpc: see lolm.objectives.future_cpc
    regime: Literal["balance", "entropy", "none"] = "balance"
    memory: Literal["attention", "variance", "none"] = "attention"
    future_weight: NonNegative = 0.5
    change_weight: NonNegative = 0.1
    regime_weight: NonNegative = 0.3
    regime_balance_weight: NonNegative = 0.5  # regime: balance; of L_bal inside L_reg
    regime_entropy_weight: float = -1.0  # regime: balance; of the mean entropy: -1 maximises it (v3), +1 minimises it (v0)
    competitive_weight: NonNegative = 0.1
    memory_weight: NonNegative = 0.05
    manifest_weight: NonNegative = 0.01
    router_weight: NonNegative = ROUTER_WEIGHT  # load balancing of mixtures of experts
    future_trained: bool = True  # False: the projection never reaches the optimiser, as in v0
    auxiliary_clamp: Positive | None = 50.0


Edge = Literal["surface_latent", "latent_regime", "latent_gate", "latent_fusion", "regime_gate"]


@dataclass(frozen=True)
class ArchitectureConfig:
    """What an arm is, whatever its size.

    ``detach`` names edges of the dataflow, source_target, that carry values but no gradient: h into the latent stream; z into
    regime, gate and fusion; r into the gate. The sixth, r into the fusion, is ``regime.isolate``.

    Raises:
        ConfigError: an edge that the arm does not have, or a part that its family does not have.
    """

    family: Literal["lolm", "decoder"]
    label: Label  # how people read it in tables and in MLflow; of an arm that extends another its name, if it says none
    recipe: RecipeConfig
    surface: StackConfig
    output_projection: bool = False  # decoder family: the d x d map W_h of the published baseline
    latent: LatentConfig = LatentConfig()
    memory: MemoryConfig = MemoryConfig()
    regime: RegimeConfig = RegimeConfig()
    gate: GateConfig = GateConfig()
    objectives: ObjectiveConfig = ObjectiveConfig()
    detach: Annotated[tuple[Edge, ...], Items(distinct=True)] = ()

    def __post_init__(self) -> None:
        refuse(self._parts_of_the_other_family())
        reads = {
            "surface_latent": self.latent.form != "none" and self.latent.input == "surface",
            "latent_regime": self.latent.form != "none" and self.regime.enabled,
            "latent_gate": self.latent.form != "none" and self.gate.form in ("dimension", "scalar"),
            "latent_fusion": self.latent.form != "none",
            "regime_gate": self.regime.enabled and self.gate.form in ("dimension", "scalar"),
        }
        if FAULTY in (self.family, self.latent.form, self.latent.input, self.regime.enabled, self.gate.form):
            return
        has = [edge for edge, there in reads.items() if there and self.family == "lolm"]
        refuse(
            (edge not in has, "detach", f"this arm has no edge {edge!r} to cut; it has {', '.join(has) or 'none'}")
            for edge in self.detach
        )

    @property
    def predicts(self) -> str:
        """How the latent stream is trained to predict its future (``objectives.future``); ``none`` where it is not."""
        has_latent = self.family == "lolm" and self.latent.form != "none"
        return self.objectives.future if has_latent else "none"

    def _parts_of_the_other_family(self) -> Iterator[tuple[bool, str, str]]:
        """A decoder would leave out without a word what is said of LOLM's parts, and LOLM the decoder's map."""
        objectives = self.objectives if self.objectives is FAULTY else replace(self.objectives, router_weight=ROUTER_WEIGHT)
        parts = {
            "latent": (self.latent, LatentConfig()),
            "memory": (self.memory, MemoryConfig()),
            "regime": (self.regime, RegimeConfig()),
            "gate": (self.gate, GateConfig()),
            "objectives": (objectives, ObjectiveConfig()),
        }
        for part, (said, none) in parts.items():
            wrong = self.family == "decoder" and said is not FAULTY and said != none
            only = " but router_weight" if part == "objectives" else ""
            yield wrong, part, f"is of LOLM, and an arm of family decoder has none{only}; leave it out, or extend an arm of LOLM"
        wrong = self.family == "lolm" and self.output_projection is True
        yield wrong, "output_projection", "is of the published Transformer, and an arm of family lolm has none; leave it out"
