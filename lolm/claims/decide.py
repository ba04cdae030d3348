"""From an entry and the results of a study to a claim with its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lolm.analysis.statistics import Estimate
from lolm.claims.controls import CONTROLS, ON_ARMS
from lolm.claims.cost import Counting, Needs, needs
from lolm.claims.entry import Context, Entry, NotRun, Reading, Undecided
from lolm.claims.ledger import DECIDED, INCONCLUSIVE, NOT_RUN, UNTESTABLE, Claim, Control, Quantity, runs_of
from lolm.claims.measures.common import another_baseline, mismatch
from lolm.claims.numbers import show_interval
from lolm.claims.published import NUMBERS
from lolm.claims.rules import Rule
from lolm.records.results import ScaleResults


def decide(
    entry: Entry,
    results: ScaleResults,
    entries: Mapping[str, Entry],
    counting: Counting | None = None,
    others: Sequence[ScaleResults] = (),
) -> Claim:
    """The claim of an entry by one study's results; what these do not hold gives ``not run``, never an error.

    Args:
        others: other studies of the same scale, in which a control on an arm that these results lack is looked up.

    Raises:
        RecordError: from the records, where one is broken.
    """
    context = Context(results, entry, entries, lambda other: decide(other, results, entries, counting), counting)
    elsewhere = entry.scale is not None and entry.scale != results.scale
    try:
        if wrong := _of_other_arms(entry, results):
            raise NotRun(wrong)
        reading = entry.measure(context)
    except Undecided as missing:
        return _undecided(context, missing, elsewhere)
    ours, sound = _numbers(entry, reading)
    if elsewhere:
        return _elsewhere(context, ours or sound)
    verdict, why = _judged(entry, results, reading)
    rule = reading.rule if reading.verdict else entry.rule
    judged = _quantity(reading.judged or reading.sound, _judged_unit(entry, reading), "", None, reading)
    claim = _claim(
        entry,
        results,
        verdict=verdict,
        why=why,
        as_published=ours,
        sound=sound,
        rule=_rule(entry, results, reading),
        runs=runs_of(reading.runs),
        details=dict(reading.details),
        controls=reading.controls + _controls(entry, results, others),
        figure=entry.figure if verdict != UNTESTABLE else None,
        needs=_further(context),
        judged=judged,
        judged_at=() if rule is None else rule.thresholds(results.analysis),
    )
    return _incomplete(context, claim)


def _of_other_arms(entry: Entry, results: ScaleResults) -> str | None:
    """Why a study's arms are not those that the statement is about; None where they are."""
    params, own = results.params, results.params.selected
    if entry.pair and (wrong := another_baseline(results)):
        return wrong
    if entry.recipe and (asked := params.studies.get(entry.study)):
        for mine, said in ((own.subject, asked.subject), (own.baseline, asked.baseline)):
            ours, theirs = params.architectures.get(mine), params.architectures.get(said)
            if ours and theirs and ours.recipe != theirs.recipe:
                return f"{ours.label} has another recipe than {theirs.label}, of which this is said"
    return None


def withheld(claim: Claim, arms: str) -> Claim:
    """The numbers of a claim without its verdict: models that know less than a bigram model are no test of anything."""
    if claim.verdict not in DECIDED:
        return claim
    why = f"Withheld: no better than a bigram model: {arms}. The rule alone would say: {claim.verdict}. {claim.why}"
    return replace(claim, verdict=UNTESTABLE, why=why)


def _claim(entry: Entry, results: ScaleResults, **found) -> Claim:
    about = {"as_published": None, "sound": None, "study": entry.study, "caveats": entry.caveats} | found
    if about["verdict"] in DECIDED and entry.group != "budgets":  # which the record over scales decides
        about["study"] = results.study
    return Claim(
        id=entry.id,
        group=entry.group,
        statement=entry.statement,
        published=entry.published,
        stated=entry.stated,
        fact=entry.fact,
        against=entry.against,
        trained_for=entry.trained_for,
        **about,
    )


def _undecided(context: Context, missing: Undecided, elsewhere: bool) -> Claim:
    entry, results = context.entry, context.results
    verdict, why = missing.verdict, str(missing)
    if elsewhere:
        verdict, why = UNTESTABLE, _another_model(entry, results)
    elif verdict == NOT_RUN and not (results.runs or results.diverged):
        why = f"study {entry.study} was not run at scale {results.scale}"
    elif verdict == NOT_RUN:
        if any(not results.of(run.arm) for run in results.diverged if run.arm in entry.arms(results)):
            verdict = INCONCLUSIVE  # it was run: every run of an arm diverged
        why = f"{_sentence(why)}{_diverged(entry, results)}"
        why += f" Study {entry.study} tests it." if verdict == NOT_RUN and entry.study != results.study else ""
    scale = entry.scale or (entry.further_scale if verdict == UNTESTABLE else None) or results.scale
    wanted = None
    if verdict != INCONCLUSIVE:
        wanted = needs(results.params, scale, entry.study, context.counting, over_scales=entry.group == "budgets")
    return _claim(entry, results, verdict=verdict, why=_sentence(why), needs=wanted)


def _elsewhere(context: Context, ours: Quantity | None) -> Claim:
    """The level of a model that these runs are not: our number beside it, no verdict."""
    entry, results = context.entry, context.results
    if ours is not None:
        note = f"These runs are of scale {results.scale}, another model."
        ours = replace(ours, note=note)
    wanted = needs(results.params, entry.scale or results.scale, entry.study, context.counting)
    return _claim(entry, results, verdict=UNTESTABLE, why=_another_model(entry, results), as_published=ours, needs=wanted)


def _another_model(entry: Entry, results: ScaleResults) -> str:
    where = NUMBERS[entry.published[0]].where
    return f"The number is that of one model: {where}; these runs are of scale {results.scale}."


def _numbers(entry: Entry, reading: Reading) -> tuple[Quantity | None, Quantity | None]:
    ours = _quantity(
        reading.published, entry.published_unit or entry.unit, entry.published_definition, reading.published_note, reading
    )
    sound = _quantity(reading.sound, entry.unit, entry.definition, reading.note, reading)
    return ours, sound


def _quantity(value: Estimate | float | None, unit: str, definition: str, note: str | None, reading: Reading) -> Quantity | None:
    text = definition.format_map(reading.values) if definition else ""
    if isinstance(value, Estimate):
        return Quantity.of(value, unit, text, note)
    if value is not None:
        return Quantity(value, unit, text, note=note)
    return Quantity.missing(unit, text, note) if note and definition else None


def _judged_unit(entry: Entry, reading: Reading) -> str:
    return str(reading.values.get("judged_unit", entry.unit))


def _judged(entry: Entry, results: ScaleResults, reading: Reading) -> tuple[str, str]:
    judged = reading.judged or reading.sound
    unit = _judged_unit(entry, reading)
    if reading.verdict is not None:
        verdict, why = reading.verdict, reading.why or ""
        if reading.rule is not None and isinstance(judged, Estimate):
            why += _unpooled(reading.rule, results, judged, unit, verdict)
    elif entry.rule is not None and isinstance(judged, Estimate):
        verdict = entry.rule.verdict(judged, results.analysis)
        lead = entry.lead.format_map(reading.values)
        why = reading.why or f"{lead}: {entry.rule.why(judged, unit, results.analysis)}."
        why += _unpooled(entry.rule, results, judged, unit, verdict)
    else:
        raise ValueError(f"claim {entry.id}: neither a rule nor its measure decides")
    if entry.pair and verdict in DECIDED and (unmatched := mismatch(results)):
        verdict, why = INCONCLUSIVE, f"{unmatched}. {why}"
    return verdict, f"{why}{' ' if reading.more else ''}{reading.more}{_diverged(entry, results)}"


def _unpooled(rule: Rule, results: ScaleResults, judged: Estimate, unit: str, verdict: str) -> str:
    """Says where a verdict rests on a variance that arms share."""
    alone = judged.own
    if alone is None or alone.interval is None or (other := rule.verdict(alone, results.analysis)) == verdict:
        return ""
    return (
        f" The variance over seeds is pooled over {judged.arms} arms; by its own alone, over {alone.n} seeds, the interval is "
        f"{show_interval(*alone.interval, unit)}, which is {other}."
    )


def _rule(entry: Entry, results: ScaleResults, reading: Reading) -> str:
    if entry.rule_text or entry.rule is None:
        values = {field: getattr(results.analysis, field) for field in type(results.analysis).__dataclass_fields__}
        return entry.rule_text.format_map(values | dict(reading.values)) + reading.rule_note
    return entry.rule.text(_judged_unit(entry, reading), results.analysis) + reading.rule_note


def _controls(entry: Entry, results: ScaleResults, others: Sequence[ScaleResults]) -> tuple[Control, ...]:
    made = [(name, control) for name in entry.controls for control in CONTROLS[name](results)]
    return tuple(_of_another(name, one, results, others) if one.quantity.value is None else one for name, one in made)


def _of_another(name: str, control: Control, results: ScaleResults, others: Sequence[ScaleResults]) -> Control:
    """A control on another arm by a study that has that arm, if there is one."""
    for other in others if name in ON_ARMS else ():
        if ON_ARMS[name] and other.subject != results.subject:
            continue
        for same in CONTROLS[name](other):
            if same.name == control.name and same.quantity.value is not None:
                return replace(control, quantity=replace(same.quantity, note=f"In study {other.study}."))
    return control


def _further(context: Context) -> Needs | None:
    """Where more is to be had, if that is not these runs."""
    entry, results = context.entry, context.results
    scale, study = entry.further_scale or results.scale, entry.further_study
    return (
        None
        if study is None or (scale, study) == (results.scale, results.study)
        else needs(results.params, scale, study, context.counting)
    )


def _incomplete(context: Context, claim: Claim) -> Claim:
    """A claim that lacks seeds is not decided: which seeds were run must not depend on what they showed."""
    entry, results = context.entry, context.results
    lacking = [key for key in results.missing if key.arm in entry.arms(results)]
    if not lacking or claim.verdict not in DECIDED:
        return claim
    named = ", ".join(map(str, lacking))
    why = f"Not yet run: {named}. The rule alone would say of what is there: {claim.verdict}. {claim.why}"
    return replace(claim, verdict=NOT_RUN, why=why, needs=needs(results.params, results.scale, results.study, context.counting))


def _diverged(entry: Entry, results: ScaleResults) -> str:
    arms = entry.arms(results)
    gone = [run for run in results.diverged if run.arm in arms]
    return "".join(f" {results.label(run.arm)}, seed {run.seed}, diverged at step {run.step:,}." for run in gone)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
