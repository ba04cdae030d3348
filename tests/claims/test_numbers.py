"""Numbers as people read them."""

import pytest

from lolm.claims.numbers import of_difference, show, show_interval


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.2589, "share", "25.9 %"),
        (-0.012, "points", "−1.2 points"),
        (-0.0001, "points", "0.0 points"),
        (1.234, "x", "1.23×"),
        (12345.0, "x", "12,345×"),
        (-0.1239, "nats", "−0.124 nats"),
        (0.5, "nats a layer", "0.500 nats a layer"),
        (34.47, "perplexity", "PPL 34.5"),
        (16000.0, "tokens", "16,000 tokens"),
        (0.714, "gate", "0.714"),
    ],
)
def test_a_number_with_its_unit(value, unit, text):
    assert show(value, unit) == text


def test_an_interval_has_its_unit_once():
    assert show_interval(-0.041, 0.02, "points") == "−4.1 to 2.0 points"


def test_a_difference_of_shares_is_in_points_and_no_per_cent_of_either():
    assert [of_difference(unit) for unit in ("share", "nats", "gate")] == ["points", "nats", "gate"]
