"""The front page over all studies of a scale: the headline questions, then each claim once, by the study that tests it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lolm.claims.build import modern
from lolm.claims.ledger import DECIDED, NOT_RUN, UNTESTABLE, Claim, Control
from lolm.claims.numbers import show_level
from lolm.claims.published import NUMBERS
from lolm.claims.registry import ENTRIES
from lolm.claims.sentences import FINDINGS, HYBRIDS, generality, sentence, summary, tally
from lolm.config import Params, arms_of
from lolm.records.results import ScaleResults
from lolm.report import rows
from lolm.report.figures import FIGURES
from lolm.report.figures.budgets import budgets_picture
from lolm.report.render import described, render
from lolm.report.study import SECONDS, absent, counts, grouped

LABORATORY = ("inversion", "hybrids", "components", "gate", "streams")  # groups of claims
CONTROLS = 4  # of a claim, shown with the answer to its question


@dataclass(frozen=True)
class Question:
    """A question that a reader comes with, and the entries that answer it, the deciding ones first.

    Attributes:
        figure: name of the figure that shows the answer.
    """

    text: str
    claims: tuple[str, ...]
    figure: str | None = None


BUDGETS = "Does its lead last, and grow, with size and budget?"
QUESTIONS = (
    Question(
        "Is the 2× true?",
        (
            *("efficiency_2x", "efficiency_2x_published", "efficiency_2x_modern"),
            *("efficiency_direction", "efficiency_direction_published", "efficiency_direction_modern"),
        ),
        "multipliers",
    ),
    Question(
        "Is its perplexity 25.9 % lower?",
        (
            *("gap_25_9", "matched_budget", "matched_budget_modern", "lead_over_published", "sound_recipe_helps"),
            "arithmetic_25_9",
        ),
    ),
    Question(
        "Does it depend on its minority branch (dependency inversion)?",
        (
            "inversion_preregistered",
            "latent_minority",
            "dependency_follows_share",
            "inversion_total",
            "inversion_null",
            "inversion_control",
            "damage_is_information",
            "inversion",
        ),
        "dependency_share",
    ),
    Question(
        "Is the inversion a property of hybrids?",
        (
            *(f"{claim}_{arm}" for claim in ("type_inversion", "recurrent_missed") for arm in HYBRIDS),
            "types_labellings",
            "recurrent_beyond_random",
        ),
        "type_statistic",
    ),
    Question(
        "Does the gate find its level, and does it say who contributes?",
        ("gate_target", "gate_free", "gate_surface", "gate_reversal", "gate_share"),
    ),
    Question(
        BUDGETS,
        (
            "lead_at_largest_budget",
            "lead_at_largest_budget_modern",
            "lead_with_budget",
            "lead_with_budget_modern",
            "lag_with_budget",
            "latent_value_grows",
        ),
    ),
)


@dataclass(frozen=True)
class StudyLine:
    """One study in the list of studies: what it compares, how much of it was run, where its page is."""

    name: str
    page: str | None  # its folder
    arms: str
    seeds: str
    state: str
    command: str


def study_lines(
    params: Params, scale: str, results_by_study: Mapping[str, ScaleResults], pages: Collection[str]
) -> list[StudyLine]:
    """Every study of ``params.yaml`` that can be made at the scale, or at one of its own, run ones first. Of the study over sizes
    and budgets only what is made at this scale: the whole of it is one of the questions."""
    lines = []
    for name, study in params.studies.items():
        at = study.scale or scale
        if not params.is_made_for(name, at) or not set(study.arms) <= set(arms_of(params, at)):
            continue
        results = results_by_study.get(name)
        made = len(results.runs) if results else 0
        asked = len(study.arms) * len(study.seeds)
        state = "not run" if not made else f"{made} runs" if made == asked else f"{made} of {asked} runs"
        state += f", {len(results.diverged)} diverged" if results and results.diverged else ""
        labels = [params.architectures[arm].label for arm in study.arms]
        lines.append(
            StudyLine(
                name,
                name if name in pages else None,
                " · ".join(labels) if len(labels) < 5 else f"{' · '.join(labels[:3])} and {len(labels) - 3} more",
                ", ".join(map(str, study.seeds)),
                state,
                f"make repro SCALE={at} STUDY={name}" if made < asked else "",
            )
        )
    return sorted(lines, key=lambda line: line.page is None)


def front_page(
    scale: str,
    params: Params,
    results_by_study: Mapping[str, ScaleResults],
    claims: Sequence[Claim],
    pages: Collection[str],
    figures: Mapping[str, Mapping[str, str]],
    here: str = "",
    scales: Mapping[str, str] | None = None,
) -> str:
    """``index.html`` over all studies of a scale.

    Args:
        results_by_study: of the studies that have a run.
        claims: the merged ledger, each claim once.
        pages: studies that have a page.
        figures: of :func:`front_figures`.
        here: path from the page to the folder of the studies' pages, ``tiny/`` for the page above the scales.
        scales: path from the page to the front page of every other scale with results, by its name.
    """
    context = _context(scale, params, results_by_study, claims, pages, here)
    return render("front.html", **context, figures=figures, scales=scales or {})


def front_markdown(
    scale: str,
    params: Params,
    results_by_study: Mapping[str, ScaleResults],
    claims: Sequence[Claim],
    pages: Collection[str],
    here: str = "",
) -> str:
    """``claims.md`` over all studies of a scale."""
    return render("front.md", **_context(scale, params, results_by_study, claims, pages, here))


def readme_block(scale: str, params: Params, claims: Sequence[Claim]) -> str:
    """What the README says was found: the headline claims with their numbers and verdicts, made from the ledger alone."""
    by_id = {claim.id: claim for claim in claims}
    said = [by_id[finding.claim] for finding in FINDINGS if finding.claim in by_id]
    missing = {verdict: sum(claim.verdict == verdict for claim in said) for verdict in (NOT_RUN, UNTESTABLE)}
    measured = [claim for claim in said if claim.verdict not in missing and claim.group != "budgets"]  # those are of other scales
    level = show_level(params.analysis.confidence)
    return render(
        "readme.md",
        scale=scale,
        level=level,
        claims=measured,
        missing=missing,
        tally=tally(claims),
        summary=summary(claims),
    )


def laboratory_block(scale: str, params: Params, claims: Sequence[Claim]) -> str:
    """What the page on the laboratory says was found: every decided claim that interventions or streams decide, as above."""
    said = [claim for claim in claims if claim.group in LABORATORY and claim.verdict in DECIDED and claim.sound is not None]
    level = show_level(params.analysis.confidence)
    return render("readme.md", scale=scale, level=level, claims=said, missing={}, tally="", summary={}, here="../")


def pointer(target: str, title: str) -> str:
    """A page that does nothing but lead to another."""
    return render("pointer.html", target=target, title=title)


def _context(
    scale: str,
    params: Params,
    results_by_study: Mapping[str, ScaleResults],
    claims: Sequence[Claim],
    pages: Collection[str],
    here: str,
) -> dict[str, Any]:
    by_id = {claim.id: claim for claim in claims}
    said = {finding.claim: sentence(finding, by_id[finding.claim]) for finding in FINDINGS if finding.claim in by_id}
    own = {modern(entry).id: entry.id for entry in ENTRIES if entry.modern}  # its id in the ledger of the study that decides it
    questions = []
    for question in QUESTIONS:
        entries = [by_id[id] for id in question.claims if id in by_id]
        if entries:
            own_words = [said.pop(claim.id) for claim in entries if claim.id in said]
            questions.append((question.text, [*own_words, *generality(entries)], entries))
    return {
        "scale": scale,
        "here": here,
        "level": show_level(params.analysis.confidence),
        "studies": study_lines(params, scale, results_by_study, pages),
        "absent": {name: gone for name in pages if name in results_by_study and (gone := absent(results_by_study[name]))},
        "questions": questions,
        "more": list(said.values()),
        "tally": tally(claims),
        "costs": costs(results_by_study),
        "cost_columns": rows.ARMS,
        "machine_note": SECONDS,
        "groups": grouped(claims),
        "counts": counts(claims),
        "not_run": _by_command([claim for claim in claims if claim.verdict == NOT_RUN]),
        "published": NUMBERS,
        "pages": pages,
        "controls": _controls,
        "anchor": lambda claim: own.get(claim.id, claim.id),
    }


def costs(results_by_study: Mapping[str, ScaleResults]) -> list[rows.Row]:
    """Size and cost of every arm that was run, each once, by the study with most runs of it."""
    found: dict[str, rows.Row] = {}
    for results in sorted(results_by_study.values(), key=lambda results: -len(results.seeds)):
        for row in rows.arms(results):
            found.setdefault(row.note, row)
    return list(found.values())


def _controls(claim: Claim) -> tuple[list[Control], int]:
    """The controls of a claim that stand beside it in the answer, and how many more its entry has.

    Other readings of the same statistic come after what could explain it away.
    """
    measured = [control for control in claim.controls if control.quantity.value is not None]
    measured.sort(key=lambda control: control.name.startswith("S, "))
    return measured[:CONTROLS], len(measured[CONTROLS:])


def _by_command(claims: Sequence[Claim]) -> list[tuple[str, list[Claim]]]:
    """Claims that were not run under the command that runs what they take, the command that tests most first."""
    found: dict[str, list[Claim]] = {}
    for claim in claims:
        found.setdefault(claim.command or "", []).append(claim)
    return sorted(found.items(), key=lambda item: -len(item[1]))


def front_figures(results_by_study: Mapping[str, ScaleResults], claims: Sequence[Claim]) -> dict[str, dict[str, str]]:
    """By question, its figure, of the study with the most arms among those that decide the question's entries."""
    study_of, entries = {claim.id: claim.study for claim in claims}, {entry.name: entry for entry in FIGURES}
    made = {}
    for question in QUESTIONS:
        studies = {study_of[id]: None for id in question.claims if study_of.get(id) in results_by_study}
        for study in sorted(studies, key=lambda name: -len(results_by_study[name].arms)) if question.figure else ():
            picture = entries[question.figure or ""].picture(results_by_study[study])
            if picture is not None:
                made[question.text] = {
                    "svg": described(picture), "title": picture.title, "caption": picture.caption, "study": study
                }  # fmt: skip
                break
    for results in results_by_study.values():  # the record over scales is the same in all
        if results.budgets is not None and (picture := budgets_picture(results.budgets, results.params)) is not None:
            made[BUDGETS] = {"svg": described(picture), "title": picture.title, "caption": picture.caption, "study": ""}
            break
    return made
