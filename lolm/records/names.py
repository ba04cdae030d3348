"""Names that stand in records: of interventions, readouts and metrics. Writers and readers say the same."""

from __future__ import annotations

import re
from collections.abc import Collection

from lolm.config import nearest
from lolm.records.files import RecordError

# ---------------------------------------------------------------------------------------------- interventions

NONE = "none"  # the learned model

GATE = "gate"  # forced to the row's value
BLEND_TO_ONE, BLEND_TO_ZERO = "gate_blend_one", "gate_blend_zero"
GATE_MEAN_DIMENSION, GATE_MEAN_GLOBAL = "gate_mean_dimension", "gate_mean_global"
GATE_SHUFFLED_POSITIONS, GATE_PERMUTED_DIMENSIONS = "gate_shuffled_positions", "gate_permuted_dimensions"
GATE_BINARISED, GATE_SWAPPED = "gate_binarised", "gate_swapped"

SURFACE, LATENT, MEMORY, REGIME = "surface", "latent", "memory", "regime"
BRANCHES = (SURFACE, LATENT)  # what the fusion weighs
ZERO, MEAN, RESAMPLE, GAUSSIAN = "zero", "mean", "resample", "gaussian"
REPLACEMENTS = (ZERO, MEAN, RESAMPLE, GAUSSIAN)  # of a branch
TOTAL, DIRECT, INDIRECT = "total", "direct", "indirect"  # effects of a stream: on all that reads it, on the fusion, on the others
INTO_LATENT = "into_latent"  # of h: in the SSM's input alone
EFFECTS = {SURFACE: (TOTAL, DIRECT, INDIRECT, INTO_LATENT), LATENT: (TOTAL, DIRECT, INDIRECT)}
RECOMPUTED = (MEAN, ZERO, RESAMPLE)  # replacements with which effects are measured

# Types of what writes into a residual stream; ``mlp`` together with mixtures of experts, which are a type of their own as well.
RECURRENT, ATTENTION, CONVOLUTION, MLP, EXPERT_MLP = "recurrent", "attention", "convolution", "mlp", "experts"
LAYER_TYPES = (RECURRENT, ATTENTION, CONVOLUTION, MLP, EXPERT_MLP)
MIXER_TYPES = (RECURRENT, ATTENTION)  # that are held against each other
NUMBER, PARAMETERS, NORM = "number", "parameters", "norm"  # in what a random set of mixers equals those of a type

SKIP_LAST_BLOCKS = "skip_last_blocks"
MATCH_NORM = "match_norm"
LOWEST, HIGHEST = "lowest", "highest"  # ends of an order of dimensions
BY_GATE, BY_CONTRIBUTION = "gate", "contribution"  # the orders
FIRST, SECOND = "first", "second"  # random halves


def joined(*names: str) -> str:
    """Name of interventions that are done one after the other."""
    return "+".join(names)


def replaced(branch: str, by: str) -> str:
    """A branch (or memory, regime) replaced: ``latent_mean``."""
    return f"{branch}_{by}"


def effect(branch: str, kind: str, by: str) -> str:
    """h or z replaced for some of what reads it, what follows computed again; the direct effect is that of :func:`replaced`."""
    return replaced(branch, by) if kind == DIRECT else f"{branch}_{kind}_{by}"


def alone(branch: str) -> str:
    """All other terms of the fusion at their means."""
    return f"{branch}_alone"


def permuted(stream: str) -> str:
    """Memory or regime with its positions in another order."""
    return f"{stream}_permuted"


def source_resampled(branch: str) -> str:
    """h or z of another document at the fusion."""
    return f"{branch}_source_resample"


def dimensions(branch: str, end: str, order: str) -> str:
    """The dimensions at one end of an order, at their means."""
    return f"{branch}_dimensions_{end}_{order}"


def dimensions_matched(branch: str, end: str, order: str, draw: int) -> str:
    """A random group with the contribution of those of :func:`dimensions`."""
    return f"{dimensions(branch, end, order)}_norm_{draw}"


def dimensions_random(branch: str, draw: int) -> str:
    """A random group of as many dimensions."""
    return f"{branch}_dimensions_random_{draw}"


def random_half(draw: int, end: str) -> str:
    """One of two random halves of the dimensions of both branches."""
    return f"split_{draw}_{end}"


Removal = tuple[str, float | None]  # intervention and value

# By removal method, what removes the latent and what removes the surface branch: the inversion statistic is measured with each.
REMOVALS: dict[str, tuple[Removal, Removal]] = {
    GATE: ((GATE, 1.0), (GATE, 0.0)),
    **{by: ((replaced(LATENT, by), None), (replaced(SURFACE, by), None)) for by in REPLACEMENTS},
}

# ---------------------------------------------------------------------------------------------- readouts

TEMPERATURE, AFFINE, HEAD, HEAD_SCRATCH, FINE_TUNE = "temperature", "affine", "head", "head_scratch", "fine_tune"
READOUTS = (TEMPERATURE, AFFINE, HEAD, HEAD_SCRATCH, FINE_TUNE)

# ---------------------------------------------------------------------------------------------- classes of token

ALL = "all"
FUNCTION_WORD, CONTENT_WORD, PUNCTUATION, WHITESPACE, NEWLINE, DIGIT = (
    "function_word", "content_word", "punctuation", "whitespace", "newline", "digit",
)  # fmt: skip
END_OF_DOCUMENT, SENTENCE_START, WORD_START, CONTINUATION = "end_of_document", "sentence_start", "word_start", "continuation"
FUNCTION_WORD_START, CONTENT_WORD_START, CAPITALISED = "function_word_start", "content_word_start", "capitalised"
TOKEN_CLASSES = (
    ALL, FUNCTION_WORD, CONTENT_WORD, PUNCTUATION, WHITESPACE, NEWLINE, DIGIT, END_OF_DOCUMENT, SENTENCE_START, WORD_START,
    CONTINUATION, FUNCTION_WORD_START, CONTENT_WORD_START, CAPITALISED,
)  # fmt: skip
POSITION_RANGES = {"1_32": (0, 32), "33_128": (32, 128), "later": (128, None)}  # the first position being 1 in the names


def target(token_class: str) -> str:
    """The class by the token that is predicted, where the plain name is by the token that is read."""
    return f"target_{token_class}"


# ---------------------------------------------------------------------------------------------- metrics of a run's series

TRAIN, VAL, ANNEALED = "train", "val", "annealed"  # prefixes

CLOZE, MINIMAL_PAIRS = "cloze", "minimal_pairs"  # downstream tasks made from the test split; all others are public
TRAIN_LOSS, TRAIN_TOTAL = "train/loss", "train/total"  # of the tokens, and with the weighted auxiliary terms
TRAIN_GRAD_NORM, TRAIN_LEARNING_RATE = "train/grad_norm", "train/lr"
TOKENS_PER_SECOND = "speed/tokens_per_second"
MFU = "speed/mfu"  # share of the devices' peak that the exact training FLOPs are, where the peak is known
# Of the process that trains: processor time over the clock's since the last line, and the most memory so far, in MiB.
CPU_PERCENT, PEAK_MEMORY, PEAK_GPU_MEMORY = "system/cpu_percent", "system/peak_memory_mib", "system/peak_gpu_memory_mib"
VAL_NATS, VAL_BITS_PER_BYTE, VAL_ACCURACY = "val/nats", "val/bits_per_byte", "val/accuracy"
VAL_GATE_MEAN = "val/gate_mean"
ANNEALED_NATS = "annealed/nats"  # what VAL_NATS was where a schedule ended
GATE_LEVEL, GATE_TARGET = "gate/mean", "gate/target"
REGIME_ALIVE, REGIME_USAGE_ENTROPY, REGIME_TAU = "regime/alive", "regime/usage_entropy", "regime/tau"
EXPERT_LOAD_MAX, EXPERT_LOAD_ENTROPY = "moe/load_max", "moe/load_entropy"
RECALL_ACCURACY, RECALL_NATS = "recall/accuracy", "recall/nats"


def train_term(name: str) -> str:
    """A term of the training loss, unweighted: ``train/future``."""
    return f"{TRAIN}/{name}"


def annealed(metric: str) -> str:
    """The name that a validation metric has where a schedule ended."""
    return metric.replace(f"{VAL}/", f"{ANNEALED}/", 1)


# ---------------------------------------------------------------------------------------------- objectives and recall tasks

FUTURE, CHANGE, REGIME_TERM, COMPETITIVE, MANIFEST, MEMORY_TERM, ROUTER = (
    "future", "change", "regime", "competitive", "manifest", "memory", "router",
)  # fmt: skip
TERMS = (FUTURE, CHANGE, REGIME_TERM, COMPETITIVE, MANIFEST, MEMORY_TERM, ROUTER)  # auxiliary losses

MQAR, INDUCTION = "mqar", "induction"
TASKS = (MQAR, INDUCTION)

# ---------------------------------------------------------------------------------------------- whether a name exists

# Of what is drawn at random, draw 0 stands for all of them. A new intervention or metric gets its place here, so that asking for
# one that no record can hold is an error.
_GROUPS = [(branch, end, order) for branch in BRANCHES for end in (LOWEST, HIGHEST) for order in (BY_GATE, BY_CONTRIBUTION)]
INTERVENTIONS = frozenset(
    (
        NONE, GATE, BLEND_TO_ONE, BLEND_TO_ZERO, GATE_MEAN_DIMENSION, GATE_MEAN_GLOBAL, GATE_SHUFFLED_POSITIONS,
        GATE_PERMUTED_DIMENSIONS, GATE_BINARISED, GATE_SWAPPED, SKIP_LAST_BLOCKS, MATCH_NORM,
        *(replaced(branch, by) for branch in BRANCHES for by in REPLACEMENTS),
        *(effect(branch, kind, by) for branch, kinds in EFFECTS.items() for kind in kinds for by in RECOMPUTED),
        *(alone(branch) for branch in BRANCHES),
        *(replaced(stream, by) for stream in (MEMORY, REGIME) for by in (ZERO, MEAN)),
        *(permuted(stream) for stream in (MEMORY, REGIME)),
        *(source_resampled(branch) for branch in BRANCHES),
        *(dimensions(*group) for group in _GROUPS), *(dimensions_matched(*group, 0) for group in _GROUPS),
        *(dimensions_random(branch, 0) for branch in BRANCHES),
        *(random_half(0, end) for end in (FIRST, SECOND)),
    )
)  # fmt: skip
METRICS = frozenset(
    (
        TRAIN_LOSS, TRAIN_TOTAL, TRAIN_GRAD_NORM, TRAIN_LEARNING_RATE, TOKENS_PER_SECOND, MFU,
        CPU_PERCENT, PEAK_MEMORY, PEAK_GPU_MEMORY,
        VAL_NATS, VAL_BITS_PER_BYTE, VAL_ACCURACY, VAL_GATE_MEAN,
        GATE_LEVEL, GATE_TARGET, REGIME_ALIVE, REGIME_USAGE_ENTROPY, REGIME_TAU, EXPERT_LOAD_MAX, EXPERT_LOAD_ENTROPY,
        RECALL_ACCURACY, RECALL_NATS, *(train_term(term) for term in TERMS),
        *(annealed(metric) for metric in (VAL_NATS, VAL_BITS_PER_BYTE, VAL_ACCURACY, VAL_GATE_MEAN)),
    )
)  # fmt: skip
CLASSES = frozenset(
    (
        *TOKEN_CLASSES, *(target(name) for name in TOKEN_CLASSES if name != ALL),
        *(f"{where}_{name}" for where in ("document", "window") for name in POSITION_RANGES),
    )
)  # fmt: skip

_DRAW = re.compile(r"(?<=_)\d+(?=_|$)")
_WRITE = re.compile(rf"(?:stack|{SURFACE}|{LATENT})\.\d+\.[\w.]+_(?:{'|'.join(REPLACEMENTS)})")  # at a site inside a stack


def check_intervention(name: str) -> str:
    """The name of an intervention, or of several joined; raises RecordError naming the nearest where no record can hold it."""
    for part in name.split("+"):
        if not _WRITE.fullmatch(part):
            _check("intervention", _DRAW.sub("0", part.partition("=")[0]), INTERVENTIONS, name)
    return name


def check_metric(key: str) -> str:
    """The key of a value of a run's series; raises RecordError naming the nearest where no series can hold it."""
    return _check("metric", key, METRICS, key)


def check_token_class(name: str) -> str:
    """The name of a class of tokens; raises RecordError naming the nearest where there is none."""
    return _check("class of tokens", name, CLASSES, name)


def check_readout(name: str) -> str:
    """The name of a readout; raises RecordError naming the nearest where there is none."""
    return _check("readout", name, READOUTS, name)


def check_task(name: str) -> str:
    """The name of a recall task; raises RecordError naming the nearest where there is none."""
    return _check("recall task", name, TASKS, name)


def _check(kind: str, name: str, known: Collection[str], shown: str) -> str:
    if name not in known:
        raise RecordError(f"no {kind} {shown!r}{nearest(name, known)}; a new one is entered in lolm/records/names.py")
    return shown
