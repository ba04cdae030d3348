"""Claims against other models, on tasks, and about larger models: tested where this project has the like, named where not."""

from __future__ import annotations

import math
from collections.abc import Callable

from lolm.analysis.statistics import Estimate, paired_difference, t_interval
from lolm.claims.ledger import Claim, Control, Quantity, above, below, runs_of, untestable, why_of
from lolm.claims.published import NUMBERS
from lolm.claims.required_runs import Needs, needs
from lolm.records.results import RunRecord, ScaleResults

GROUP = "outside"
HELLASWAG_ITEMS = 200  # the printed percentages are multiples of 0.5 %
PYTHIA = (
    "Pythia-410M is not among the arms: another tokenizer, text and schedule. The like here is LOLM against its matched "
    "Transformer, same tokenizer and text."
)


def claims(results: ScaleResults) -> list[Claim]:
    """Pythia, downstream tasks, projections."""
    return [
        _pythia_gap(results),
        _late(results),
        _context(results),
        _repetition(results),
        *_downstream(results),
        *_projections(results),
    ]


def _pythia_gap(results: ScaleResults) -> Claim:
    statement = "At equal tokens LOLM-304M has half the perplexity of Pythia-410M on WikiText-103 (52.2 % lower)."
    why = (
        f"{PYTHIA} The printed perplexities are per token of two tokenizers; Pythia at 2 B tokens is likely still in its "
        f"warm-up, and "
        "at 4 B it is ahead (54.32)."
    )
    return untestable(
        "pythia_perplexity", GROUP, statement, ("pythia_gap", "ppl_304m_pythia"), why, needs(results.params, "304m", "main")
    )


def _compare(results: ScaleResults, read: Callable[[RunRecord], float | None]) -> tuple[Estimate, Estimate] | None:
    """(subject's own value, subject minus baseline) over the seeds of both; None unless every run has it."""
    pairs = [(read(a), read(b)) for a, b in results.pairs(results.subject, results.baseline)]
    if not pairs or any(None in pair for pair in pairs):
        return None
    mine, theirs = zip(*pairs, strict=True)
    return t_interval(mine, results.analysis.confidence), paired_difference(mine, theirs, results.analysis.confidence)


def _claim(
    results: ScaleResults,
    id: str,
    statement: str,
    read: Callable[[RunRecord], float | None],
    definition: str,
    rule: Callable[[Estimate, float], str],
    controls: tuple[Control, ...] = (),
) -> Claim:
    found = _compare(results, read)
    if found is None:
        why = f"{PYTHIA} These runs do not have it measured in both arms."
        return untestable(id, GROUP, statement, (id,), why, needs(results.params, "304m", "main"))
    own, gap = found
    side = "above" if rule is above else "below"
    return Claim(
        id,
        GROUP,
        statement,
        (id,),
        Quantity.of(own, "share", f"LOLM: {definition}"),
        Quantity.of(gap, "share", f"the same, LOLM minus the matched Transformer, paired by seed: {definition}"),
        rule(gap, 0.0),
        f"LOLM minus Transformer: {why_of(gap, 0.0, 'share')}. {PYTHIA}",
        f"holds if the interval lies {side} 0, fails if none of it does",
        runs_of(run for pair in results.pairs(results.subject, results.baseline) for run in pair),
        controls=controls,
        figure="by_position" if id != "pythia_repetition" else None,
    )


def _change(run: RunRecord, key: str) -> float | None:
    early, late = (run.measured("positions", where, key) for where in ("early", "late"))
    return None if None in (early, late) or not early else late / early - 1


def _late(results: ScaleResults) -> Claim:
    statement = "LOLM gains more from context than a Transformer (late positions 17.0 % below early ones, Pythia's 11.4 %)."
    definition = "bits a byte in the last quarter of the window over those in the first, minus one"
    level = _compare(results, lambda run: run.measured("positions", "late", "bits_per_byte"))
    text = "bits a byte in the last quarter, LOLM minus Transformer"
    quantity = Quantity(None, "bits", text, note="not measured") if level is None else Quantity.of(level[1], "bits", text)
    control = Control(
        "late positions themselves", quantity, "A model that is poor early has more to gain: a larger change is no lower loss."
    )
    return _claim(results, "pythia_late", statement, lambda run: _change(run, "bits_per_byte"), definition, below, (control,))


def _context(results: ScaleResults) -> Claim:
    statement = "Context raises LOLM's top-1 accuracy more than a Transformer's (45.4 %, Pythia's 34.7 %)."
    definition = "accuracy in the last quarter of the window over that in the first, minus one (the authors give no definition)"
    return _claim(results, "pythia_context", statement, lambda run: _change(run, "accuracy"), definition, above)


def _repetition(results: ScaleResults) -> Claim:
    statement = "LOLM's text repeats fewer bigrams than a Transformer's (31.3 %, distinct-2 0.687; Pythia's 39.3 %, 0.607)."
    definition = "share of a generated text's word pairs that it has had before"
    real = [run.measured("samples", "real", "bigram_repetition") for run in results.runs]
    known = [value for value in real if value is not None]
    quantity = (
        Quantity(sum(known) / len(known), "share", "the same of the real continuations")
        if known
        else Quantity(None, "share", "the same of the real continuations", note="not measured")
    )
    control = Control(
        "the text itself", quantity, "Less repetition is better only down to what real text has; sampling settings set it too."
    )
    return _claim(
        results,
        "pythia_repetition",
        statement,
        lambda run: run.measured("samples", "generated", "bigram_repetition"),
        definition,
        below,
        (control,),
    )


def _downstream(results: ScaleResults) -> list[Claim]:
    where: Needs = needs(results.params, "304m", "main")
    a, b = NUMBERS["hellaswag"].value, NUMBERS["hellaswag_baseline"].value
    error = math.sqrt(0.25 * 0.75 / HELLASWAG_ITEMS)
    return [
        untestable(
            "downstream_wikitext",
            GROUP,
            "At step 20,000 the 317M baseline has the lower perplexity on WikiText-103 (1,837 against 2,046).",
            ("downstream_wikitext", "downstream_baseline"),
            "No run here is scored on WikiText-103; the held-out loss at matched budget is the like. A loss of about 7.6 "
            "nats is that of "
            "a model that has hardly begun.",
            where,
        ),
        untestable(
            "downstream_tasks",
            GROUP,
            "At step 20,000 the baseline is ahead on HellaSwag (25.5 against 22.5 %) and LAMBADA (0.6 against 0.4 %).",
            ("hellaswag", "hellaswag_baseline", "lambada"),
            f"No run here is scored on these tasks. The printed difference on HellaSwag, {100 * (b - a):.1f} points, is one "
            f"standard error: "
            f"with about {HELLASWAG_ITEMS} items, as the printed digits suggest, it is {100 * error:.1f} points for each "
            f"model at chance.",
            where,
        ),
    ]


def _projections(results: ScaleResults) -> list[Claim]:
    why = (
        "A hypothesis about models of 7B and 13B, for which params.yaml has no preset; its premise, a trend over sizes, is "
        "what `make scaling` tests."
    )
    where = needs(results.params, "1570m", "sizes")
    return [
        untestable(
            "projected_gate",
            GROUP,
            "At 7B the mean gate will be 0.60 to 0.65, at 13B 0.55 to 0.60.",
            ("projected_gate",),
            why,
            where,
        ),
        untestable(
            "projected_efficiency",
            GROUP,
            "At 7B and 13B LOLM will be at least twice as efficient, with 15 to 25 % lower perplexity.",
            ("projected_efficiency", "projected_gap"),
            why,
            where,
        ),
        untestable(
            "gate_falls_with_scale",
            GROUP,
            "With scale the gate leans more on the latent stream (0.83 at 304M, 0.71 at 1.57B).",
            ("gate_20m", "gate_149m", "gate_304m", "gate_157b"),
            "One scale is no trend. The printed levels, 0.27, 0.55, 0.83, 0.71, are not monotone, and come from three "
            "recipes and from "
            "0.66 to 2.6 B tokens; the study over sizes keeps recipe and tokens a parameter.",
            where,
        ),
    ]
