"""Configuration: frozen dataclasses, loaded strictly from ``params.yaml``.

``params.yaml`` says *which* runs to make (``scale``, ``arms``, ``seeds``), *what* each arm is (``architectures``) and
*how large* (``scales.<scale>``). :func:`load_params` checks every section; :func:`resolve_run` joins the two halves of
one arm into the :class:`RunConfig` that is trained. Every derived value is computed here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from lolm import LolmError

T = TypeVar("T")


class ConfigError(LolmError):
    """A value of ``params.yaml`` that cannot be used; the message names the key and says what to do."""


# ---------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class CorpusConfig:
    """Where the documents come from, and which of them are held out."""

    source: Literal["embedded", "local", "hub"] = "embedded"
    path: str = "lolm/data/embedded/embedded.jsonl.xz"  # embedded: the committed corpus; local: a file, a folder or a glob
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
                raise ConfigError(f"pattern names block {name!r}, which 'blocks' does not define{_nearest(name, self.blocks)}")


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

    form: Literal["mamba", "plain", "none"] = "mamba"  # SSM-M: stock Mamba-1 blocks; SSM-P: plain, post-norm residual
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
    """The manifestation gate (A6) and what it weighs (A7)."""

    enabled: bool = True
    bias: float = -0.5  # 0 leaves the framework's default bias
    branch_norm: bool = True  # LayerNorm on both branches before gating


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights and forms of the seven loss terms (B)."""

    future: Literal["cpc", "cosine", "none"] = "cpc"
    regime: Literal["balance", "entropy", "none"] = "balance"
    memory: Literal["attention", "variance", "none"] = "attention"
    future_weight: float = 0.5
    change_weight: float = 0.1
    regime_weight: float = 0.3
    competitive_weight: float = 0.1
    memory_weight: float = 0.05
    manifest_weight: float = 0.01
    future_trained: bool = True  # False: the projection never reaches the optimiser, as in v0
    auxiliary_clamp: float | None = 50.0


@dataclass(frozen=True)
class ArchitectureConfig:
    """What an arm is, whatever its size."""

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


# ---------------------------------------------------------------------------------------------- sizes


@dataclass(frozen=True)
class LatentSize:
    layers: int
    d_state: int
    expand: int = 2


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
    """How large an arm is at one scale, and the learning rate tuned for it there."""

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    learning_rate: float
    dropout: float = 0.0
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
    kernels: Literal["auto", "reference", "cpu", "cuda"] = "auto"  # selective-scan backend
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


@dataclass(frozen=True)
class AblationConfig:
    """Forcing the gate, and removing streams, on the test split."""

    tokens: int = 32_768
    batch_size: int = 8
    gate_values: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class AnalysisConfig:
    """Statistics, fixed before the runs."""

    confidence: float = 0.95
    parameter_tolerance: float = 0.005  # largest relative mismatch of arms that are called matched
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


@dataclass(frozen=True)
class Params:
    """The whole of ``params.yaml``."""

    scale: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str  # the arm that the claims are held against
    analysis: AnalysisConfig
    architectures: dict[str, ArchitectureConfig]
    scales: dict[str, ScaleConfig]
    recipes: dict[str, RecipeConfig] = field(default_factory=dict)  # anchors for `architectures`
    surfaces: dict[str, StackConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scale not in self.scales:
            raise ConfigError(f"scale: {self.scale!r} is not a preset of 'scales'{_nearest(self.scale, self.scales)}")
        for name in (*self.scales, *self.architectures):
            if "." in name:
                raise ConfigError(f"{name!r}: a scale or arm cannot have a dot in its name, which DVC reads as a level of keys")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds: need at least one, each once; got {list(self.seeds)}")
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ConfigError(f"arms: need at least one, each once; got {list(self.arms)}")
        for arm in self.arms:
            if arm not in self.architectures:
                raise ConfigError(f"arms: {arm!r} is not defined under 'architectures'{_nearest(arm, self.architectures)}")


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
            for part, needed in wanted.items():
                if needed and getattr(self.size, part) is None:
                    raise ConfigError(f"scales.{self.scale}.sizes.{self.arm}.{part} is missing, and arm {self.arm!r} uses it")

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
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
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
        raise ConfigError(f"no scale {scale!r}{_nearest(scale, params.scales)}")
    return params.scales[scale]


def resolve_run(params: Params, scale: str, arm: str, seed: int) -> RunConfig:
    """Join what an arm is with how large it is at a scale.

    Raises:
        ConfigError: unknown scale or arm, or the scale gives no size for the arm.
    """
    preset = scale_of(params, scale)
    if arm not in params.architectures:
        raise ConfigError(f"no arm {arm!r} under 'architectures'{_nearest(arm, params.architectures)}")
    if arm not in preset.sizes:
        raise ConfigError(f"scales.{scale}.sizes has no entry for arm {arm!r}{_nearest(arm, preset.sizes)}")
    return RunConfig(
        scale=scale,
        arm=arm,
        seed=seed,
        vocab_size=preset.tokenizer.vocab_size,
        architecture=params.architectures[arm],
        size=preset.sizes[arm],
        training=preset.training,
    )


def from_mapping(cls: type[T], raw: Any, where: str = "") -> T:
    """Build a configuration dataclass from plain mappings, strictly.

    Args:
        cls: a dataclass of this module.
        raw: what YAML or JSON gave.
        where: dotted path of ``raw`` in the file, for messages.

    Raises:
        ConfigError: unknown key (names the nearest), missing key, wrong type, or a clash found by ``__post_init__``.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{where or 'the file'}: expected a mapping, got {_shown(raw)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            raise ConfigError(f"unknown key {_join(where, key)!r}{_nearest(str(key), fields)}")
    values = {}
    for name, spec in fields.items():
        if name in raw:
            values[name] = _convert(hints[name], raw[name], _join(where, name))
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ConfigError(f"missing key {_join(where, name)!r}")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def to_mapping(config: Any) -> dict[str, Any]:
    """The plain mapping :func:`from_mapping` reads back, for JSON records."""
    return dataclasses.asdict(config)


def flatten(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys, for trackers that take flat parameters."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        name = _join(prefix, key)
        flat.update(flatten(value, name) if isinstance(value, dict) and value else {name: value})
    return flat


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return _convert(inner, value, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}{_nearest(str(value), args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {_shown(value)}")
        if args[-1] is Ellipsis:
            return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(value) != len(args):
            raise ConfigError(f"{where}: expected {len(args)} values, got {len(value)}")
        return tuple(_convert(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a mapping, got {_shown(value)}")
        return {str(k): _convert(args[1], v, _join(where, k)) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        note = ""
        if hint is float and isinstance(value, str):  # YAML 1.1 reads 3e-4 as text
            note = "; write scientific notation with a dot, as in 3.0e-4"
        raise ConfigError(f"{where}: expected {hint.__name__}, got {_shown(value)}{note}")
    return value


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _nearest(word: str, known: Any) -> str:
    names = [str(k) for k in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(names))}" if names else ""
