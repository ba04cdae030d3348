"""What was found, in sentences that are made from verdicts and numbers: none is stronger than its verdict.

A sentence that a claim *holds* or *fails* says so in the words written here for that outcome. Of one that is inconclusive it says
that the runs do not settle it, never that there is no difference; of one that was not run, that it was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lolm.analysis.leaderboard import Entry as Row
from lolm.claims.ledger import FAILS, HOLDS, INCONCLUSIVE, NOT_RUN, UNTESTABLE, Claim, decisive
from lolm.claims.numbers import show
from lolm.claims.published import NUMBERS
from lolm.records.results import ScaleResults


@dataclass(frozen=True)
class Finding:
    """Words for one claim.

    Attributes:
        subject: what is spoken of when nothing is decided.
        holds, fails: the outcomes; followed by value and interval.
        printed: key of the published number that has the same definition as ours, if there is one.
        each: the beginning of the names of details that are said, each by its name, in the place of the claim's own number.
    """

    claim: str
    subject: str
    holds: str
    fails: str
    printed: str | None = None
    each: str = ""


@dataclass(frozen=True)
class Shared:
    """Words for one claim about several arms, said once for all of one verdict; names and numbers of the arms follow.

    Attributes:
        claim: id of the claim, with the arm's name in the braces.
        subject, holds, fails: as of a :class:`Finding`.
        detail: the number to show, a detail of the claim (default: its own).
    """

    claim: str
    subject: str
    holds: str
    fails: str
    detail: str | None = None


FINDINGS = (
    Finding(
        "efficiency_2x",
        "whether LOLM needs half the compute of the published form of the Transformer",
        "To the same loss the published form of the Transformer needs more than twice LOLM's training FLOPs",
        "To the same loss the published form of the Transformer needs less than twice LOLM's training FLOPs",
        "efficiency",
    ),
    Finding(
        "efficiency_direction",
        "whether LOLM needs less compute than the published form of the Transformer",
        "To the same loss the published form of the Transformer needs more training FLOPs than LOLM",
        "To the same loss the published form of the Transformer needs no more training FLOPs than LOLM",
    ),
    Finding(
        "efficiency_2x_modern",
        "whether LOLM needs half the compute of the modern Transformer",
        "To the same loss the modern Transformer needs more than twice LOLM's training FLOPs",
        "To the same loss the modern Transformer needs less than twice LOLM's training FLOPs",
    ),
    Finding(
        "efficiency_direction_modern",
        "whether LOLM needs less compute than the modern Transformer",
        "To the same loss the modern Transformer needs more training FLOPs than LOLM",
        "To the same loss the modern Transformer needs no more training FLOPs than LOLM",
    ),
    Finding(
        "matched_budget",
        "whether LOLM has a lower test loss than the published form of the Transformer at the same tokens",
        "At the same tokens LOLM has a lower test loss than the published form of the Transformer",
        "At the same tokens LOLM has no lower test loss than the published form of the Transformer",
    ),
    Finding(
        "matched_budget_modern",
        "whether LOLM has a lower test loss than the modern Transformer at the same tokens",
        "At the same tokens LOLM has a lower test loss than the modern Transformer",
        "At the same tokens LOLM has no lower test loss than the modern Transformer",
    ),
    Finding(
        "efficiency_2x_published",
        "whether under the published recipe LOLM needs half the compute of its baseline",
        "Under the published recipe, to the same loss, the baseline needs more than twice LOLM's training FLOPs",
        "Under the published recipe, to the same loss, the baseline needs less than twice LOLM's training FLOPs",
        "efficiency",
    ),
    Finding(
        "lead_over_published",
        "whether LOLM under the sound recipe is ahead of the Transformer under the published one (its loss minus LOLM's)",
        "LOLM under the sound recipe is ahead of the Transformer under the published one (the latter's loss minus LOLM's)",
        "LOLM under the sound recipe is not ahead of the Transformer under the published one (the latter's loss minus LOLM's)",
    ),
    Finding(
        "sound_recipe_helps",
        "whether the sound recipe helps the baseline (its test loss under the published recipe minus that under the sound one)",
        "The sound recipe helps the baseline (its test loss under the published recipe minus that under the sound one)",
        "The sound recipe does not help the baseline (its test loss under the published recipe minus that under the sound one)",
    ),
    Finding(
        "inversion_preregistered",
        "whether LOLM is inverted (its latent branch the smaller by share, yet missed more), by S",
        "LOLM is inverted: its latent branch is the smaller one by share and is missed more (S, damage without it minus damage "
        "without the surface branch)",
        "By the declared rule, which takes an S near 0 for none and is not corrected for other arms, LOLM shows no inversion "
        "(S, damage without the latent branch minus damage without the surface branch)",
    ),
    Finding(
        "inversion",
        "whether a forced gate damages LOLM more where it removes the latent branch than where it removes the surface branch",
        "By the published removal (a forced gate) the latent branch, minority or not, is missed more than the surface branch",
        "By the published removal (a forced gate) the latent branch is missed no more than the surface branch",
    ),
    Finding(
        "latent_minority",
        "whether the latent branch is the smaller part of the gated signal",
        "By its share of the gated signal the latent branch is the smaller one",
        "By its share of the gated signal the latent branch is not the smaller one",
    ),
    Finding(
        "dependency_follows_share",
        "whether over arms S follows the latent branch's share",
        "Over the arms that have LOLM's fusion, S rises with the latent branch's share (correlation over arms)",
        "Over the arms that have LOLM's fusion, S does not rise with the latent branch's share (correlation over arms)",
    ),
    Finding(
        "inversion_total",
        "whether removing z, what follows computed again, damages LOLM more than removing h",
        "Computed through, removing z damages LOLM more than removing h",
        "Computed through, removing z does not damage LOLM more than removing h",
    ),
    Finding(
        "inversion_over_training",
        "whether the inversion is there at every stage of training",
        "By the forced gate the inversion is there at every checkpoint",
        "By the forced gate the inversion is absent at one checkpoint at least (the smallest loss at g = 1 minus at g = 0)",
    ),
    Finding(
        "inversion_control",
        "whether a plain Transformer shows the same damage when its last blocks are skipped",
        "The forced gate costs LOLM more than skipping as many last blocks costs a plain Transformer",
        "The forced gate costs LOLM no more than skipping as many last blocks costs a plain Transformer",
    ),
    Finding(
        "inversion_parallel",
        "whether truly parallel paths have the same inversion statistic",
        "Truly parallel paths have the same S as the published serial wiring, within the margin",
        "Truly parallel paths differ in S from the published serial wiring",
    ),
    Finding(
        "gate_surface",
        "whether the gate favours the surface stream",
        "The mean gate lies above one half",
        "The mean gate does not lie above one half",
    ),
    Finding(
        "gate_free",
        "whether the gate ends elsewhere without the losses that set it a target",
        "Without both losses that set it a target the mean gate ends at the same level within the margin",
        "Without the losses that set it a target the mean gate ends at another level",
    ),
    Finding(
        "lead_at_largest_budget",
        "whether LOLM is ahead of the published form of the Transformer with the most tokens",
        "With the most tokens LOLM has a lower loss than the published form of the Transformer (its loss minus LOLM's)",
        "With the most tokens LOLM has a higher loss than the published form of the Transformer (its loss minus LOLM's)",
        each="at ",
    ),
    Finding(
        "lead_with_budget",
        "whether LOLM's lead over the published form of the Transformer grows with size and budget",
        "LOLM's compute multiplier against the published form of the Transformer grows with size and budget",
        "LOLM's compute multiplier against the published form of the Transformer does not grow with size and budget",
    ),
    Finding(
        "lag_with_budget",
        "whether LOLM gains on Mamba as size and budget grow",
        "LOLM's compute multiplier against Mamba grows with size and budget",
        "LOLM's compute multiplier against Mamba does not grow with size and budget",
    ),
    Finding(
        "memory_contribution",
        "whether the memory contributes to the loss through the fusion sum",
        "Taking the memory's content out of the fusion sum costs more than the margin",
        "Taking the memory's content out of the fusion sum costs no more than the margin",
    ),
    Finding(
        "regime_contribution",
        "whether the regime codes contribute to the loss through the fusion sum",
        "Taking the regime codes' content out of the fusion sum costs more than the margin",
        "Taking the regime codes' content out of the fusion sum costs no more than the margin",
    ),
    Finding(
        "cpc_chance",
        "whether the contrastive loss falls below chance",
        "The contrastive loss ends below chance, which position alone can bring about",
        "The contrastive loss does not end below chance",
    ),
    Finding(
        "retrieval_mamba",
        "whether Mamba recalls less than LOLM",
        "Mamba solves a synthetic recall task less often than LOLM",
        "Mamba solves a synthetic recall task no less often than LOLM",
    ),
    Finding(
        "neither_alone",
        "whether both a pure Mamba and a pure modern Transformer of the same size are worse than LOLM",
        "Both a pure Mamba and a pure modern Transformer of the same size are worse than LOLM (the better's loss minus LOLM's)",
        "The better of a pure Mamba and a pure modern Transformer of its size is not worse than LOLM (its loss minus LOLM's)",
    ),
)


HYBRIDS = {"samba": "Samba", "griffin": "Griffin", "jamba": "Jamba", "hymba": "Hymba-style"}
GENERALITY = (
    Shared(
        "recurrent_missed_{}",
        "whether removing all recurrent mixers costs more than removing all attention",
        "Removing all recurrent mixers costs more than removing all attention",
        "Removing all recurrent mixers costs no more than removing all attention",
    ),
    Shared(
        "type_inversion_{}",
        "whether there is an inversion, a smaller recurrent part that is missed more",
        "There is an inversion (a smaller recurrent part that is missed more): the recurrent mixers' share of what mixers write",
        "There is no inversion (a smaller recurrent part that is missed more): the recurrent mixers' share of what mixers write",
        "recurrent share",
    ),
)
# What is said in one sentence each, by the claims that decide it.
SUMMARY = {
    "Efficiency": ("efficiency_2x", "sound_recipe_helps", "lead_over_published", "efficiency_direction_modern", "neither_alone"),
    "Inversion": ("inversion_preregistered", "inversion", "dependency_follows_share"),
}
BUDGET = ("lead_at_largest_budget", "lead_with_budget", "lag_with_budget")  # once the study over sizes and budgets is whole


def summary(claims: Sequence[Claim]) -> dict[str, str]:
    """A sentence each on efficiency, inversion, generality and, where it was run, budget, of the claims of a merged ledger."""
    known, words = {claim.id: claim for claim in claims}, {finding.claim: finding for finding in FINDINGS}
    said = {topic: [sentence(words[id], known[id]) for id in ids if id in known] for topic, ids in SUMMARY.items()}
    said["Generality"] = generality(claims)
    said["Budget"] = [sentence(words[id], known[id]) for id in BUDGET if id in known and known[id].verdict != NOT_RUN]
    return {topic: _joined(parts) for topic, parts in said.items() if parts}


def generality(claims: Sequence[Claim]) -> list[str]:
    """What is found of the hybrids among the arms: a sentence for each claim and verdict."""
    known = {claim.id: claim for claim in claims}
    said = []
    for shared in GENERALITY:
        by_verdict: dict[str, dict[str, Claim]] = {}
        for arm, label in HYBRIDS.items():
            if claim := known.get(shared.claim.format(arm)):
                by_verdict.setdefault(claim.verdict, {})[label] = claim
        said += [_shared_sentence(shared, verdict, of) for verdict, of in by_verdict.items()]
    return said


def _shared_sentence(shared: Shared, verdict: str, of: dict[str, Claim]) -> str:
    """What one verdict on several arms, by label, allows to be said."""
    if verdict == NOT_RUN:
        return f"Not run: {shared.subject}, in {_listed(list(of))} (`{next(iter(of.values())).command}`)."
    if verdict not in (HOLDS, FAILS, INCONCLUSIVE):
        return f"Not testable at this scale: {shared.subject}, in {_listed(list(of))}."
    words = {HOLDS: shared.holds, FAILS: shared.fails, INCONCLUSIVE: f"Not settled by these runs: {shared.subject}"}[verdict]
    shown, seeds = [], set()
    for label, claim in of.items():
        quantity = claim.sound if shared.detail is None else claim.details.get(shared.detail)
        measured = quantity is not None and quantity.value is not None
        shown.append(f"{label} {quantity.shown_whole}" if quantity is not None and measured else label)
        seeds |= {quantity.n_seeds} if quantity is not None and measured else set()
    return f"{words}: {_listed(shown)}{_over(min(seeds), max(seeds)) if seeds else ''}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _joined(sentences: Sequence[str]) -> str:
    """One sentence of several."""
    first, *rest = (text.removesuffix(".") for text in sentences)
    return f"{'; '.join([first, *map(_inside, rest)])}."


def _inside(text: str) -> str:
    """A sentence as it stands inside another: its first letter is small, but of what has no small letters, as LOLM and S."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def sentence(finding: Finding, claim: Claim) -> str:
    """What a claim's verdict and number allow to be said."""
    if claim.verdict in (HOLDS, FAILS):
        words = finding.holds if claim.verdict == HOLDS else finding.fails
        return f"{words}{_number(claim, finding)}."
    if claim.verdict == INCONCLUSIVE:
        number = _number(claim, finding) or f" ({_inside(claim.why.partition('.')[0])})"
        return f"Not settled by these runs: {finding.subject}{number}."
    if claim.verdict == NOT_RUN:
        return f"Not run: {finding.subject} (`{claim.command}`)."
    return f"Not testable at this scale: {finding.subject}."


def _number(claim: Claim, finding: Finding) -> str:
    if finding.each:
        shown = [f"{q.shown_whole} {name}" for name, q in claim.details.items() if name.startswith(finding.each) and q.value]
        return f": {_listed(shown)}" if shown else ""
    if claim.sound is None or claim.sound.value is None:
        return ""
    over = f" over {claim.sound.counted}" if claim.sound.counted else ""
    text = f": {claim.sound.shown_whole}{over}"
    if finding.printed is not None:
        text += f" (the authors print {show(NUMBERS[finding.printed].value, NUMBERS[finding.printed].unit)})"
    return text


def _over(least: int, most: int) -> str:
    if not most:
        return ""
    return f" over {most} {'seed' if most == 1 else 'seeds'}" if least == most else f" over {least} to {most} seeds"


def tally(claims: Sequence[Claim]) -> str:
    """Of the published facts, each counted once: how many hold, fail, are open, and were not run."""
    counted = decisive(claims)
    supports = [claim for claim in counted if not claim.against]
    held, failed, admitted = (
        [claim.statement for claim in some if claim.verdict == verdict]
        for some, verdict in ((supports, HOLDS), (supports, FAILS), ([c for c in counted if c.against], HOLDS))
    )
    unsettled, unrun, untestable = (
        sum(claim.verdict == verdict for claim in supports) for verdict in (INCONCLUSIVE, NOT_RUN, UNTESTABLE)
    )
    text = (
        f"Of the claims with published numbers, each fact counted once, {len(held)} in LOLM's favour "
        f"{'holds' if len(held) == 1 else 'hold'} here, {len(failed)} {'fails' if len(failed) == 1 else 'fail'}, {unsettled} "
        f"{'is' if unsettled == 1 else 'are'} not settled, {unrun} {'was' if unrun == 1 else 'were'} not run and {untestable} "
        "cannot be tested at this scale."
    )
    text += f" What holds: {' '.join(held)}" if held else ""
    return text + (f" What holds of what speaks against LOLM: {' '.join(admitted)}" if admitted else "")


def ranking(results: ScaleResults, rows: Sequence[Row]) -> str | None:
    """Which arm of a study has the lowest test loss, where the subject stands, and how many differ from it after correction."""
    ranked = [row for row in rows if row.nats is not None]
    if len(ranked) < 3:
        return None
    best, board = ranked[0], {row.arm: row for row in ranked}
    subject = board.get(results.subject or "")
    text = f"Lowest mean test loss of {len(ranked)} arms: “{best.label}”"
    text += f", {show(best.nats.value, 'nats')}" if best.nats else ""
    if subject is not None and subject is not best:
        text += f"; “{subject.label}” is number {ranked.index(subject) + 1}"
    level = 1 - results.analysis.confidence
    compared = [row.comparison for row in ranked if row.comparison is not None and not row.comparison.declared]
    shown = [c.difference.value for c in compared if c.p_value is not None and c.p_value < level]
    if compared:
        text += f". Shown to differ from the subject after Holm's correction: {len(shown)} of {len(compared)} other arms, "
        text += f"{sum(difference < 0 for difference in shown)} of them better"
    return f"{text}."
