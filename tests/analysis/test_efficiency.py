import math

import pytest

from lolm.analysis.efficiency import (
    AXES,
    Curve,
    CurveError,
    along,
    crossing,
    efficiency,
    final_training_loss,
    heldout_curve,
    multiplier,
    training_curve,
    window_rows,
)
from lolm.analysis.results import RunRecord


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
    found = efficiency([(curve(1.0, fine), curve(0.8, fine)), (curve(1.0, fine), curve(0.8, fine))], "flops")
    assert found.reached == 0
    assert [m.value for m in found.to_baseline] == [None, None]
    assert found.to_subject[0].value == pytest.approx(0.8, rel=1e-3)
    assert found.common.value == pytest.approx(0.8, rel=1e-3)


def test_common_level_is_always_measured():
    fine = [1.05**i for i in range(200)]
    found = efficiency([(curve(1.0, fine), curve(1.2, fine)), (curve(1.0, fine), curve(0.9, fine))], "step")
    assert found.reached == 1
    assert found.common.per_seed == pytest.approx((1.2, 0.9), rel=1e-3)


def test_no_overlap_gives_a_reason():
    low = Curve((1.0, 2.0), (1.0, 0.9))
    found = efficiency([(curve(), low)], "step")
    assert found.common is None
    assert "first measurement" in found.reason
    assert efficiency([], "step").reason == "no paired runs"


def test_lead_along_the_run():
    fine = [1.05**i for i in range(200)]
    rows = along([curve(1.0, fine)], [curve(2.0, fine)], "step")
    assert rows[-1]["multiplier"] == pytest.approx(2, rel=1e-3)
    assert rows[0]["multiplier"] is None  # the subject's first measurement is already lower


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
    return RunRecord("a", 1, {}, rows, {}, None, None)


def test_published_window_is_made_of_log_windows():
    run = run_of(10, [float(i) for i in range(1, 101)])
    assert window_rows(run, 50) == 5
    published = training_curve(run, 50)
    assert published.positions[0] == 50
    assert published.losses[0] == pytest.approx(3)  # mean of 1..5
    assert final_training_loss(run, 50) == pytest.approx(98)
    assert final_training_loss(run, 50, 0.5) == pytest.approx(48)  # ends at step 500


def test_published_window_never_swallows_a_short_run():
    assert window_rows(run_of(2, [1.0] * 20), 50) == 2
    assert window_rows(run_of(2, [1.0] * 3), 50) == 1
    assert window_rows(run_of(100, [1.0] * 20), 50) == 1


def test_heldout_curve_reads_each_axis():
    rows = [{"step": s, "tokens": 10 * s, "flops": 100 * s, "seconds": s / 2, "val/nats": 5 - s} for s in (0, 1, 2)]
    run = RunRecord("a", 1, {}, rows, {}, None, None)
    assert [heldout_curve(run, axis).positions[-1] for axis in AXES] == [2, 20, 200, 1]
