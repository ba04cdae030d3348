"""What the words of a ledger mean in a study."""

from __future__ import annotations

from lolm.claims.numbers import show_level
from lolm.records.results import ScaleResults


def definitions(results: ScaleResults) -> list[tuple[str, str]]:
    """What the words of the ledger mean here."""
    analysis = results.analysis
    level = show_level(analysis.confidence)
    return [
        (
            "Interval",
            f"{level} Student's t interval over seeds, paired by seed where arms are compared (one seed gives both "
            "arms the same data order), on the logarithm for ratios. It covers data order and initialisation. That of a test "
            "loss, of its difference between arms and of a multiplier covers the choice of text as well, where the evaluation "
            "kept its losses by piece of text: the squared error of the mean under a bootstrap over documents, or over blocks of "
            f"{analysis.block_tokens:,} tokens where there are few, is added, degrees of freedom weighted by the parts. Blocks "
            "speak of other passages of the same documents. With fewer than "
            f"{analysis.pool_below} seeds the variance over seeds is pooled over the arms of the study, unless a test at level "
            f"{analysis.pooling_level:g} shows that they differ. One seed gives no interval.",
        ),
        (
            "As published",
            f"Training loss averaged over {analysis.published_window} steps (or the nearest number of whole log "
            "windows, at most a tenth of the run), with "
            "the dropout and noise that training has, optimiser steps as the only cost, perplexity capped at e^20 where the "
            "published script caps it.",
        ),
        (
            "Multiplier",
            "The baseline's cost over the subject's cost to reach the same held-out loss, read where learning-rate schedules "
            "end: the run's own end, and those of copies of it that were annealed earlier. At each of these budgets the level "
            "is the lowest loss that both arms of a pair reached by then, so the arm behind stands on a measured point and the "
            "other is interpolated in ln(cost) between two of its own. Above 1, the subject needs less. Nothing is "
            "extrapolated: a budget whose level one arm has passed before its first point has no multiplier, and none where a "
            "single pair has none. Where losses fall as a power of about 0.3 interpolation understates the lead of "
            f"the arm ahead by up to {100 * analysis.interpolation_margin:g} % between budgets that double, and by more where "
            "they fall faster: two other interpolants stand beside it, to show by how much. So multipliers are called different "
            "between budgets only beyond that, and 2× fails only beyond that. "
            "Multipliers inside the runs are kept as a second view: there neither schedule has ended, and the lead of "
            "either arm is understated by more.",
        ),
        (
            "Costs",
            "FLOPs are counted from the architecture, causal attention exactly, head and auxiliary loss heads "
            "included, backward twice the forward. "
            "Seconds are wall-clock on whatever machine ran and depend on the maturity of each kernel; they compare only between "
            "runs of one machine with the same kernels, made one at a time (`make repro JOBS=1`). State is what generation "
            "carries for one sequence.",
        ),
        (
            "Solved",
            f"A run that is right at {100 * analysis.solved_accuracy:g} % or more of the asked positions of a recall task. Runs "
            "do or do not, so they are counted, with the exact interval of Clopper and Pearson.",
        ),
        (
            "Tuning",
            _tuning(results),
        ),
        (
            "Equivalence",
            f"Losses are called equivalent only if two one-sided tests place their difference within "
            f"±{analysis.equivalence_margin:g} nats; then a claim of a lower one fails, even where the interval lies below 0. "
            f"An inversion needs {analysis.inversion_margin:g} nats; gate levels and shares closer than "
            f"{analysis.gate_margin:g}, interval and all, count as equal. "
            "All margins stand in params.yaml; docs/protocol.md says since when.",
        ),
        (
            "Non-functional",
            "A model, or an intervention on one, whose loss exceeds that of the unigram model, or of a uniform guess, "
            "on the same tokens.",
        ),
        (
            "Multiplicity",
            "One comparison is declared in params.yaml before the runs: the study's subject against its baseline, in FLOPs to "
            "the same loss and in test loss. Neither of the two is corrected. The test losses of all other arms against the "
            "subject are compared together, two-sided paired t tests with Holm's step-down correction. Contrasts on training "
            "have Bonferroni's level over those asked of the same runs, calls of S and pairs of ways to remove a branch are "
            "Holm's, as their entries say; other intervals are not corrected. A p value above the level shows "
            "no difference; it does not show that there is none.",
        ),
        (
            "Verdicts",
            "They speak of this scale, these arms and these seeds. A claim that fails here may hold at 1.57B, and the reverse. "
            "“Not run”: an arm or a study that the claim takes was not run; the command that runs it stands beside. “Not "
            "testable at this scale”: what no run of this scale can show. Where the subject or its baseline is shown to be no "
            "better than the bigram model of its own training tokens, every measured verdict is withheld.",
        ),
    ]  # fmt: skip


def _tuning(results: ScaleResults) -> str:
    swept = {arm: sweep for arm, sweep in results.sweeps.items() if sweep.inside is not None}
    if not swept:
        return (
            "Each arm has the peak learning rate that params.yaml gives it. No sweep is part of these runs, and the intervals do "
            "not cover that choice."
        )
    edge = list(dict.fromkeys(results.label(sweep.arm) for sweep in swept.values() if not sweep.inside))
    shared = [results.label(arm) for arm, sweep in swept.items() if sweep.arm != arm]
    given = [results.label(arm) for arm in results.arms if arm not in swept]
    one = next(iter(swept.values()))
    text = (
        f"Each arm has the peak learning rate that a sweep chose by validation loss: short runs of {one.steps:,} steps, "
        f"{len(one.seeds)} {'seed' if len(one.seeds) == 1 else 'seeds'}, the same grid for every arm. All else is shared "
        "and was tuned for none of them. The intervals do not cover the choice, nor whether the best rate of a short run is that "
        "of a long one."
    )
    if edge:
        text += f" At the edge of its grid, so perhaps not the best: {', '.join(edge)}."
    if shared:
        rates = " and ".join(dict.fromkeys(results.label(sweep.arm) for arm, sweep in swept.items() if sweep.arm != arm))
        text += f" The rate of {rates} holds for the arms that are variants of it, so that they differ in one thing: "
        text += f"{', '.join(shared)}."
    return text + (f" Not swept: {', '.join(given)}." if given else "")
