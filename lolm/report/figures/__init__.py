"""All figures of a study. To add one: a function that draws it from a table, and an entry of :data:`FIGURES`."""

from __future__ import annotations

from lolm.records.results import ScaleResults
from lolm.report import ablations, layer_tables, tables
from lolm.report.figures import arms, boundaries, interventions, laboratory, layers, training
from lolm.report.figures.picture import FigureEntry, Picture

__all__ = ["FIGURES", "FigureEntry", "Picture", "left_out", "pictures"]

LABORATORY = "interventions on the subject's gate and branches; the subject has none, or `ablate` was not run for it"
REMOVALS = "an arm with recurrent and attention mixers whose types were removed (`layers`)"
# name, title, table, function; caption; text for those who do not see it; what it needs
FIGURES: tuple[FigureEntry, ...] = (
    FigureEntry(
        "bits_per_byte", "Test loss in bits per byte", tables.test_loss, training.bits_per_byte,
        "Independent of the tokenizer. Bar: mean over {seeds}, dots: seeds, line: {level} interval, as on the leaderboard. "
        "Uniform, unigram and bigram were estimated on the tokens that the runs trained on, the last on the whole training text.",
        "Test loss of each arm in bits per byte beside uniform, unigram and bigram models.",
        "an evaluated run",
    ),
    FigureEntry(
        "learning_curves", "Learning curves", tables.learning_curves, training.learning_curves,
        "Held-out loss during training on {training_tokens} validation tokens, the same each time, mean over {seeds}; bands: "
        "{own}; those of paired differences are narrower. Dotted: uniform guess, unigram and interpolated bigram model of the "
        "same training tokens, on {reference_tokens} validation tokens. The large panel leaves out the first losses. Seconds "
        "depend on the machine and on what else it did.",
        "Panels of held-out loss falling with training tokens, steps, FLOPs and seconds, for {arms}.",
        "a trained run",
    ),
    FigureEntry(
        "loss_at_ends", "Loss where schedules end", tables.schedule_ends, arms.loss_at_ends,
        "Each point is a model whose learning rate was annealed: the run itself, or a copy that ended its schedule earlier. Mean "
        "over {seeds}, lines: {own}. Sound multipliers are read from these points.",
        "Loss of each arm at its ends of schedule against training FLOPs.",
        "losses where learning-rate schedules end",
    ),
    FigureEntry(
        "multipliers", "Compute multiplier at each budget", tables.multipliers, arms.multipliers,
        "FLOPs of {baseline} over those of the arm to the lowest loss that both reach by a common end of schedule, geometric "
        "mean over {seeds}. Above 1 the arm needs less. Points of one arm share runs. Points that cannot be measured without "
        "extrapolation are left out; the data say why.",
        "Compute multiplier of each arm against the baseline at each end of schedule, with a line at 1.",
        "the baseline and another arm with the same seeds, and a loss that both reach where schedules end",
    ),
    FigureEntry(
        "lead", "The lead during training", tables.lead, training.lead,
        "Left: held-out loss of {subject} minus that of {baseline}, same seed; band: {level} interval of seeds alone, by the "
        "differences' own variance. Right: cost of the baseline over the subject's to the loss that the baseline has at that "
        "step; missing where the subject never measures that loss, and the mean where that of one seed is. Thin: each seed; "
        "thick: mean over {seeds}. A multiplier read in the middle of a run compares unequal learning rates.",
        "Two panels: the paired loss difference of subject and baseline over training, and the multiplier in steps and FLOPs.",
        "runs of subject and baseline with the same seeds",
    ),
    FigureEntry(
        "recall", "Recall against state", tables.recall, arms.recall,
        "Accuracy at the positions that a synthetic task asks, after training on it from scratch at the arm's own size; a point "
        "a run, over {seeds}, and how many of an arm's runs solve it (grey line). A cross at 0: a run that diverged, which does "
        "not solve it. One learning rate for all arms, and the training is short: an arm that fails here may learn the task with "
        "more of it.",
        "Accuracy of each run in recall tasks against the size of its state, with a line at chance.",
        "an arm trained on the recall tasks",
    ),
    FigureEntry(
        "by_position", "Loss by position", tables.by_position, arms.by_position,
        "Mean test loss of the targets in bins whose edges double, over {seeds}; bands: {own}. The n-th target has n tokens of "
        "context; how far a curve falls is what the arm makes of it.",
        "Test loss of each arm against the position in the window, falling with context.",
        "an evaluated run",
    ),
    FigureEntry(
        "rates", "Choice of the learning rate", tables.rates, arms.rates,
        "Validation loss of runs of {sweep_steps} steps, each with a whole schedule, above the arm's best; the ring is the rate "
        "that was chosen and trained with, a cross a run that diverged. “Edge”: the best rate is the last of its grid, so a "
        "better one may lie beyond.",
        "One panel an arm: loss above the arm's best against the peak learning rate, the chosen rate marked.",
        "a sweep of an arm's learning rate",
    ),
    FigureEntry(
        "gate_path", "Path of the mean gate", tables.gate_path, training.gate_path,
        "Mean over dimensions and positions. The target is the regression target of the competitive loss, so a gate that lies on "
        "it was put there. Published paths, not drawn: 0.36, dip to 0.17, then 0.83 (304M); 0.71 (1.57B).",
        "The mean gate over training steps on training batches and held-out text, with its supervised target.",
        "an arm with a gate",
    ),
    FigureEntry(
        "gate_histogram", "Distribution of gate values", tables.gate_histogram, interventions.gate_histogram,
        "Gate values over test tokens and dimensions, final weights. Thin: each seed; thick: mean.",
        "Histogram of gate values between 0 and 1 on test tokens.",
        "an evaluated arm with a gate",
    ),
    FigureEntry(
        "ablation_sweep", "Loss with the gate forced to a constant", ablations.forced_gate, interventions.ablation_sweep,
        "Mean over {seeds}; the thick line is the final model, with {own}; thin lines are earlier checkpoints. A model above the "
        "dotted lines predicts worse than the unigram model, or than a uniform guess, on the same tokens, and is non-functional.",
        "Loss against the forced gate value at several checkpoints, with lines for the learned gate, unigram and uniform losses.",
        LABORATORY,
    ),
    FigureEntry(
        "damage", "Damage done by interventions", ablations.damage, interventions.damage,
        "Loss under the intervention minus loss of the intact model on the same test tokens. Left: gate forced to 1 or 0, beside "
        "the control: {baseline}, where it is a plain stack, without its last blocks, as many as LOLM has latent layers. "
        "Right: the learned gate moved part of the way to the constant.",
        "Damage in nats of forcing the gate to 1 and to 0 and of skipping the baseline's last blocks, at several checkpoints.",
        LABORATORY,
    ),
    FigureEntry(
        "regimes", "Use of the regime codes", tables.regimes, interventions.regimes,
        "Counting the argmax of noisy samples, as published, finds every code alive even when the logits say nothing (grey). "
        "What the layer itself chooses shows without noise. Dots: seeds; bar: mean.",
        "Share of regime codes in use and their usage entropy, as sampled, under pure noise, and without noise.",
        "an evaluated arm with regime codes",
    ),
    FigureEntry(
        "inversion_statistic", "Which branch is missed more", ablations.inversion_statistic, laboratory.inversion_statistic,
        "Inversion statistic at the final weights, {seeds}; bars: {level} intervals, as in the ledger; ticks: seeds. Bold and "
        "blue: the declared way, which alone decides; orange: the published one. Grey band: ±{margin} nats. Green: two random "
        "halves of all dimensions in the branches' place.",
        "Inversion statistic with intervals for each way of removing the branches, and the values of random halves.",
        LABORATORY,
    ),
    FigureEntry(
        "dependency_share", "Which branch is missed more, and which is larger", ablations.dependency, laboratory.dependency_share,
        "S by the declared removal at the final weights; dots: runs, crosses: {level} intervals of an arm, for S as in the "
        "ledger, for share and gate of seeds alone, by its own variance. Grey band: ±{margin} nats. An inversion lies above the "
        "band and left of the dotted line: a smaller branch that is missed more.",
        "Inversion statistic of each arm against the latent branch's share of the gated signal, and against the mean gate.",
        LABORATORY,
    ),
    FigureEntry(
        "effects", "What h and z do, and by which way", ablations.effects, laboratory.effects,
        "Damage at the final weights when a stream is replaced, as declared, for all that reads it, at the fusion alone, for all "
        "but the fusion, or in the SSM's input alone; what follows is computed again. Branch alone: the other branch, memory and "
        "regime at their means. Bars: {own}; ticks: seeds.",
        "Total, direct and indirect damage without surface stream and without latent stream in each arm.",
        LABORATORY,
    ),
    FigureEntry(
        "trajectory", "Dependency, gate and target over training", ablations.trajectory, laboratory.trajectory,
        "{seeds} (thin), mean, and {own}. Grey band: ±{margin} nats. Gate: held-out text; target: training batches.",
        "Inversion statistic over training beside mean gate, its supervised target and the latent branch's share.",
        "branches of the subject removed at two checkpoints",
    ),
    FigureEntry(
        "readout_recovery", "Is it lost, or only unreadable?", ablations.readout_recovery, laboratory.readout_recovery,
        "Loss minus that of the intact model, after the same part of either was refitted on training text, stopped on validation "
        "text, the intervention in place. Near 0, the information was there and the readout off its distribution. Lines: {own}.",
        "Damage left after refitting temperature, norms, head or all weights, for each intervention.",
        LABORATORY,
    ),
    FigureEntry(
        "contributions", "What each addend contributes, beside the gate", ablations.contributions, laboratory.contributions,
        "Final weights, held-out text; mean over {seeds}, and {own}. Orange diamonds: the mean gate and one minus it, which are "
        "coefficients and no shares. A negative share works against the others.",
        "Share of variance, logit contribution and length of each addend of the fusion beside the mean gate.",
        LABORATORY,
    ),
    FigureEntry(
        "token_classes", "The gate and the branches by class of token", ablations.token_classes, laboratory.token_classes,
        "Class of the input token or its position; classes overlap. Mean over {seeds}, and {own}. The authors' page on single "
        "tokens shows drawn values, not measurements.",
        "Mean gate, and damage without latent and without surface, for function words, content words and other classes.",
        LABORATORY,
    ),
    FigureEntry(
        "type_statistic", "Which type of layer is missed more", layer_tables.type_statistic, layers.type_statistic,
        "Left: S_type, loss without all recurrent mixers minus loss without all attention mixers, each at its mean; green: the "
        "same were the types dealt out to the mixers otherwise, mean over seeds. Grey band: ±{type_margin} nats. Middle: damage "
        "without each type. Right: the recurrent mixers' share of what the means take away. {seeds}; bars: {own}; ticks: seeds.",
        "S_type of each hybrid with intervals beside all other labellings, damage of each type, and the recurrent share.",
        REMOVALS,
    ),
    FigureEntry(
        "damage_by_layer", "Damage of single layers", layer_tables.damage_by_layer, layers.damage_by_layer,
        "Loss with what one mixer or MLP writes at its mean, everything after it computed again, minus the loss; final weights, "
        "mean over {seeds} (thin: each). Logarithmic above 0.01. In Hymba a layer has a branch of either type.",
        "One panel an arm: damage of each mixer and MLP alone against its layer, by type.",
        "an arm whose layers were removed one by one (`layers`)",
    ),
    FigureEntry(
        "types_over_training", "Types of layer over training", layer_tables.types_over_training, layers.types_over_training,
        "S_type and the recurrent share at kept weights, mean over {seeds}; bands: {own}. Grey: ±{type_margin} nats.",
        "S_type and the recurrent share of the removed norm over training steps, a line an arm.",
        REMOVALS,
    ),
    FigureEntry(
        "training_arms", "What training otherwise does", tables.training_arms, laboratory.training_arms,
        "Each arm minus the subject, paired by seed, or, in a factorial design, the main effect of each factor, high minus low "
        "level; {level} intervals as on the leaderboard and in the ledger, not corrected; ticks: seeds. Blue and bold: shown "
        "after Holm's correction, in each outcome over all factors, or over all other arms of the study, of which those of the "
        "subject's family are here.",
        "Differences of arms, or main effects of factors, in test loss, mean gate, inversion statistic and code usage.",
        "another arm of LOLM's family beside the subject, with the same seeds",
    ),
    FigureEntry(
        "boundaries", "After the boundaries of the text", boundaries.boundaries_table, boundaries.boundaries,
        "By the number of tokens since a sentence, paragraph or document began, the last of them. Left: loss of the other arms "
        "minus that of {subject}, paired by seed; right: its mean gate and the latent branch's share of the power. Mean over "
        "{seeds}, bars: {own}. Test split, the first 64 tokens of each window left out.",
        "Loss of the other arms minus the subject's, and its gate and latent share, by distance from a boundary.",
        "losses by the boundaries of the text (`ablation.boundary_tokens`)",
    ),
)  # fmt: skip


def pictures(results: ScaleResults) -> list[Picture]:
    """Every figure that these results have data for, in the order of the report."""
    return [picture for entry in FIGURES if (picture := entry.picture(results)) is not None]


def left_out(results: ScaleResults) -> list[FigureEntry]:
    """The figures that these results have no data for; each says what it needs."""
    return [entry for entry in FIGURES if entry.table(results).empty]
