"""The claim about downstream tasks, on scores with a known truth."""

from dataclasses import replace

import pytest
from synthetic import Truth

from lolm.claims import build_ledger
from lolm.records.results import ScaleResults
from lolm.records.schema import Downstream, TaskMetric, TaskScores
from lolm.report import rows


def scored(results: ScaleResults, gain: float = 0.1, at: float = 0.6, without: tuple[str, ...] = ()) -> ScaleResults:
    """Every run scored on a task, LOLM by `gain` above the other arm; and on one at chance, and one in other items a run."""

    def downstream(run):
        value = at + (gain if run.arm == "lolm" else 0.0) + 0.001 * run.seed * (run.arm == "lolm")
        tasks = {
            "blimp": TaskScores(1000, "1", {"acc": TaskMetric(value, 0.01, 0.5, 0.55)}),
            "piqa": TaskScores(100, "1", {"acc": TaskMetric(0.9, 0.01, 0.5, None), "acc_norm": TaskMetric(0.51, 0.02, 0.5, 0.5)}),
            "lambada_openai": TaskScores(
                100, "1", {"perplexity": TaskMetric(9e4, 1.0, None, 1e9), "acc": TaskMetric(0.0, 0.0, None, 0.0)}
            ),
            "cloze": TaskScores(100 + run.seed * (run.arm == "lolm"), "1", {"acc": TaskMetric(0.99, 0.001, 0.25, 0.3)}),
        }  # fmt: skip
        return Downstream(run.arm, run.seed, run.name, run.fingerprint, "0.4.13", 64, None, tasks)

    runs = tuple(run if run.arm in without else replace(run, downstream=downstream(run)) for run in results.runs)
    return replace(results, runs=runs)


def claim(results, id="downstream_announced"):
    return {claim.id: claim for claim in build_ledger(results)}[id]


def test_a_gain_on_tasks_that_are_left_behind_chance(results_of):
    found = claim(scored(results_of(Truth())))
    assert found.verdict == "holds"
    assert found.sound.value == pytest.approx(0.1025)  # of blimp alone: piqa is at chance, lambada at none, cloze other items
    assert found.sound.definition.endswith("2 standard errors above chance, of those that others have made: blimp")
    assert set(found.details) == {"blimp", "piqa", "lambada_openai"}
    assert claim(scored(results_of(Truth()), gain=-0.05)).verdict == "fails"


def test_tasks_made_of_the_text_itself_decide_a_claim_of_their_own(results_of):
    """Cloze 0.05 ahead, public tasks behind: the one claim holds, the other fails."""
    results = scored(results_of(Truth()), gain=-0.1)
    runs = []
    for run in results.runs:
        own = TaskScores(100, "1", {"acc": TaskMetric(0.55 if run.arm == "lolm" else 0.5, 0.01, 0.25, 0.3)})
        runs.append(replace(run, downstream=replace(run.downstream, tasks=run.downstream.tasks | {"cloze": own})))
    results = replace(results, runs=tuple(runs))
    assert claim(results).verdict == "fails"
    assert "cloze" not in claim(results).details
    found = claim(results, "downstream_own")
    assert (found.verdict, found.sound.value) == ("holds", pytest.approx(0.05))
    assert found.sound.definition.endswith("of those made from the test split: cloze")
    assert not found.authors


def test_how_far_beyond_chance_is_a_parameter(results_of):
    results = scored(results_of(Truth()))
    analysis = replace(results.analysis, chance_errors=0.4)  # piqa is half an error above chance in both arms
    params = replace(results.params, analysis=analysis)
    found = claim(replace(results, params=params))
    assert found.sound.definition.endswith("0.4 standard errors above chance, of those that others have made: blimp, piqa")
    assert found.sound.value == pytest.approx(0.1025 / 2)


def test_at_chance_nothing_is_decided(results_of):
    found = claim(scored(results_of(Truth()), gain=0.005, at=0.505))
    assert found.verdict == "not testable at this scale"
    assert "either arm scores beyond chance on any task that both were asked (blimp, piqa, lambada_openai)" in found.why


def test_what_was_not_scored_is_not_run(results_of):
    found = claim(scored(results_of(Truth()), without=("transformer",)))
    assert found.verdict == "not run"
    assert "make downstream SCALE=smoke STUDY=main" in found.why
    results = scored(results_of(Truth()))
    one = [replace(r, downstream=None) if (r.arm, r.seed) == ("transformer", 2) else r for r in results.runs]
    missing = claim(replace(results, runs=tuple(one)))
    assert missing.verdict == "not run"
    assert "Not scored on downstream tasks: transformer-2;" in missing.why


def test_the_table_of_a_page(results_of):
    results = results_of(Truth())
    assert rows.downstream(results) == ((), [])
    titles, table = rows.downstream(scored(results))
    assert titles == ("blimp, acc (1,000)", "piqa, acc_norm (100)", "lambada_openai, acc (100)", "cloze, acc (101)")
    lines = {row.name: row.cells for row in table}
    assert lines["chance"][:3] == ("50.0 %", "50.0 %", "—")
    assert lines["bigram, tokens the run trained on"][:2] == ("55.0 %", "50.0 %")
    assert lines[results.label("lolm")][:3] == ("70.2 % ± 1.0", "51.0 % ± 2.0", "0.0 %")
    assert lines[results.label("transformer")] == ("60.0 % ± 1.0", "51.0 % ± 2.0", "0.0 %", "—")
