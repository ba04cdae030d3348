"""The search for a learning rate, on losses that are known."""

import math

import pytest
from builders import ArrayStream
from runs import make_trainer, short_run

from lolm.data.batches import BatchSampler
from lolm.training.progress import DivergenceError
from lolm.training.sweep import choose, search
from lolm.training.trial import run_trial


def valley(optimum: float):
    tried = []

    def loss_of(rate: float) -> float:
        tried.append(rate)
        return 3 + math.log(rate / optimum) ** 2

    return loss_of, tried


def test_an_optimum_inside_costs_the_grid_alone():
    loss_of, tried = valley(2.2)
    found = search([1.0, 2.0, 4.0], loss_of, extensions=3)
    assert (found.chosen, found.inside, tried) == (2.0, True, [1.0, 2.0, 4.0])
    assert list(found.losses) == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(("optimum", "wanted", "added"), [(7.5, 8.0, [8.0, 16.0]), (0.6, 0.5, [0.5, 0.25])])
def test_the_grid_grows_at_its_edge_until_the_optimum_is_inside(optimum, wanted, added):
    loss_of, tried = valley(optimum)
    found = search([1.0, 2.0, 4.0], loss_of, extensions=3)
    assert (found.chosen, found.inside) == (wanted, True)
    assert tried == [1.0, 2.0, 4.0, *added]


def test_the_budget_ends_the_search_and_the_edge_is_admitted():
    loss_of, tried = valley(1000.0)
    found = search([1.0, 2.0, 4.0], loss_of, extensions=2)
    assert (found.chosen, found.inside, len(tried)) == (16.0, False, 5)


def test_divergence_is_worse_than_any_loss():
    found = search([1.0, 2.0, 4.0], lambda rate: math.inf if rate > 1.5 else 3.0, extensions=1)
    assert (found.chosen, found.inside) == (0.5, False)  # ties go to the lower rate
    with pytest.raises(ValueError, match="diverged at every"):
        search([1.0, 2.0, 4.0], lambda rate: math.inf, extensions=1)


def test_of_rates_that_seeds_could_swap_the_lowest_is_taken():
    losses = {1.0: 3.5, 2.0: 3.019, 4.0: 3.0, 8.0: 3.2}
    assert choose(losses, 0.0) == 4.0
    assert choose(losses, 0.02) == 2.0
    found = search(sorted(losses), losses.__getitem__, extensions=1, tie=0.02)
    assert (found.chosen, found.inside, found.losses) == (2.0, True, losses)
    assert search(sorted(losses), losses.__getitem__, extensions=1, tie=0.6).inside is False  # the lowest of all


@pytest.mark.parametrize(("last", "inside"), [(2.484, False), (2.51, True)])
def test_a_rate_with_no_worse_one_above_it_is_not_inside(last, inside):
    """Of losses that only fall the lowest within the tie is taken; whether they rise again nobody has seen."""
    losses = {0.5: 3.0, 1.0: 2.5, 2.0: 2.49, 4.0: 2.485, 8.0: last}
    found = search([0.5, 1.0, 2.0], losses.__getitem__, extensions=2, tie=0.02)
    assert (found.chosen, found.inside, found.losses) == (1.0, inside, losses)


def test_a_trial_is_a_run_of_the_one_loop_and_leaves_nothing(tmp_path):
    run = short_run("transformer", training={"snapshots": ()})
    sampler = BatchSampler(ArrayStream(), 2, 24, 1)
    evaluate = make_trainer(run, tmp_path).evaluate
    first = run_trial(run, sampler, evaluate, tmp_path / "trial")
    assert first["step"] == run.training.steps
    assert first["val/nats"] == first["annealed/nats"]
    assert list(tmp_path.iterdir()) == []
    again = run_trial(run, sampler, evaluate, tmp_path / "trial")
    assert again["val/nats"] == first["val/nats"]


def test_a_trial_that_diverges_says_so(tmp_path):
    run = short_run("transformer", training={"snapshots": ()}, size={"learning_rate": 1e30})
    with pytest.raises(DivergenceError, match="not finite"):
        run_trial(run, BatchSampler(ArrayStream(), 2, 24, 1), lambda model: {"val/nats": 1.0}, tmp_path / "trial")
