import json
import math
import random
from types import SimpleNamespace

import pytest
from synthetic import write_results

from lolm.analysis.curves import Curve, CurveError, crossing, multiplier
from lolm.analysis.efficiency import along, annealed_curves, at_budgets, efficiency, gap_at
from lolm.analysis.in_curve import heldout_curve, training_curve, training_loss, window_rows
from lolm.analysis.leaderboard import leaderboard
from lolm.records import AXES
from lolm.records.results import RunRecord, load_results
from lolm.records.schema import ScheduleEnd, Score

ALONE = SimpleNamespace(alone=True)  # of a record's summary what these tests read


def law(position):
    return 2 + 8 * position**-0.3


def curve(speed=1.0, positions=(1, 10, 100, 1000), shift=0.0):
    return Curve(tuple(map(float, positions)), tuple(law(speed * p) + shift for p in positions))


def test_crossing_interpolates_in_the_logarithm():
    line = Curve((10.0, 1000.0), (5.0, 3.0))
    assert crossing(line, 4.0).position == pytest.approx(100)
    assert crossing(line, 3.0).position == pytest.approx(1000)
    assert crossing(Curve((0.0, 100.0), (5.0, 3.0)), 4.0).position == pytest.approx(50)  # from step 0: linear


def test_crossing_refuses_to_extrapolate():
    line = Curve((10.0, 1000.0), (5.0, 3.0))
    beyond, before = crossing(line, 2.9), crossing(line, 5.1)
    assert beyond.position is None
    assert "never reaches 2.9" in beyond.reason
    assert before.position is None
    assert "first measurement" in before.reason


def test_envelope_ignores_a_rise():
    bumpy = Curve((1.0, 2.0, 4.0, 8.0), (5.0, 3.0, 4.0, 2.0))
    assert bumpy.envelope().losses == (5.0, 3.0, 3.0, 2.0)
    assert crossing(bumpy, 3.5).position == pytest.approx(2**0.75)  # the first time, not after the bump
    assert crossing(bumpy, 2.5).position == pytest.approx(math.sqrt(32))  # from the rise's end, where the best was still 3


def test_a_curve_that_is_n_times_faster_has_multiplier_n():
    fine = [1.02**i for i in range(400)]
    found = multiplier(curve(1.0, fine), curve(1.5, fine), law(1000))
    assert found.value == pytest.approx(1.5, rel=1e-4)
    assert multiplier(curve(1.5, fine), curve(1.0, fine), law(1000)).value == pytest.approx(1 / 1.5, rel=1e-4)


def test_multiplier_says_who_is_not_measured():
    slow = multiplier(curve(), curve(0.5), law(1000))
    assert slow.value is None
    assert "the subject never reaches" in slow.reason
    assert slow.baseline == pytest.approx(1000)


def test_both_directions_when_the_subject_is_behind():
    fine = [1.05**i for i in range(200)]
    found = efficiency([(curve(1.0, fine), curve(0.8, fine)), (curve(1.0, fine), curve(0.8, fine))])
    assert found.reached == 0
    assert found.to_subject[0].value == pytest.approx(0.8, rel=1e-3)
    assert found.common.value == pytest.approx(0.8, rel=1e-3)


def test_common_level_is_always_measured():
    fine = [1.05**i for i in range(200)]
    found = efficiency([(curve(1.0, fine), curve(1.2, fine)), (curve(1.0, fine), curve(0.9, fine))])
    assert found.reached == 1
    assert found.common.per_seed == pytest.approx((1.2, 0.9), rel=1e-3)


def test_no_overlap_gives_a_reason():
    low = Curve((1.0, 2.0), (1.0, 0.9))
    found = efficiency([(curve(), low)])
    assert found.common is None
    assert "first measurement" in found.reason
    assert efficiency([]).reason == "no paired runs"


def test_lead_along_the_run():
    fine = [1.05**i for i in range(200)]
    found = along(curve(1.0, fine), curve(2.0, fine))
    assert found[-1] == (fine[-1], pytest.approx(2, rel=1e-3))
    assert found[0] == (1.0, None)  # the subject's first measurement is already lower


def test_loss_at_a_position():
    line = Curve((10.0, 1000.0), (5.0, 3.0))
    assert line.at(100.0) == pytest.approx(4)
    assert line.at(1000.0) == 3
    assert line.at(1001.0) is None
    assert line.at(9.0) is None


@pytest.mark.parametrize(
    ("positions", "losses"), [((), ()), ((1.0,), (1.0, 2.0)), ((1.0, 1.0), (1.0, 2.0)), ((1.0,), (math.nan,))]
)
def test_points_that_make_no_curve(positions, losses):
    with pytest.raises(CurveError):
        Curve(positions, losses)


def run_of(log_every, losses):
    rows = [{"step": 0, "tokens": 0, "flops": 0, "seconds": 0, "val/nats": 9.0}]
    for i, loss in enumerate(losses, 1):
        rows.append({"step": i * log_every, "tokens": 1, "flops": 1, "seconds": 1, "train/loss": loss})
    return RunRecord("a", 1, None, rows, ALONE)


def test_published_window_is_made_of_log_windows():
    run = run_of(10, [float(i) for i in range(1, 101)])
    assert window_rows(run, 50) == 5
    published = training_curve(run, 50)
    assert published.positions[0] == 50
    assert published.losses[0] == pytest.approx(3)  # mean of 1..5
    assert training_loss(run, 50) == pytest.approx(98)
    assert training_loss(run, 50, 500) == pytest.approx(48)  # ends at step 500


def test_published_window_never_swallows_a_short_run():
    assert window_rows(run_of(2, [1.0] * 20), 50) == 2
    assert window_rows(run_of(2, [1.0] * 3), 50) == 1
    assert window_rows(run_of(100, [1.0] * 20), 50) == 1


def test_heldout_curve_reads_each_axis():
    rows = [{"step": s, "tokens": 10 * s, "flops": 100 * s, "seconds": s / 2, "val/nats": 5 - s} for s in (0, 1, 2)]
    run = RunRecord("a", 1, None, rows, ALONE)
    assert [heldout_curve(run, axis).positions[-1] for axis in AXES] == [2, 20, 200, 1]


# ---------------------------------------------------------------------------------------------- ends of schedules

HORIZONS = (250, 500, 1000, 2000)


def annealed(arm, seed, losses, cost=1.0, split="test"):
    """A run with end-of-schedule points (step -> nats), each step costing ``cost`` FLOPs and twice as many seconds."""
    ends = [{"step": s, "tokens": 10 * s, "flops": cost * s, "seconds": 2 * cost * s} for s in sorted(losses)]
    scores = [Score(losses[end["step"]], 1.0, 0.3) for end in ends]
    rows = [end | {"annealed/nats": score.nats - 0.5} for end, score in zip(ends, scores, strict=True)]
    reached = tuple(ScheduleEnd(**end, validation=score, test=score) for end, score in zip(ends, scores, strict=True))
    evaluation = SimpleNamespace(schedule_ends=reached, test=scores[-1])  # what is read of an Evaluation here
    return RunRecord(arm, seed, None, rows, ALONE, evaluation if split == "test" else None)


def scaled(speed=1.0, noise=lambda step: 0.0, steps=HORIZONS, exponent=0.15):
    """End-of-schedule losses of a power law with the exponent of measured ones."""
    return {step: 2 + 4 * (speed * step) ** -exponent + noise(step) for step in steps}


def test_multiplier_at_every_budget_that_can_be_measured():
    pairs = [(annealed("lolm", s, scaled(1.5)), annealed("base", s, scaled())) for s in (1, 2, 3)]
    found = at_budgets(pairs, "step")
    assert [p.steps for p in found.points] == list(HORIZONS)
    assert found.points[0].estimate is None  # the subject is below the baseline's level at its first end already
    assert "in 3 of 3 pairs the subject is at" in found.points[0].reason
    for point in found.measured:
        assert point.estimate.value == pytest.approx(1.5, rel=0.01)
        assert point.estimate.value <= 1.5  # interpolation only ever understates a lead
    assert len(found.measured) == 3
    assert (found.split, found.reached, found.differ(0.02)) == ("test", 3, False)
    assert found.largest.baseline == 2000


def test_cost_enters_as_a_factor_and_both_arms_are_treated_alike():
    pairs = [(annealed("lolm", 1, scaled(1.5), cost=2.0), annealed("base", 1, scaled(), cost=1.0))]
    swapped = [(base, subject) for subject, base in pairs]
    steps, flops, seconds = (at_budgets(pairs, axis).estimate.value for axis in ("step", "flops", "seconds"))
    assert flops == pytest.approx(steps / 2)
    assert seconds == pytest.approx(steps / 2)
    assert at_budgets(swapped, "flops").estimate.value == pytest.approx(1 / flops)
    assert at_budgets(swapped, "flops").needed == pytest.approx(1 / flops)  # the other arm gets there with that share


def test_nothing_is_extrapolated():
    far = [(annealed("lolm", 1, scaled(10)), annealed("base", 1, scaled()))]
    found = at_budgets(far, "flops")
    assert found.estimate is None
    assert found.largest is None
    assert "already below" in found.reason
    one = [(annealed("lolm", 1, scaled(1.5, steps=(2000,))), annealed("base", 1, scaled(steps=(2000,))))]
    assert at_budgets(one, "step").estimate is None  # a single point leaves nothing to interpolate between
    assert at_budgets([], "step").reason == "there are no common ends of schedule"


def test_one_pair_that_cannot_be_measured_leaves_no_mean_of_the_others():
    pairs = [(annealed("lolm", s, scaled(speed)), annealed("base", s, scaled())) for s, speed in ((1, 1.5), (2, 10))]
    found = at_budgets(pairs, "step")
    assert found.estimate is None
    assert "in 1 of 2 pairs" in found.points[-1].reason


def test_a_multiplier_that_changes_is_called_so():
    def flattening(step):
        return 2 + 4 * (3.5 * step**0.88) ** -0.15

    mine = {seed: {h: flattening(h) + seed * 1e-4 for h in HORIZONS} for seed in (1, 2)}
    pairs = [(annealed("lolm", seed, mine[seed]), annealed("base", seed, scaled())) for seed in mine]
    found = at_budgets(pairs, "step")
    values = [point.estimate.value for point in found.measured]
    assert values == sorted(values, reverse=True)
    assert found.differ(0.02) is True
    assert found.differ(10.0) is False
    assert found.change.value == pytest.approx(values[-1] / values[0])


def test_only_common_ends_count_and_validation_stands_in_for_test():
    subject, base = annealed("lolm", 1, scaled(1.5, steps=(250, 500, 2000))), annealed("base", 1, scaled())
    steps, curves, split = annealed_curves([(subject, base)], "tokens")
    assert (steps, split) == ([250, 500, 2000], "test")
    assert curves[0][0].positions == (2500, 5000, 20000)
    unscored = annealed("lolm", 1, scaled(1.5), split="none")
    steps, curves, split = annealed_curves([(unscored, base)], "step")
    assert split == "validation"
    assert curves[0][0].losses[-1] == pytest.approx(scaled()[2000] - 0.5)  # both arms from the same split


def test_gap_at_matched_cost():
    pairs = [(annealed("lolm", 1, scaled(1.5), cost=1.5), annealed("base", 1, scaled()))]
    at_steps, at_flops = gap_at(pairs, "step"), gap_at(pairs, "flops")
    assert at_steps.difference.value == pytest.approx(scaled(1.5)[2000] - scaled()[2000])
    # at 2000 FLOPs LOLM has made 1333 steps at 1.5 times the speed: the same loss, but for the interpolation
    assert at_flops.difference.value == pytest.approx(0, abs=2e-3)
    dear = [(annealed("lolm", 1, scaled(1.5), cost=100), annealed("base", 1, scaled()))]
    refused = gap_at(dear, "flops")
    assert refused.difference is None
    assert "at its first end of schedule the subject had spent more" in refused.reason


def test_what_the_arms_of_a_seed_share_cancels():
    """Data order that moves both arms alike leaves no width; the same shifts dealt to other seeds' runs do."""
    shifts = (-0.02, 0.005, 0.03)

    def runs(name, speed, dealt):
        return [annealed(name, seed, scaled(speed, lambda _, s=s: s)) for seed, s in enumerate(dealt)]

    mine = runs("lolm", math.sqrt(2), shifts)
    low, high = at_budgets(list(zip(mine, runs("base", 1.0, shifts), strict=True)), "step").estimate.interval
    assert high / low < 1.001
    low, high = at_budgets(list(zip(mine, runs("base", 1.0, shifts[1:] + shifts[:1]), strict=True)), "step").estimate.interval
    assert high / low > 1.3


@pytest.mark.parametrize("speed", [1.0, 1.2, math.sqrt(2), 1.7, 0.75])
def test_coverage(speed):
    """The interval holds the true multiplier in about 95 % of experiments, at knots and between them, whoever is ahead.

    Each experiment has three seeds. Data order moves all points of both arms of a seed together, initialisation each arm, and
    each end of schedule has noise of its own: 0.02, 0.006 and 0.002 nats.
    """
    draw = random.Random(f"coverage {speed}")
    trials, inside, measured = 400, 0, 0
    for _ in range(trials):
        pairs = []
        for seed in range(3):
            shared = draw.gauss(0, 0.02)
            moved = [shared + draw.gauss(0, 0.006) for _ in range(2)]
            runs = [
                annealed(name, seed, scaled(s, lambda _, m=m: m + draw.gauss(0, 0.002)))
                for name, s, m in (("lolm", speed, moved[0]), ("base", 1.0, moved[1]))
            ]
            pairs.append(tuple(runs))
        found = at_budgets(pairs, "flops").estimate
        if found is not None:
            measured += 1
            inside += found.interval[0] <= speed <= found.interval[1]
    assert measured > 0.95 * trials
    assert inside / measured == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / measured))


def test_seconds_of_runs_that_were_made_side_by_side_compare_nothing(tmp_path):
    folder = write_results(tmp_path)
    results = load_results(folder)
    pairs = results.pairs("lolm", "transformer")
    assert at_budgets(pairs, "seconds", 0.95, results).largest is not None
    for path in (folder / "reports/smoke/train").glob("*/summary.json"):
        path.write_text(path.read_text(encoding="utf-8").replace('"alone": true', '"alone": false'), encoding="utf-8")
    results = load_results(folder)
    pairs = results.pairs("lolm", "transformer")
    found = at_budgets(pairs, "seconds", 0.95, results)
    assert found.largest is None
    assert {point.reason for point in found.points} == {"runs were made side by side, so their seconds do not compare"}
    assert gap_at(pairs, "seconds", 0.95, results).difference is None
    assert at_budgets(pairs, "flops", 0.95, results).largest is not None
    assert {entry.seconds for entry in leaderboard(results)} == {None}


def test_an_early_end_of_schedule_that_took_longer_than_a_later_one_leaves_no_seconds_and_all_else(tmp_path):
    """As the copy of a smoke run that was annealed first does, whenever the machine is busy just then."""
    folder = write_results(tmp_path)
    path = folder / "reports/smoke/evaluate/lolm-1.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["schedule_ends"][0]["seconds"] = 1e6
    path.write_text(json.dumps(record), encoding="utf-8")
    results = load_results(folder)
    pairs = results.pairs("lolm", "transformer")
    found = at_budgets(pairs, "seconds", 0.95, results)
    assert (found.largest, len(found.points)) == (None, len(at_budgets(pairs, "flops", 0.95, results).points))
    assert "longer to an earlier end of schedule" in found.points[0].reason
    assert gap_at(pairs, "seconds", 0.95, results).difference is None
    assert at_budgets(pairs, "flops", 0.95, results).largest is not None
