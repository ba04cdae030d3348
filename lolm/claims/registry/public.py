"""Public hybrids: what `make external` measured on them, beside what is published of the same models.

They are of no study and no scale, so they stand in the ledger of all studies alone. A public model is one set of weights: its
number is known up to the text, there is no interval over seeds, and the value itself is held against the margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lolm.analysis.layers import damage, share, statistic
from lolm.claims.cost import Measurement
from lolm.claims.ledger import FAILS, HOLDS, HYBRIDS, INCONCLUSIVE, NOT_RUN, Claim, Quantity
from lolm.claims.numbers import show
from lolm.claims.published import NUMBERS
from lolm.config import AnalysisConfig
from lolm.records import names
from lolm.records.schema import External

# By name under `external` in params.yaml, the models of which numbers are published.
PARALLEL, SEQUENTIAL = "falcon_h1", "qwen3_5"
PUBLISHED = {PARALLEL: "Falcon-H1-0.5B", SEQUENTIAL: "Qwen3.5-0.8B"}
TYPES = ("hybrid_recurrent", "hybrid_attention")
NATS = "35,000x and 82x are {:+.1f} and {:+.1f} nats a token.".format(*(math.log(NUMBERS[key].value) for key in TYPES))
UNNAMED = (
    "The abstract does not say which model a figure is of, nor the text. A ratio above the vocabulary's size leaves a model "
    "worse than a uniform guess, whatever its loss was."
)
ONE_MODEL = "One model on one text: no interval over seeds, and none over documents."
RULE = "holds if S lies above {margin:g} nats, fails if not (analysis.type_statistic and type_margin); the value itself decides"


def public(external: Mapping[str, External], analysis: AnalysisConfig) -> list[Claim]:
    """Claims about the models of which numbers are published, measured or not, and about every other one that was measured."""
    targets = PUBLISHED | {name: record.config.model for name, record in external.items() if name not in PUBLISHED}
    return [
        *(_types(name, label, external.get(name), analysis) for name, label in targets.items()),
        _composition(external, analysis),
    ]


def _types(name: str, label: str, record: External | None, analysis: AnalysisConfig) -> Claim:
    known = name in PUBLISHED
    statement = f"{label}'s recurrent mixers are its backbone: removing them all costs more than removing all of its attention."
    published = TYPES if known else ()
    about = (f"public_{name}", HYBRIDS, statement, published)
    caveats = (*((NATS, UNNAMED) if known else ()), ONE_MODEL, *(record.caveats if record else ()))
    if record is None:
        return Claim(*about, None, None, NOT_RUN, f"{label} was not measured.", needs=_needs(name), caveats=caveats)
    by, margin, found = analysis.type_statistic, analysis.type_margin, record.measured
    s = statistic(found, by)
    definition = "(loss without recurrent mixers) − (loss without attention), each replaced by {}"
    if s is None:
        why = f"{label} has not both types of mixers."
        return Claim(*about, None, None, INCONCLUSIVE, why, caveats=caveats, runs=_runs(record))
    zeroed = {kind: damage(found, kind, names.ZERO) for kind in names.MIXER_TYPES}
    ratios = {f"without {kind}": _perplexity(lost, kind) for kind, lost in zeroed.items()}
    details = {key: ratio for key, ratio in ratios.items() if ratio is not None}
    part = share(found)
    if part is not None:
        details["recurrent share"] = Quantity(part, "share", "of the removed norm of both types")
    worse = [f"{kind}, {how}" for kind in names.MIXER_TYPES for how in names.REPLACEMENTS if _is_worse(record, kind, how)]
    intact = found.removal()
    assert intact is not None
    uniform = (
        f"Worse than a uniform guess (ln {record.vocab_size:,} = {show(record.uniform, 'nats')}) without: {'; '.join(worse)}."
        if worse
        else f"Without either type it is better than a uniform guess (ln {record.vocab_size:,} = {show(record.uniform, 'nats')})."
    )
    side = "above" if s > margin else "not above"
    return Claim(
        *about,
        _perplexity(zeroed[names.RECURRENT], names.RECURRENT),
        Quantity(s, "nats", definition.format(by)),
        HOLDS if s > margin else FAILS,
        f"S is {show(s, 'nats')}, {side} {show(margin, 'nats')}, on {found.tokens:,} tokens of which the intact model has "
        f"{show(intact.nats, 'nats')}. {uniform}",
        RULE.format(margin=margin),
        _runs(record),
        caveats=caveats,
        details=details,
    )


def _composition(external: Mapping[str, External], analysis: AnalysisConfig) -> Claim:
    """2605.01106 holds how paths are composed against what their removal costs."""
    labels = f"{PUBLISHED[PARALLEL]} (parallel) and {PUBLISHED[SEQUENTIAL]} (in turn)"
    about = (
        "public_composition",
        HYBRIDS,
        "Where the paths are parallel a model stands their removal better than where they follow one another.",
        ("composition_parallel", "composition_sequential"),
    )
    caveats = (f"Two models differ in more than composition; the published ratios are of models to 3B. {ONE_MODEL}",)
    missing = [name for name in (PARALLEL, SEQUENTIAL) if name not in external]
    if missing:
        why = f"It takes {labels}; not measured: {', '.join(PUBLISHED[name] for name in missing)}."
        return Claim(*about, None, None, NOT_RUN, why, needs=_needs(missing[0]), caveats=caveats)
    lost = [damage(external[name].measured, names.ATTENTION, names.ZERO) for name in (PARALLEL, SEQUENTIAL)]
    if None in lost:
        return Claim(*about, None, None, INCONCLUSIVE, "One of them has no attention to remove.", caveats=caveats)
    difference, margin = lost[0] - lost[1], analysis.type_margin  # type: ignore[operator]
    return Claim(
        *about,
        _perplexity(lost[0], names.ATTENTION),
        Quantity(difference, "nats", f"cost of zeroing all attention, {labels}: the first minus the second"),
        HOLDS if difference < -margin else FAILS,
        f"The difference is {show(difference, 'nats')}; claimed is below {show(-margin, 'nats')}.",
        "holds if the difference lies below -type_margin, fails if not; the value itself decides",
        tuple(row for name in (PARALLEL, SEQUENTIAL) for row in _runs(external[name])),
        caveats=caveats,
    )


def _perplexity(lost: float | None, kind: str) -> Quantity | None:
    text = f"perplexity with all {kind} mixers zeroed over that of the intact model"
    if lost is None:
        return None
    ratio = math.exp(lost) if lost < 700 else math.inf  # a float holds no more
    if math.isinf(ratio):
        return Quantity(lost, "nats", f"logarithm of the {text}")
    return Quantity(ratio, "x", text, note=f"{show(lost, 'nats')} a token")


def _is_worse(record: External, kind: str, by: str) -> bool:
    row = record.measured.removal(record.measured.of_type.get(kind, ()), by)
    return row is not None and row.nats > record.uniform


def _runs(record: External) -> tuple[tuple[str, str], ...]:
    return ((f"{record.config.model} at {record.revision}, {record.config.dtype}", record.text[:16]),)


def _needs(name: str) -> Measurement:
    return Measurement(
        f"make external NAME={name}", "downloads the model; a template of it stands under `external` in params.yaml"
    )
