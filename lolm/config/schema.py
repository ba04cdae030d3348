"""Configuration: frozen dataclasses, loaded strictly from ``params.yaml``.

``params.yaml`` says *which* runs to make (``scale``, ``study``), *what* each arm is (``architectures``) and *how large*
(``scales.<scale>``). :func:`load_params` checks every section; :func:`resolve_run` joins the two halves of one arm into the
:class:`RunConfig` that is trained. Every derived value is computed here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import yaml

from lolm.config.strict import ConfigError, from_mapping, nearest

# ---------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class CorpusConfig:
    """Where the documents come from, and which of them are held out."""

    source: Literal["embedded", "local", "hub"] = "embedded"
    path: str = "lolm/corpus/embedded/embedded.jsonl.xz"  # embedded: the committed corpus; local: a file, a folder or a glob
    name: str | None = None  # hub: data set name, e.g. roneneldan/TinyStories
    subset: str | None = None  # hub: configuration of the data set
    split: str = "train"  # hub: split that is streamed
    text_field: str = "text"
    id_field: str | None = "id"  # documents without one are named by file and position
    max_documents: int | None = None
    max_bytes: int | None = None  # stop reading after this much text (streams are endless)
    validation_fraction: float = 0.03  # share of the documents that a hash of the id sends to validation
    test_fraction: float = 0.03
    validation: tuple[str, ...] = ()  # ids that are held out by name, before the hash decides the rest
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.source == "hub" and not self.name:
            raise ConfigError("corpus.name is required when corpus.source is 'hub'")
        if not 0 <= self.validation_fraction + self.test_fraction < 1:
            raise ConfigError("corpus.validation_fraction + corpus.test_fraction must be in [0, 1)")


@dataclass(frozen=True)
class TokenizerConfig:
    """SentencePiece BPE with byte fallback, trained on the training split."""

    vocab_size: int
    train_bytes: int = 20_000_000  # text shown to the trainer, spread evenly over the training documents

    def __post_init__(self) -> None:
        if self.vocab_size < 260:
            raise ConfigError(f"tokenizer.vocab_size is {self.vocab_size}; 256 bytes and 3 control tokens need at least 260")


@dataclass(frozen=True)
class ShardsConfig:
    """Flat token files that are memory-mapped."""

    shard_tokens: int = 16_777_216


# ---------------------------------------------------------------------------------------------- architecture


@dataclass(frozen=True)
class MixerConfig:
    """A sequence mixer by its registered name, with that mixer's own options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockConfig:
    """Pre-norm residual block: x + mixer(norm(x)), then x + mlp(norm(x))."""

    mixer: MixerConfig
    mlp: Literal["gelu", "swiglu", "geglu", "none"] = "gelu"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    mlp_bias: bool = False
    experts: int = 0  # a sparse mixture of that many MLPs in place of one
    experts_per_token: int = 2

    def __post_init__(self) -> None:
        if self.experts and (self.mlp == "none" or not 1 <= self.experts_per_token <= self.experts):
            raise ConfigError(
                f"experts: {self.experts} with mlp {self.mlp!r} and experts_per_token {self.experts_per_token}; a mixture needs "
                "an mlp, and between 1 and all of its experts for a token"
            )


@dataclass(frozen=True)
class StackConfig:
    """A decoder as a pattern: block names repeated cyclically over the layers."""

    blocks: dict[str, BlockConfig]
    pattern: tuple[str, ...]
    final_norm: Literal["layernorm", "rmsnorm"] = "layernorm"

    def __post_init__(self) -> None:
        if not self.pattern:
            raise ConfigError("a stack needs at least one block name in 'pattern'")
        for name in self.pattern:
            if name not in self.blocks:
                raise ConfigError(f"pattern names block {name!r}, which 'blocks' does not define{nearest(name, self.blocks)}")


@dataclass(frozen=True)
class RecipeConfig:
    """What distinguishes one recipe from another and holds for every arm (``lolm_spec`` A9, B)."""

    init: Literal["framework", "scaled"]  # PyTorch defaults with an N(0,1) embedding, or N(0, 0.02) with scaled residual outputs
    head_norm: Literal["none", "layernorm", "rmsnorm"]  # normalisation between the last stream and the tied head
    weight_decay: Literal["all", "matrices"]  # decay everything, or weight matrices only
    clip: Literal["joint", "separate"] = "joint"  # loss heads clipped together with the model or on their own


@dataclass(frozen=True)
class LatentConfig:
    """The latent stream (A3)."""

    form: Literal["mamba", "plain", "transformer", "none"] = "mamba"  # SSM-M: stock Mamba-1; SSM-P: plain; the SSM's control
    wiring: Literal["chain", "postnorm", "prenorm"] = "chain"  # how layers are joined; as published: mamba chain, plain postnorm
    input: Literal["surface", "embedding"] = "surface"  # serial as published, or truly parallel


@dataclass(frozen=True)
class MemoryConfig:
    """The persistent memory (A4)."""

    enabled: bool = True
    chunking: Literal["count", "tokens"] = "tokens"  # a fixed number of chunks (published) or chunks of fixed length


@dataclass(frozen=True)
class RegimeConfig:
    """The layer of regime codes (A5)."""

    enabled: bool = True
    neighbour_conv: int = 7  # kernel of the causal convolution over time; 0 = none
    clamp: float | None = 5.0  # logits clamped to [-clamp, clamp]
    isolate: bool = True  # r detached where it enters the fusion sum
    eval_temperature: Literal["one", "trained"] = "one"  # as published: 1.0, whatever the schedule reached


@dataclass(frozen=True)
class GateConfig:
    """How surface and latent are joined (A6, A7): the manifestation gate, or a simpler rule in its place."""

    form: Literal["dimension", "scalar", "static_dimension", "static_scalar", "fixed", "none", "concat"] = "dimension"
    bias: float = -0.5  # initial logit of the gate; 0 leaves the framework's default bias
    value: float = 0.5  # form: fixed
    branch_norm: bool = True  # LayerNorm on both branches before they are joined


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights and forms of the seven loss terms (B)."""

    future: Literal["cpc", "cosine", "none"] = "cpc"
    negatives: Literal["sequence", "batch", "position"] = "sequence"  # cpc: see lolm.objectives.future_cpc
    regime: Literal["balance", "entropy", "none"] = "balance"
    memory: Literal["attention", "variance", "none"] = "attention"
    future_weight: float = 0.5
    change_weight: float = 0.1
    regime_weight: float = 0.3
    regime_balance_weight: float = 0.5  # regime: balance; of L_bal inside L_reg
    regime_entropy_weight: float = -1.0  # regime: balance; of the mean entropy: -1 maximises it (v3), +1 minimises it (v0)
    competitive_weight: float = 0.1
    memory_weight: float = 0.05
    manifest_weight: float = 0.01
    router_weight: float = 0.001  # load balancing of mixtures of experts
    future_trained: bool = True  # False: the projection never reaches the optimiser, as in v0
    auxiliary_clamp: float | None = 50.0


Edge = Literal["surface_latent", "latent_regime", "latent_gate", "latent_fusion", "regime_gate"]


@dataclass(frozen=True)
class ArchitectureConfig:
    """What an arm is, whatever its size.

    ``detach`` names edges of the dataflow, source_target, that carry values but no gradient: h into the latent stream; z into
    regime, gate and fusion; r into the gate. The sixth, r into the fusion, is ``regime.isolate``.

    Raises:
        ConfigError: an edge that the arm does not have, or one named twice.
    """

    family: Literal["lolm", "decoder"]
    label: str  # how people read it in tables and in MLflow
    recipe: RecipeConfig
    surface: StackConfig
    output_projection: bool = False  # decoder family: the d x d map W_h of the published baseline
    latent: LatentConfig = LatentConfig()
    memory: MemoryConfig = MemoryConfig()
    regime: RegimeConfig = RegimeConfig()
    gate: GateConfig = GateConfig()
    objectives: ObjectiveConfig = ObjectiveConfig()
    detach: tuple[Edge, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.detach)) != len(self.detach):
            raise ConfigError(f"detach: names an edge twice: {', '.join(self.detach)}")
        reads = {
            "surface_latent": self.latent.form != "none" and self.latent.input == "surface",
            "latent_regime": self.latent.form != "none" and self.regime.enabled,
            "latent_gate": self.latent.form != "none" and self.gate.form in ("dimension", "scalar"),
            "latent_fusion": self.latent.form != "none",
            "regime_gate": self.regime.enabled and self.gate.form in ("dimension", "scalar"),
        }
        for edge in self.detach:
            if self.family != "lolm" or not reads[edge]:
                has = [name for name, there in reads.items() if there and self.family == "lolm"]
                raise ConfigError(f"detach: this arm has no edge {edge!r} to cut; it has {', '.join(has) or 'none'}")


# ---------------------------------------------------------------------------------------------- sizes


@dataclass(frozen=True)
class LatentSize:
    layers: int
    d_state: int = 16
    expand: int = 2
    d_ff: int | None = None  # form: transformer, width of its MLP


@dataclass(frozen=True)
class MemorySize:
    slots: int
    banks: int = 3
    chunks: int = 4  # chunking: count
    chunk_tokens: int = 64  # chunking: tokens


@dataclass(frozen=True)
class RegimeSize:
    codes: int
    width: int
    tau_start: float = 1.0
    tau_end: float = 0.5
    tau_steps: int = 1000


@dataclass(frozen=True)
class FutureSize:
    horizon: int = 8  # k, tokens ahead
    hidden: int = 512  # width of the CPC heads' hidden layer
    width: int = 128  # width of the CPC embedding
    temperature: float = 0.07
    positions: int = 256  # candidates are subsampled to at most about this many


@dataclass(frozen=True)
class SizeConfig:
    """How large an arm is at one scale, and the learning rate from which its sweep starts there."""

    d_model: int
    n_layers: int
    n_heads: int
    learning_rate: float
    d_ff: int = 0  # 0: no block of the arm has an MLP
    dropout: float = 0.0
    mixers: dict[str, dict[str, Any]] = field(default_factory=dict)  # options by mixer, beside those of the architecture
    latent: LatentSize | None = None
    memory: MemorySize | None = None
    regime: RegimeSize | None = None
    future: FutureSize | None = None

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ConfigError(
                f"d_model {self.d_model} must be a multiple of n_heads {self.n_heads} with an even head width: RoPE rotates pairs"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")


# ---------------------------------------------------------------------------------------------- training and measuring


@dataclass(frozen=True)
class TrainingConfig:
    """The protocol every arm of a scale is trained under."""

    steps: int
    seq_len: int
    batch_size: int  # sequences per micro-batch
    accumulation: int = 1  # micro-batches per optimiser step
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = 0
    lr_floor: float = 0.1  # final learning rate as a share of the peak
    decay_fraction: float = 0.2  # wsd: share of the steps spent decaying
    cooldowns: tuple[
        float, ...
    ] = ()  # wsd: shares of the run at which a copy is annealed too, for matched end-of-schedule points
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    log_every: int = 10
    eval_every: int = 100
    eval_tokens: int = 65_536  # size of the fixed validation set that is scored at each evaluation
    eval_batch_size: int = 8
    checkpoint_every: int = 100
    snapshots: tuple[float, ...] = (0.1, 0.25, 0.5)  # shares of the run at which weights are kept for the ablations
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast over fp32 master weights
    kernels: Literal["auto", "reference", "cpu", "cuda"] = "auto"  # backend of scans, convolutions, attention and RMSNorm
    compile: bool = False
    activation_checkpointing: bool = False
    threads: int = 1  # CPU threads of one run; 0 = all

    def __post_init__(self) -> None:
        for name in ("steps", "seq_len", "batch_size", "accumulation", "log_every", "eval_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if self.warmup_steps >= self.steps:
            raise ConfigError(f"training.warmup_steps {self.warmup_steps} leaves nothing of training.steps {self.steps}")
        if any(not 0 < s < 1 for s in self.snapshots):
            raise ConfigError(f"training.snapshots are shares of the run, each in (0, 1); got {list(self.snapshots)}")
        if self.cooldowns and self.schedule != "wsd":
            raise ConfigError("training.cooldowns need training.schedule: wsd; a point inside a cosine run is not the end of one")
        if not 0 < self.decay_fraction <= 1:
            raise ConfigError(f"training.decay_fraction must be in (0, 1], got {self.decay_fraction}")
        ends = self.cooldown_steps
        wrong = [h for h in self.cooldowns if not 0 < h < 1]
        early = [end for end in ends if end >= self.steps or self.decay_starts(end) < max(1, self.warmup_steps)]
        if wrong or early or len(set(ends)) != len(ends):
            raise ConfigError(
                f"training.cooldowns are different shares of the run in (0, 1) whose decay starts after the warm-up of "
                f"{self.warmup_steps} steps; got {list(self.cooldowns)}, which end at {list(ends)} of {self.steps} steps"
            )

    @property
    def cooldown_steps(self) -> tuple[int, ...]:
        """Ends of the annealed copies, in steps, ascending; the run's own end is not among them."""
        return tuple(sorted(max(1, round(share * self.steps)) for share in self.cooldowns))

    def decay_starts(self, end: int) -> int:
        """Steps done when a ``wsd`` schedule that ends at ``end`` begins to decay."""
        return end - max(1, round(self.decay_fraction * end))

    @property
    def tokens_per_step(self) -> int:
        return self.seq_len * self.batch_size * self.accumulation

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps whose weights are kept besides the last one."""
        return tuple(sorted({max(1, round(share * self.steps)) for share in self.snapshots} - {self.steps}))


@dataclass(frozen=True)
class EvaluationConfig:
    """The final measurement on the test split."""

    tokens: int = 131_072
    batch_size: int = 8
    lengths: tuple[int, ...] = (1, 2, 4)  # windows of the length extrapolation, as multiples of training.seq_len
    samples: int = 16  # texts that are generated, for their diversity
    sample_tokens: int = 96
    prompt_tokens: int = 32

    def __post_init__(self) -> None:
        if any(length < 1 for length in self.lengths):
            raise ConfigError(f"evaluation.lengths are multiples of training.seq_len, from 1; got {list(self.lengths)}")


@dataclass(frozen=True)
class SweepConfig:
    """Choice of each arm's peak learning rate, by the validation loss of short runs; every arm has the same budget.

    The rates are the arm's ``learning_rate`` times each factor. While the best is at an edge, the grid grows there by the
    ratio of its last two factors, at most ``extensions`` times.
    """

    factors: tuple[float, ...] = ()  # none: the learning rate is taken as given
    steps: int = 500
    seeds: tuple[int, ...] = (0,)
    extensions: int = 2

    def __post_init__(self) -> None:
        if self.factors and (len(self.factors) < 3 or sorted(set(self.factors)) != list(self.factors) or self.factors[0] <= 0):
            raise ConfigError(f"sweep.factors: at least three, ascending and positive, or none; got {list(self.factors)}")
        if self.factors and not self.seeds:
            raise ConfigError("sweep.seeds: need at least one")


@dataclass(frozen=True)
class RecallConfig:
    """Synthetic tasks that an arm of this size is trained on from scratch: loss on text hides recall."""

    tasks: tuple[Literal["mqar", "induction"], ...] = ()
    steps: int = 1000
    batch_size: int = 32
    seq_len: int = 64
    vocab_size: int = 128
    pairs: int = 8  # mqar: key-value pairs to remember
    learning_rate: float = 1.0e-3  # the same for every arm
    eval_sequences: int = 512

    def __post_init__(self) -> None:
        if self.tasks and 3 * self.pairs > self.seq_len:
            raise ConfigError(f"recall.pairs {self.pairs} need recall.seq_len of at least {3 * self.pairs}, got {self.seq_len}")


@dataclass(frozen=True)
class AblationConfig:
    """The dependency laboratory: interventions with their controls, on the test split."""

    tokens: int = 32_768  # scored, and of validation text for the statistics that removed branches are replaced by
    batch_size: int = 8
    gate_values: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    calibration_tokens: int = 4096  # of validation text, on which each intervention's temperature is fitted
    dimension_shares: tuple[float, ...] = (0.125, 0.5)  # of a branch's dimensions that are removed together
    dimension_draws: int = 2  # random groups of dimensions beside each chosen one
    split_draws: int = 19  # random halves of all dimensions, the null of the inversion: p can reach 1 / 20
    refit_tokens: int = 32_768  # of training text, from which readouts are refitted at the final weights
    refit_steps: int = 200
    refit_rate: float = 1.0e-2
    fine_tune_steps: int = 100  # of all weights, with the intervention in place
    fine_tune_rate: float = 0.3  # as a share of the run's peak learning rate

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_size", "calibration_tokens", "refit_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ablation.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dimension_draws", "split_draws", "refit_steps", "fine_tune_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"ablation.{name} must not be negative, got {getattr(self, name)}")
        if any(not 0 < share <= 1 for share in self.dimension_shares):
            raise ConfigError(
                f"ablation.dimension_shares are shares of d_model, each in (0, 1]; got {list(self.dimension_shares)}"
            )


@dataclass(frozen=True)
class AnalysisConfig:
    """Statistics, fixed before the runs."""

    confidence: float = 0.95
    parameter_tolerance: float = 0.005  # largest relative mismatch of arms that are called matched
    inversion_statistic: Literal["gate", "zero", "mean", "resample", "gaussian"] = "mean"  # what stands for a removed branch
    inversion_margin: float = 0.05  # nats; a smaller difference of damages is not called an inversion
    equivalence_margin: float = 0.01  # nats; "no difference" needs an interval inside +- this margin
    gate_margin: float = 0.05  # two gate levels, or shares, closer than this are called equal
    published_window: int = 50  # steps averaged in the published training loss


@dataclass(frozen=True)
class ScaleConfig:
    """One preset of ``scales``."""

    corpus: CorpusConfig
    tokenizer: TokenizerConfig
    shards: ShardsConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    ablation: AblationConfig
    sizes: dict[str, SizeConfig]
    sweep: SweepConfig = SweepConfig()
    recall: RecallConfig = RecallConfig()


@dataclass(frozen=True)
class StudyConfig:
    """Which runs to make and compare. Runs are shared: an arm and seed that two studies name is trained once.

    ``factors`` is the design of a two-level factorial study: for each factor the arms at its high level; all other arms of the
    study are at its low level. Columns are balanced and orthogonal, so the main effect of a factor on any measurement y, in a
    seed, is the mean of y over its high arms − the mean over its low ones, with interactions aliased as the comment at the study
    says. A factor can be told from the arms' configurations as well; the tests hold the two against each other.

    Raises:
        ConfigError: seeds, arms or recall that are empty, repeated or unknown; factors that are unbalanced or not orthogonal.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    subject: str  # the arm that the claims are about
    baseline: str  # the arm that they are held against; the pair is the one declared comparison
    matched: bool = True  # whether the two must have equally many parameters
    recall: tuple[str, ...] | None = None  # the arms that are also trained on the recall tasks: at least one; None: all
    factors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = ""  # its key under `studies`, and its folder under reports/<scale>/

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds: need at least one, each once; got {list(self.seeds)}")
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ConfigError(f"arms: need at least one, each once; got {list(self.arms)}")
        if self.recall is not None and not self.recall:
            raise ConfigError(
                "recall: need at least one arm, so that DVC has a stage for the folder the report reads; the subject"
            )
        lists = {"recall": self.recall or (), **{f"factors.{name}": arms for name, arms in self.factors.items()}}
        for key, arms in lists.items():
            if len(set(arms)) != len(arms):
                raise ConfigError(f"{key}: each arm once; got {list(arms)}")
            for arm in arms:
                if arm not in self.arms:
                    raise ConfigError(f"{key}: {arm!r} is not among the study's arms{nearest(arm, self.arms)}")
        for name, high in self.factors.items():
            if 2 * len(high) != len(self.arms):
                raise ConfigError(
                    f"factors.{name}: {len(high)} of {len(self.arms)} arms are at the high level; it must be half of them"
                )
        for first, second in combinations(self.factors, 2):
            both = len(set(self.factors[first]) & set(self.factors[second]))
            if 4 * both != len(self.arms):
                raise ConfigError(
                    f"factors.{first} and factors.{second} are not orthogonal: {both} of {len(self.arms)} arms are at the high "
                    "level of both; it must be a quarter of them"
                )

    @property
    def recall_arms(self) -> tuple[str, ...]:
        """The arms that are also trained on the recall tasks."""
        return self.arms if self.recall is None else self.recall


@dataclass(frozen=True)
class Params:
    """The whole of ``params.yaml``."""

    scale: str
    study: str
    studies: dict[str, StudyConfig]
    analysis: AnalysisConfig
    architectures: dict[str, ArchitectureConfig]
    scales: dict[str, ScaleConfig]
    recipes: dict[str, RecipeConfig] = field(default_factory=dict)  # anchors for `architectures`
    surfaces: dict[str, StackConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scale not in self.scales:
            raise ConfigError(f"scale: {self.scale!r} is not a preset of 'scales'{nearest(self.scale, self.scales)}")
        if self.study not in self.studies:
            raise ConfigError(f"study: {self.study!r} is not one of 'studies'{nearest(self.study, self.studies)}")
        for key, study in self.studies.items():
            if study.name not in ("", key):
                raise ConfigError(f"studies.{key}.name: is {study.name!r}; leave it out, a study is called by its key")
        object.__setattr__(self, "studies", {key: replace(study, name=key) for key, study in self.studies.items()})
        for name in (*self.scales, *self.architectures):
            if "." in name:
                raise ConfigError(f"{name!r}: a scale or arm cannot have a dot in its name, which DVC reads as a level of keys")
        for study in self.studies.values():
            if study.name in ("runs", "sweep", "recall") or "." in study.name or "/" in study.name:
                raise ConfigError(f"study {study.name!r}: its folder cannot be called so; use letters, digits, - and _")
            for arm in study.arms:
                if arm not in self.architectures:
                    raise ConfigError(
                        f"study {study.name!r}: no arm {arm!r} under 'architectures'{nearest(arm, self.architectures)}"
                    )

    @property
    def selected(self) -> StudyConfig:
        """The study that ``study`` names."""
        return self.studies[self.study]

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
        if self.architecture.family == "lolm":
            wanted = {
                "latent": self.architecture.latent.form != "none",
                "memory": self.architecture.memory.enabled,
                "regime": self.architecture.regime.enabled,
                "future": self.architecture.objectives.future != "none" and self.architecture.latent.form != "none",
            }
            objectives, batch = self.architecture.objectives, self.training.batch_size
            if wanted["future"] and objectives.future == "cpc" and objectives.negatives != "sequence" and batch < 2:
                raise ConfigError(
                    f"scales.{self.scale}.training.batch_size {batch} leaves arm {self.arm!r} no negatives, taken from the "
                    f"other sequences of a batch (objectives.negatives: {objectives.negatives}); set it to 2 or more"
                )
            for part, needed in wanted.items():
                if needed and getattr(self.size, part) is None:
                    raise ConfigError(f"scales.{self.scale}.sizes.{self.arm}.{part} is missing, and arm {self.arm!r} uses it")
        used = {block.mixer.name for block in self.architecture.surface.blocks.values()}
        for name in self.size.mixers:
            if name not in used:
                raise ConfigError(
                    f"scales.{self.scale}.sizes.{self.arm}.mixers: no block of the arm has a mixer {name!r}{nearest(name, used)}"
                )
        if self.size.d_ff < 1 and any(block.mlp != "none" for block in self.architecture.surface.blocks.values()):
            raise ConfigError(f"scales.{self.scale}.sizes.{self.arm}.d_ff is missing, and blocks of the arm have an MLP")

    @property
    def name(self) -> str:
        """Name of the run for people: ``lolm · tiny · seed 1``."""
        return f"{self.arm} · {self.scale} · seed {self.seed}"


# ---------------------------------------------------------------------------------------------- loading


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check the whole parameter file.

    Raises:
        ConfigError: the file is missing or is not YAML, a key is unknown, missing or of the wrong type, or values clash.
    """
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C's: ten times faster
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run from the project's root folder") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    try:
        return from_mapping(Params, raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def scale_of(params: Params, scale: str) -> ScaleConfig:
    """The preset of a scale; raises ConfigError naming the nearest one."""
    if scale not in params.scales:
        raise ConfigError(f"no scale {scale!r}{nearest(scale, params.scales)}")
    return params.scales[scale]


def resolve_run(params: Params, scale: str, arm: str, seed: int, learning_rate: float | None = None) -> RunConfig:
    """Join what an arm is with how large it is at a scale.

    Args:
        learning_rate: the peak that a sweep chose; default is the one in the arm's size.

    Raises:
        ConfigError: unknown scale or arm, or the scale gives no size for the arm.
    """
    preset = scale_of(params, scale)
    if arm not in params.architectures:
        raise ConfigError(f"no arm {arm!r} under 'architectures'{nearest(arm, params.architectures)}")
    if arm not in preset.sizes:
        raise ConfigError(f"scales.{scale}.sizes has no entry for arm {arm!r}{nearest(arm, preset.sizes)}")
    size = preset.sizes[arm]
    return RunConfig(
        scale=scale,
        arm=arm,
        seed=seed,
        vocab_size=preset.tokenizer.vocab_size,
        architecture=params.architectures[arm],
        size=size if learning_rate is None else replace(size, learning_rate=learning_rate),
        training=preset.training,
    )
