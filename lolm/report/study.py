"""The page of one study: what it found, its leaderboard, its part of the ledger, its figures; and the ledger as Markdown.

No request leaves the page: style and figures are inline, the data behind each figure is a table and a ``data:`` link.
The output is a function of the records alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lolm.analysis.leaderboard import Entry, leaderboard
from lolm.claims.build import has_lolm
from lolm.claims.ledger import FAILS, GROUPS, HOLDS, INCONCLUSIVE, NOT_RUN, VERDICTS, Claim
from lolm.claims.numbers import show_estimate, show_level
from lolm.claims.published import NUMBERS
from lolm.claims.sentences import ranking
from lolm.config import flatten
from lolm.records import Layout, RunKey, made_by
from lolm.records.results import ScaleResults
from lolm.report import rows, tables
from lolm.report.definitions import definitions
from lolm.report.figures import left_out
from lolm.report.figures.picture import Picture
from lolm.report.figures.style import between
from lolm.report.render import cell, figure, render, slug

UNCOUNTED = ("arithmetic", "sanity")  # groups that say nothing of what these runs decide for
SECONDS = (
    "Seconds compare only between runs of one machine with the same kernels, made one at a time (`make repro JOBS=1`); of runs "
    "that were made side by side they are left out."
)


@dataclass(frozen=True)
class Absent:
    """A run that the study asks for and that its numbers do not contain."""

    name: str
    why: str


def own_claims(results: ScaleResults, ledger: Sequence[Claim]) -> list[Claim]:
    """The entries that a study's page shows; no figure that was not drawn.

    Entries that another study tests, and that this one says nothing about, are left to the front page.
    """
    missing = {entry.name for entry in left_out(results)}
    return [
        replace(claim, figure=None) if claim.figure in missing else claim
        for claim in ledger
        if claim.study in ("", results.study) or (claim.verdict != NOT_RUN and claim.group != "budgets")
    ]


def absent(results: ScaleResults, stale: Sequence[RunKey] = ()) -> list[Absent]:
    """Runs that are not in the numbers, with the reason: diverged, stale (made under other parameters or data), not made."""

    def name(arm: str, seed: int) -> str:
        return f"{results.label(arm)} · {results.scale} · seed {seed}"

    found = [Absent(name(d.arm, d.seed), f"diverged: {d.reason or f'its loss at step {d.step:,}'}") for d in results.diverged]
    for key in results.missing:
        why = "was made under other parameters than the present ones, so it is left out" if key in stale else "was not run"
        found.append(Absent(name(*key), why))
    return found


def _stale(results: ScaleResults) -> list[str]:
    """Measurements that are not in the numbers, being of another model, each with the command that makes it again."""
    folder = Layout(results.scale).reports
    return [
        f"{run.name}, `{stage}`: `{made_by(folder / stage / f'{run.key}.json')}`" for run in results.runs for stage in run.stale
    ]


def study_page(
    results: ScaleResults,
    ledger: Sequence[Claim],
    pictures: Sequence[Picture],
    stale: Sequence[RunKey] = (),
    benchmark: dict[str, Any] | None = None,
) -> str:
    """``report.html`` of a study.

    Args:
        ledger: of this study (:func:`own_claims` is applied here).
        pictures: of :func:`lolm.report.figures.pictures`, and whatever else is to be shown.
        stale: runs among ``results.missing`` that left a record of other parameters.
        benchmark: the record of `make bench` where there is one.
    """
    return render(
        "study.html",
        **_context(results, ledger, stale),
        figures=[figure(picture) for picture in pictures],
        left_out=left_out(results),
        drawn={picture.name: picture.title for picture in pictures},
        arms_columns=rows.ARMS,
        changes=rows.changes(results),
        comparisons=rows.comparisons(results),
        dependency=rows.dependency(results),
        dependency_columns=rows.DEPENDENCY,
        samples=rows.samples(results),
        downstream=rows.downstream(results),
        runs=rows.runs(results),
        corpus=[(key, cell(value)) for key, value in flatten(results.corpus).items() if not isinstance(value, list | dict)],
        machine=None if benchmark is None else benchmark["machine"],
        speed=[] if benchmark is None else rows.speed(benchmark),
    )


def study_markdown(results: ScaleResults, ledger: Sequence[Claim], stale: Sequence[RunKey] = ()) -> str:
    """``claims.md`` of a study: its ledger as a referee's report."""
    return render("study.md", **_context(results, ledger, stale))


def _context(results: ScaleResults, ledger: Sequence[Claim], stale: Sequence[RunKey]) -> dict[str, Any]:
    shown = own_claims(results, ledger)
    entries = leaderboard(results)
    return {
        "lolm": has_lolm(results.params, results.study),
        "results": results,
        "study": results.study,
        "title": title(results),
        "absent": absent(results, stale),
        "stale": _stale(results),
        "command": f"make repro SCALE={results.scale} STUDY={results.study}",
        "groups": grouped(shown),
        "counts": counts(shown),
        "elsewhere": len(ledger) - len(shown) if has_lolm(results.params, results.study) else 0,
        "level": show_level(results.analysis.confidence),
        "covers": covers(entries),
        "machine_note": SECONDS,
        "solved": f"{results.analysis.solved_accuracy:g}",
        "subject": results.label(results.subject) if results.subject else None,
        "baseline": results.label(results.baseline) if results.baseline else None,
        "scope": _scope(results),
        "arms": rows.arms(results),
        "losses": rows.losses(results),
        "columns": rows.LEADERBOARD,
        "leaderboard": rows.leaderboard(results, entries),
        "findings": found(results, entries),
        "sides": _sides(shown),
        "published": NUMBERS,
        "definitions": definitions(results),
    }


def covers(entries: Sequence[Entry]) -> str:
    """What the intervals of a leaderboard's losses cover."""
    found = [entry.nats for entry in entries if entry.nats is not None and entry.nats.interval is not None]
    if not found:
        return "One seed gives no interval."
    alone = sum(one.text_error is None for one in found)
    if not alone:
        return (
            "Intervals of losses, their differences and multipliers cover seeds and the choice of text, so do those of S where "
            "`covers` in claims.json says it; all others cover seeds alone."
        )
    return "They cover seeds alone" + (
        ", not the choice of text: the evaluation is older than its losses by piece of text."
        if alone == len(found)
        else f" for {alone} of {len(found)} arms, whose evaluation has no losses by piece of text; elsewhere text too."
    )


def title(results: ScaleResults) -> str:
    """Of the page: LOLM stands in it only where the study has one."""
    if has_lolm(results.params, results.study):
        return "LOLM: what was claimed and what was measured"
    labels = [results.label(arm) for arm in results.params.selected.arms]
    return f"{labels[0]} and {labels[1]}, measured" if len(labels) == 2 else f"{len(labels)} models, measured"


def found(results: ScaleResults, entries: Sequence[Entry]) -> list[str]:
    """What the study's runs show, in a few sentences: the declared comparison, then the whole field."""
    if not results.runs:
        return [f"No run of this study was made at scale {results.scale}."]
    texts, board = [], {entry.arm: entry for entry in entries}
    subject, baseline = board.get(results.subject or ""), board.get(results.baseline or "")
    if subject and baseline:
        ours, theirs = f"“{subject.label}”", f"“{baseline.label}”"
        texts.append(
            f"To the same loss, {theirs} needs {show_estimate(subject.multiplier, 'x')} the training FLOPs of {ours}."
            if subject.multiplier
            else f"To the same loss, the FLOPs of {theirs} over those of {ours} cannot be measured without extrapolation."
        )
        gap = subject.parameters / baseline.parameters - 1
        if results.params.selected.matched and abs(gap) > results.analysis.parameter_tolerance:
            texts[-1] += f" The arms are not matched: {ours} has {100 * gap:+.1f} % parameters.".replace("-", "−")
        if baseline.comparison is not None:
            difference = baseline.comparison.difference.map(lambda nats: -nats)
            texts.append(f"At equal tokens, test loss of {ours} minus {theirs}: {show_estimate(difference, 'nats')}.")
    texts += [text] if (text := ranking(results, entries)) else []
    if len(results.seeds) == 1:
        texts.append("One seed gives no interval, so no measured claim is decided.")
    return texts


def grouped(claims: Sequence[Claim]) -> list[tuple[str, str, list[Claim]]]:
    """(key, title, claims) of each group that has any."""
    found = [(key, title, [claim for claim in claims if claim.group == key]) for key, title in GROUPS.items()]
    return [group for group in found if group[2]]


def counts(claims: Sequence[Claim]) -> list[tuple[str, int]]:
    """How many measured claims have each verdict."""
    counted = [claim for claim in claims if claim.group not in UNCOUNTED]
    return [(verdict, sum(claim.verdict == verdict for claim in counted)) for verdict in VERDICTS] if counted else []


def _sides(claims: Sequence[Claim]) -> list[tuple[str, list[Claim]]]:
    """The authors' measured claims by verdict, as a referee lists them: what fails first, what is undecided left out."""
    counted = [claim for claim in claims if claim.authors and claim.group not in UNCOUNTED]
    titles = {FAILS: "Not supported", INCONCLUSIVE: "Not settled", HOLDS: "Supported"}
    sides = [(title, [claim for claim in counted if claim.verdict == verdict]) for verdict, title in titles.items()]
    return [(title, claims) for title, claims in sides if claims]


def _scope(results: ScaleResults) -> dict[str, str]:
    runs = results.runs
    return {
        "arms": f"{len(results.arms)} {'arm' if len(results.arms) == 1 else 'arms'}",
        "seeds": f"{len(results.seeds)} {'seed' if len(results.seeds) == 1 else 'seeds'} ({', '.join(map(str, results.seeds))})",
        "tokens": between([run.summary.tokens for run in runs]),
        "steps": between([run.summary.step for run in runs]),
        "test_tokens": between([run.evaluation.tokens for run in runs if run.evaluation is not None]),
        "on": _on(results),
        "vocabulary": between([run.header.run.vocab_size for run in runs]),
    }


def _on(results: ScaleResults) -> str:
    """On how many test tokens each kind of intervention was measured."""
    scored = {
        "streams and gate": [run.ablation.tokens for run in results.runs if run.ablation is not None],
        "layers": [run.by_layer.tokens for run in results.runs if run.by_layer is not None],
    }
    return " and ".join(f"interventions on {what} on {between(tokens)}" for what, tokens in scored.items() if tokens)


def curves(results: ScaleResults) -> pd.DataFrame:
    """``learning_curves.csv`` for `dvc plots`: the validation loss of every arm, mean over seeds, a curve by arm."""
    table = tables.learning_curves(results)
    means = table.groupby(["arm", "step"], sort=False)[["tokens", "val_nats"]].mean().reset_index()
    means["arm"] = [results.label(arm) for arm in means["arm"]]
    return means[["arm", "tokens", "val_nats"]]


def headline(results: ScaleResults, entries: Sequence[Entry], ledger: Sequence[Claim]) -> dict[str, float]:
    """``summary.json`` for `dvc metrics show`: few numbers of a study, the declared comparison first."""
    board = {entry.arm: entry for entry in entries}
    subject, baseline = board.get(results.subject or ""), board.get(results.baseline or "")
    numbers: dict[str, Any] = {
        "subject_test_nats": subject and subject.nats and subject.nats.value,
        "baseline_test_nats": baseline and baseline.nats and baseline.nats.value,
        "flop_multiplier": subject and subject.multiplier and subject.multiplier.value,
        **{f"verdicts/{slug(verdict).replace('-', '_')}": n for verdict, n in counts(own_claims(results, ledger))},
        "runs": len(results.runs),
        "runs_absent": len(absent(results)),
    }
    return {name: value for name, value in numbers.items() if value is not None}
