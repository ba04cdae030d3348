import pytest

from lolm.analysis.statistics import Estimate
from lolm.claims.rules import Above, Below, Between, Rule, Within, every, resolve, why_of
from lolm.config import AnalysisConfig

ANALYSIS = AnalysisConfig(inversion_margin=0.05, gate_margin=0.1)
HOLDS, FAILS, OPEN = "holds", "fails", "inconclusive"


def estimate(low, high):
    return Estimate((low + high) / 2, (low, high), 3, (low, (low + high) / 2, high), 0.95)


ONE_SEED = Estimate(5.0, None, 1, (5.0,), 0.95)


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (Above(1.0), 1.1, 1.2, HOLDS),
        (Above(1.0), 1.0, 1.2, OPEN),  # the end of the interval on the threshold is not beyond it
        (Above(1.0), 0.9, 1.1, OPEN),
        (Above(1.0), 0.8, 1.0, FAILS),
        (Above("inversion_margin"), 0.06, 0.2, HOLDS),
        (Above("inversion_margin"), 0.01, 0.04, FAILS),
        (Above("-inversion_margin"), -0.04, 0.01, HOLDS),
        (Below(1.0), 0.8, 0.9, HOLDS),
        (Below(1.0), 0.8, 1.0, OPEN),
        (Below(1.0), 1.0, 1.2, FAILS),
        (Below("-inversion_margin"), -0.2, -0.06, HOLDS),
        (Within("gate_margin"), -0.09, 0.09, HOLDS),
        (Within("gate_margin"), -0.1, 0.05, OPEN),
        (Within("gate_margin"), 0.1, 0.2, FAILS),
        (Within("gate_margin"), -0.2, -0.1, FAILS),
        (Within("gate_margin"), -0.5, 0.5, OPEN),  # not to reject equality shows nothing
        (Within("gate_margin", 0.5), 0.45, 0.55, HOLDS),
        (Between(1.2, 1.3), 1.21, 1.29, HOLDS),
        (Between(1.2, 1.3), 1.25, 1.31, OPEN),
        (Between(1.2, 1.3), 1.3, 1.4, FAILS),
        (Between(1.2, 1.3), 1.1, 1.19, FAILS),
    ],
)
def test_where_the_interval_lies_decides(rule, low, high, verdict):
    assert rule.verdict(estimate(low, high), ANALYSIS) == verdict
    assert rule.verdict(ONE_SEED, ANALYSIS) == OPEN


def test_parts_of_a_claim():
    assert every([HOLDS, HOLDS]) == HOLDS
    assert every([HOLDS, OPEN]) == OPEN
    assert every([OPEN, FAILS]) == FAILS


def test_a_threshold_is_a_number_or_a_name():
    assert resolve("-gate_margin", ANALYSIS) == -0.1
    assert resolve(2, ANALYSIS) == 2.0
    assert Within("gate_margin", 0.5).names == ("gate_margin",)
    assert Above("-inversion_margin").names == ("inversion_margin",)
    with pytest.raises(AttributeError, match="gate_margn"):
        resolve("gate_margn", ANALYSIS)


@pytest.mark.parametrize("rule", [Above(1.0), Below(1.0), Within(0.1, 1.0), Between(0.9, 1.1)])
def test_a_rule_says_what_it_asks_and_what_it_found(rule: Rule):
    assert "interval" in rule.text("x", ANALYSIS)
    assert "1.00" in rule.text("x", ANALYSIS) or "0.90" in rule.text("x", ANALYSIS)
    assert "0.50" in rule.why(estimate(0.5, 0.6), "x", ANALYSIS) or "0.55" in rule.why(estimate(0.5, 0.6), "x", ANALYSIS)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1.1, 1.2, "lies above"), (0.1, 0.2, "lies below"), (0.9, 1.1, "covers"), (1.0, 1.1, "ends at"), (1.0, 1.0, "exactly")],
)
def test_where_an_interval_lies_in_words(low, high, words):
    assert words in why_of(estimate(low, high), 1.0, "x")
    assert "nothing is decided" in why_of(ONE_SEED, 1.0, "x")
