"""The statistic of types against hand counts."""

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest

from lolm.analysis import layers as by
from lolm.analysis.statistics import Estimate, t_interval
from lolm.records import names
from lolm.records.schema import LayerRemovals, MatchedSet, Recall, RecallTask, Removal, TypeRecall, WriteSite, WrittenNorm

KINDS = {"recurrent": "mamba1", "attention": "attention", "mlp": "mlp"}
R, A, M = ("stack.0.mixer", "stack.2.mixer"), ("stack.1.mixer",), ("stack.0.mlp", "stack.1.mlp")
NORMS = dict.fromkeys(R, 1.0) | dict.fromkeys(A, 3.0) | dict.fromkeys(M, 5.0)
PARAMETERS = {"recurrent": 500_000, "attention": 250_000, "mlp": 100}


def found(damages, step=10, controls=(), intact=3.0):
    """Removals with these damages, by sites, from an intact loss in nats."""
    sites = [
        WriteSite(s, KINDS[t], t, PARAMETERS[t]) for t, group in (("recurrent", R), ("attention", A), ("mlp", M)) for s in group
    ]
    rows = [Removal(step, (), "none", intact, 1.0, 0.5, 0.0)]
    rows += [Removal(step, sites_of, "mean", intact + lost, 1.0, 0.5, 0.1) for sites_of, lost in damages.items()]
    norms = [WrittenNorm(step, site, norm) for site, norm in NORMS.items()]
    return LayerRemovals(100, 200, tuple(sites), tuple(norms), tuple(rows), tuple(controls))


def estimate(low, high):
    return Estimate((low + high) / 2, (low, high), 3, (low, high), 0.95)


def test_s_and_its_normalised_forms():
    one = found({R: 0.8, A: 0.3, M: 2.0})
    assert by.statistic(one, "mean") == pytest.approx(0.5)
    assert by.statistic(one, "mean", per="layer") == pytest.approx(0.8 / 2 - 0.3)
    assert by.statistic(one, "mean", per="parameters") == pytest.approx(0.8 / 1.0 - 0.3 / 0.25)
    assert by.statistic(one, "mean", per="norm") == pytest.approx(0.8 / 2 - 0.3 / 3)
    assert by.share(one) == pytest.approx(2 / 5)
    assert by.damage(one, "mlp", "mean") == pytest.approx(2.0)
    assert by.statistic(one, "zero") is by.statistic(one, "mean", step=9) is by.statistic(None, "mean") is None
    assert by.damage(one, "convolution", "mean") is None
    nothing = replace(one, norms=tuple(replace(row, norm=0.0) for row in one.norms))
    assert by.share(nothing) is by.statistic(nothing, "mean", per="norm") is None
    silent = replace(one, sites=tuple(replace(site, parameters=None) for site in one.sites))
    assert by.statistic(silent, "mean", per="parameters") is None


@pytest.mark.parametrize(
    ("interval", "missed"),
    [
        ((0.06, 0.2), "recurrent"),
        ((-0.2, -0.06), "attention"),
        ((-0.04, 0.04), "neither"),
        ((0.01, 0.2), "inconclusive"),
        ((-0.06, 0.06), "inconclusive"),
    ],
)
def test_which_type_is_missed_more(interval, missed):
    assert by.missed_more(estimate(*interval), 0.05) == missed
    assert by.unused(estimate(*interval), 0.05) == (missed == "neither")
    assert by.missed_more(t_interval([0.3]), 0.05) == "inconclusive"


def test_the_exact_permutation_by_hand():
    mixers = (*R, *A)
    lost = {sites: sum({R[0]: 0.5, R[1]: 0.4, A[0]: 0.1}[s] for s in sites) for n in (1, 2) for sites in combinations(mixers, n)}
    one = by.permutation([found(lost), found(lost)], "mean")
    assert one.observed == pytest.approx(0.8)
    assert sorted(one.all) == pytest.approx([0.0, 0.2, 0.8])  # the attention mixer was 0.5, 0.4, 0.1
    assert one.p_value == pytest.approx(1 / 3)
    assert by.permutation([found(lost), found({R: 1.0, A: 0.1})], "mean") is None
    assert by.permutation([None], "mean") is by.permutation([], "mean") is None
    best, flat = by.Permutation(3.0, (3.0, 0.0, 0.0, 0.0)), by.Permutation(1.0, (1.0, 1.0))
    assert (best.p_value, flat.p_value) == (0.25, 1.0)
    assert by.joint_p_value([best, best]) == pytest.approx(1 / 16)
    assert by.joint_p_value([best, flat]) == 0.25


def test_random_sets_and_halves_of_the_stack():
    controls = [
        MatchedSet("recurrent", "norm", (R[0], A[0])),
        MatchedSet("recurrent", "norm", (A[0],)),
        MatchedSet("recurrent", "number", R[:1]),
    ]
    one = found({R: 0.8, A: 0.2, (R[0], A[0]): 0.6, (R[0],): 0.5, (R[1],): 0.1}, controls=controls)
    assert by.beyond_random(one, "recurrent", names.NORM, "mean") == pytest.approx(0.8 - 0.4)
    assert by.beyond_random(one, "recurrent", names.NUMBER, "mean") == pytest.approx(0.3)
    assert by.beyond_random(one, "attention", names.NORM, "mean") is None
    assert by.matched_sizes(one, "recurrent", names.NORM) == [2.0, 1.5]  # norms of 1 + 3 and 3 beside 1 + 1
    assert by.matched_sizes(one, "recurrent", names.NUMBER) == [0.5]
    assert by.matched_sizes(one, "attention", names.NORM) == by.matched_sizes(None, "attention", names.NORM) == []
    assert by.early_minus_late(one, "mean") == pytest.approx(0.5 - 0.1)  # the middle layer is in neither half
    assert by.later_layers(one, "mean") == pytest.approx(0.1 - 0.2)  # the first layer's 0.5 is out
    assert by.later_layers(found({R: 0.8, A: 0.2}), "mean") is by.later_layers(None, "mean") is None, "single mixers not removed"
    assert by.early_minus_late(one, "zero") is by.early_minus_late(None, "mean") is None


def test_recall_and_training_without_a_type():
    removed = (TypeRecall("attention", "mean", 0.2, 2.0),)
    task = RecallTask(10, 12, 4, 0.1, 0.2, 0.9, 0.1, removed=removed)
    recall = Recall("samba", 1, "samba", "f", "m", 10, {"mqar": task})
    hybrid = SimpleNamespace(recall=recall, by_layer=found({A: 0.5, R: 1.0}), test_nats=4.0)
    without = SimpleNamespace(recall=None, by_layer=found({}, intact=3.1), test_nats=7.0)  # of other text, so not looked at
    assert by.recall_lost(hybrid, "mqar", "attention", "mean") == pytest.approx(0.7)
    assert by.recall_lost(hybrid, "mqar", "recurrent", "mean") is by.recall_lost(without, "mqar", "attention", "mean") is None
    assert by.overstated(hybrid, without, "attention", "mean") == pytest.approx(0.4)
    assert by.overstated(without, hybrid, "attention", "mean") is None
