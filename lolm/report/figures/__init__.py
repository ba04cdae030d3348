"""All figures of a scale, each with the data behind it (:class:`~lolm.report.figures.style.Picture`)."""

from __future__ import annotations

from lolm.records.results import ScaleResults
from lolm.report.figures import arms, budgets, interventions, laboratory, training
from lolm.report.figures.style import Picture

__all__ = ["Picture", "pictures"]


def pictures(results: ScaleResults) -> list[Picture]:
    """Every figure that these results have data for, in the order of the report."""
    made = (
        training.bits_per_byte(results),
        training.learning_curves(results),
        budgets.loss_at_ends(results),
        budgets.multipliers(results),
        training.lead(results),
        arms.recall(results),
        arms.by_position(results),
        arms.rates(results),
        training.gate_path(results),
        interventions.histogram(results),
        interventions.sweep(results),
        interventions.damage(results),
        interventions.regimes(results),
        laboratory.inversion_statistic(results),
        laboratory.trajectory(results),
        laboratory.readout_recovery(results),
        laboratory.contributions(results),
        laboratory.token_classes(results),
        laboratory.training_arms(results),
    )
    return [picture for picture in made if picture is not None]
