import csv
import io

import pytest
from synthetic import Truth, write_results

from lolm.analysis.leaderboard import compare, leaderboard, metrics, table
from lolm.analysis.statistics import holm, p_value
from lolm.records.results import load_results

ARMS = ("lolm", "transformer", "transformer_modern", "hybrid_a", "hybrid_b")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    truth = Truth(speeds={"hybrid_a": 2.0, "hybrid_b": 0.8, "transformer_modern": 1.2}, flops_ratio=1.0)
    return load_results(write_results(tmp_path_factory.mktemp("board"), arms=ARMS, truth=truth))


def test_sorted_by_test_loss(results):
    entries = leaderboard(results)
    assert [entry.arm for entry in entries] == ["hybrid_a", "lolm", "transformer_modern", "transformer", "hybrid_b"]
    assert [e.nats.value for e in entries] == sorted(e.nats.value for e in entries)


def test_only_exploratory_comparisons_are_corrected_and_all_of_them_together(results):
    found = compare(results)
    assert set(found) == set(ARMS) - {"lolm"}
    raw = {}
    for arm in found:
        losses = [(a.test_nats, b.test_nats) for a, b in results.pairs(arm, "lolm")]
        assert found[arm].difference.per_seed == pytest.approx([a - b for a, b in losses])
        raw[arm] = p_value(found[arm].difference)
        assert found[arm].difference.arms == len(ARMS)  # three seeds: the variance is that of all arms
    assert found["transformer"].declared
    assert found["transformer"].p_value == raw["transformer"]
    others = [arm for arm in found if arm != "transformer"]
    assert [found[arm].p_value for arm in others] == list(holm([raw[arm] for arm in others]))
    assert not any(found[arm].declared for arm in others)


def test_columns_are_the_records(results):
    entries = {entry.arm: entry for entry in leaderboard(results)}
    modern, baseline = entries["transformer_modern"], entries["transformer"]
    assert modern.multiplier.value == pytest.approx(1.2, rel=0.03)
    assert modern.multiplier_steps == 400
    assert baseline.multiplier is None  # it is what the others are held against
    assert (modern.rate_inside, baseline.rate_inside) == (False, True)
    assert modern.context.value == pytest.approx(-0.4 / 3)
    assert modern.lengths[2].value == pytest.approx(0.1)
    assert modern.lengths[4] is None  # the split could not fill it
    assert modern.accuracy["mqar"].value == pytest.approx(sum(r.accuracy("mqar") for r in results.of("transformer_modern")) / 3)
    assert (modern.distinct_2.value, modern.distinct_2_real.value) == pytest.approx((0.8, 0.97))
    assert modern.parameters_active == modern.parameters


def test_one_seed_has_no_intervals_and_no_p_values(tmp_path):
    results = load_results(write_results(tmp_path, arms=ARMS, seeds=(1,)))
    for entry in leaderboard(results):
        assert entry.nats.interval is None
        assert entry.comparison is None or entry.comparison.p_value is None


def test_a_study_whose_subject_was_not_run(tmp_path):
    results = load_results(write_results(tmp_path, arms=("lolm", "transformer", "hybrid_a"), not_run=("lolm",)))
    assert all(entry.comparison is None for entry in leaderboard(results))
    assert table(leaderboard(results))


def test_files(results):
    entries = leaderboard(results)
    rows = list(csv.DictReader(io.StringIO(table(entries))))
    assert [row["arm"] for row in rows] == [entry.arm for entry in entries]
    assert float(rows[0]["test_nats_low"]) == entries[0].nats.interval[0]
    assert rows[0]["length_4x_nats"] == ""
    first = ("arm", "label", "test_nats", "test_nats_low", "test_nats_high", "bits_per_byte")
    assert tuple(rows[0])[:6] == first
    order = [tuple(rows[0]).index(name) for name in ("minus_subject_nats", "flops_multiplier", "parameters", "mqar_accuracy")]
    assert order == sorted(order)
    assert list(metrics(entries)) == [entry.arm for entry in entries]
    flat = metrics(entries)
    assert flat["lolm"]["test_nats"] == entries[1].nats.value
    assert all(isinstance(value, int | float) for numbers in flat.values() for value in numbers.values())
    assert "minus_subject_nats" not in flat["lolm"]
    assert flat["transformer"]["minus_subject_nats"] == pytest.approx(entries[3].nats.value - entries[1].nats.value)
