"""The data behind each figure, as pandas tables read by column: for the page, for `dvc plots`, and for notebooks.

Each function makes one table of a study's results; without the measurement it has its columns and no row. A row is one
measurement of one run, so that means and intervals over seeds are left to the reader. Losses are nats a token unless a
column's name says otherwise; empty cells were not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lolm.analysis import dependency as dep
from lolm.analysis import efficiency as eff
from lolm.analysis.effects import OUTCOMES, arm_effects, main_effects
from lolm.records import AXES, names
from lolm.records.results import RunRecord, ScaleResults

LADDER = ("uniform", "unigram", "bigram")  # trivial models, worst first
REFERENCES = {
    "uniform": "uniform guess",
    "unigram": "unigram",
    "bigram": "bigram",
    "bigram_all_text": "bigram, whole training text",
}
GATE_SERIES = {names.GATE_LEVEL: "training batches", names.GATE_TARGET: "supervised target", names.VAL_GATE_MEAN: "held-out"}
NO_LATENT, NO_SURFACE, SKIPPED = "g = 1 (no latent)", "g = 0 (no surface)", "Transformer without its last blocks"
TOWARD = {"toward 1": names.BLEND_TO_ONE, "toward 0": names.BLEND_TO_ZERO}
CODE_COUNTS = {
    "sampled": "Gumbel samples (as published)",
    "noise": "pure noise, same sampling",
    "eval": "evaluation mode, no noise",
}
REMOVED = {
    (names.GATE, 1.0): NO_LATENT,
    (names.GATE, 0.0): NO_SURFACE,
    (names.replaced(names.LATENT, names.MEAN), None): "latent mean",
    (names.replaced(names.SURFACE, names.MEAN), None): "surface mean",
}
REFITTED = {
    names.TEMPERATURE: "one temperature",
    names.AFFINE: "gains and biases of the norms",
    names.HEAD: "the head",
    names.HEAD_SCRATCH: "a head from scratch",
    names.FINE_TUNE: "all weights, briefly",
}
HALVES = "random halves"


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A table with these columns; what is missing in a row is empty, and whole numbers stay whole beside empty cells."""
    table = pd.DataFrame([[row.get(column) for column in columns] for row in rows], columns=list(columns))
    for column in ("seed", "step"):
        if column in table:
            table[column] = table[column].astype("Int64")
    return table


def _subjects(results: ScaleResults) -> tuple[RunRecord, ...]:
    return results.of(results.subject) if results.subject else ()


def references(results: ScaleResults, split: str = "test") -> dict[str, float]:
    """Mean loss of each trivial model over the evaluated runs, nats a token; ``split`` is ``test`` or ``validation``."""
    found = [run.evaluation for run in results.runs if run.evaluation is not None]
    losses = [e.references if split == "test" else e.references_validation for e in found]
    return {name: math.fsum(getattr(one, name) for one in losses) / len(losses) for name in REFERENCES} if losses else {}


# ---------------------------------------------------------------------------------------------- training and its end


def test_loss(results: ScaleResults) -> pd.DataFrame:
    """Test loss of every run, and of trivial models on the same tokens (``kind`` is ``reference``)."""
    rows: list[dict[str, Any]] = [
        {"kind": "run", "arm": run.arm, "seed": run.seed, "bits_per_byte": e.test.bits_per_byte, "nats": e.test.nats}
        for run in results.runs
        if (e := run.evaluation) is not None
    ]
    factor = rows[0]["bits_per_byte"] / rows[0]["nats"] if rows else 0.0  # the same test tokens for every run
    for name, nats in references(results).items():
        rows.append({"kind": "reference", "arm": name, "seed": None, "bits_per_byte": nats * factor, "nats": nats})
    return _table(("kind", "arm", "seed", "bits_per_byte", "nats"), rows)


def learning_curves(results: ScaleResults) -> pd.DataFrame:
    """Validation loss during training against all four costs."""
    return _table(
        ("arm", "seed", *AXES, "val_nats", "val_bits_per_byte"),
        (
            {"arm": run.arm, "seed": run.seed, "val_nats": row[names.VAL_NATS]}
            | {"val_bits_per_byte": row.get(names.VAL_BITS_PER_BYTE)}
            | {axis: row[axis] for axis in AXES}
            for run in results.runs
            for row in run.rows
            if names.VAL_NATS in row
        ),
    )


def schedule_ends(results: ScaleResults) -> pd.DataFrame:
    """Loss where each learning-rate schedule ended, on the split that all runs have there."""
    split = eff.annealed_split(results.runs)
    rows = []
    for run in results.runs:
        steps, flops = run.annealed(split) or ([], []), run.annealed(split, "flops") or ([], [])
        for step, spent, nats in zip(steps[0], flops[0], steps[1], strict=True):
            rows.append({"arm": run.arm, "seed": run.seed, "step": step, "flops": spent, "split": split, "nats": nats})
    return _table(("arm", "seed", "step", "flops", "split", "nats"), rows)


def multipliers(results: ScaleResults) -> pd.DataFrame:
    """FLOPs of the baseline over the arm's at every common end of schedule; ``not_measured`` says why there is none."""
    columns = ("arm", "step", "baseline_flops", "multiplier", "low", "high", "not_measured")
    rows = []
    for arm in results.arms:
        pairs = results.pairs(arm, results.baseline) if arm != results.baseline else ()
        for point in eff.at_budgets(pairs, "flops", results.analysis.confidence, results).points if pairs else ():
            low, high = (point.estimate.interval if point.estimate else None) or (None, None)
            value = None if point.estimate is None else point.estimate.value
            rows.append(
                {"arm": arm, "step": point.steps, "baseline_flops": point.baseline, "multiplier": value, "low": low, "high": high}
                | {"not_measured": point.reason}
            )
    return _table(columns, rows if any(row["multiplier"] is not None for row in rows) else ())


def lead(results: ScaleResults) -> pd.DataFrame:
    """Loss of the subject minus the baseline's during training; cost ratios to the loss the baseline has at a step."""
    pairs, rows = results.pairs(results.subject, results.baseline), []
    for subject, base in pairs:
        ours, theirs = (dict(zip(*run.points(names.VAL_NATS), strict=True)) for run in (subject, base))
        rows += [
            {"quantity": "difference", "seed": subject.seed, "step": step, "value": ours[step] - theirs[step]}
            for step in sorted(set(ours) & set(theirs))
            if step > 0
        ]
    for axis in ("step", "flops"):
        for subject, base in pairs:
            steps = dict(zip(eff.heldout_curve(base, axis).positions, eff.heldout_curve(base, "step").positions, strict=True))
            found = eff.along([eff.heldout_curve(base, axis)], [eff.heldout_curve(subject, axis)], axis)
            rows += [
                {
                    "quantity": f"multiplier in {axis}",
                    "seed": subject.seed,
                    "step": steps[r["position"]],
                    "value": r["multiplier"],
                }
                for r in found
                if r["multiplier"]
            ]
    return _table(("quantity", "seed", "step", "value"), rows)


# ---------------------------------------------------------------------------------------------- all arms side by side


def recall(results: ScaleResults) -> pd.DataFrame:
    """Accuracy in each recall task; empty where that run diverged."""
    return _table(
        ("task", "arm", "seed", "state_elements", "accuracy", "chance", "nats"),
        (
            {"task": task, "arm": run.arm, "seed": run.seed, "state_elements": run.recall.state_elements}
            | {"accuracy": scores.accuracy, "chance": scores.chance, "nats": scores.nats}
            for run in results.runs
            if run.recall is not None
            for task, scores in run.recall.tasks.items()
        ),
    )


def by_position(results: ScaleResults) -> pd.DataFrame:
    """Test loss over ranges of positions in the window, ``start`` to ``stop`` − 1."""
    return _table(
        ("arm", "seed", "start", "stop", "nats", "bits_per_byte", "accuracy"),
        (
            {"arm": run.arm, "seed": run.seed, "start": part.start, "stop": part.stop, "nats": part.nats}
            | {"bits_per_byte": part.bits_per_byte, "accuracy": part.accuracy}
            for run in results.runs
            if run.evaluation is not None
            for part in run.evaluation.positions.bins
        ),
    )


def rates(results: ScaleResults) -> pd.DataFrame:
    """Validation loss at each peak learning rate of each sweep; empty where training diverged."""
    return _table(
        ("arm", "learning_rate", "nats", "chosen", "inside"),
        (
            {"arm": sweep.arm, "learning_rate": rate.learning_rate, "nats": rate.nats}
            | {"chosen": rate.learning_rate == sweep.chosen, "inside": sweep.inside}
            for sweep in {sweep.arm: sweep for sweep in results.sweeps.values()}.values()
            for rate in sorted(sweep.rates, key=lambda rate: rate.learning_rate)
        ),
    )


def training_arms(results: ScaleResults) -> pd.DataFrame:
    """Arms of the subject's family minus the subject, or main effects of a design, in every outcome; p as it is and by Holm.

    One row a pair of runs with the same seed; the difference is the mean of ``value`` over them.
    """
    design = bool(results.params.selected.factors)
    read = main_effects if design else arm_effects
    family = {arm for arm in results.arms if results.subject and results.family(arm) == results.family(results.subject)}
    rows = []
    for key, outcome in OUTCOMES.items() if results.subject and results.family(results.subject) == "lolm" else ():
        for effect in read(results, key):
            if design or effect.name in family:
                low, high = effect.difference.interval or (None, None)
                rows += [
                    {"arm_or_factor": effect.name, "key": key, "outcome": outcome.name, "unit": outcome.unit, "pair": pair}
                    | {"value": value, "difference": effect.difference.value, "low": low, "high": high}
                    | {"p": effect.p_value, "p_adjusted": effect.adjusted}
                    for pair, value in enumerate(effect.difference.per_seed, 1)
                ]
    columns = ("arm_or_factor", "key", "outcome", "unit", "pair", "value", "difference", "low", "high", "p", "p_adjusted")
    return _table(columns, rows)


# ---------------------------------------------------------------------------------------------- gate and regime codes


def gate_path(results: ScaleResults) -> pd.DataFrame:
    """Mean gate during training on training batches and held-out text, and the target it is trained to."""
    return _table(
        ("arm", "seed", "step", "series", "value"),
        (
            {"arm": run.arm, "seed": run.seed, "step": row["step"], "series": name, "value": row[key]}
            for run in results.runs
            if run.family == "lolm"
            for row in run.rows
            for key, name in GATE_SERIES.items()
            if key in row
        ),
    )


def gate_histogram(results: ScaleResults) -> pd.DataFrame:
    """Gate values over test tokens and dimensions, counted in bins ``from`` … ``to``."""
    return _table(
        ("arm", "seed", "from", "to", "count"),
        (
            {"arm": run.arm, "seed": run.seed, "from": edges[i], "to": edges[i + 1], "count": count}
            for run in results.runs
            if run.evaluation is not None and run.evaluation.gate is not None
            for edges in (run.evaluation.gate.histogram.edges,)
            for i, count in enumerate(run.evaluation.gate.histogram.counts)
        ),
    )


def regimes(results: ScaleResults) -> pd.DataFrame:
    """Codes that are ever chosen and the entropy of their usage, counted in three ways."""
    return _table(
        ("arm", "seed", "counted", "alive", "codes", "usage_entropy", "max_entropy"),
        (
            {"arm": run.arm, "seed": run.seed, "counted": text, "alive": getattr(regime, f"alive_{kind}")}
            | {
                "codes": regime.codes,
                "usage_entropy": getattr(regime, f"usage_entropy_{kind}"),
                "max_entropy": regime.max_entropy,
            }
            for run in results.runs
            if run.evaluation is not None and (regime := run.evaluation.regime) is not None
            for kind, text in CODE_COUNTS.items()
        ),
    )


# ---------------------------------------------------------------------------------------------- interventions on the subject


def conditions(results: ScaleResults) -> pd.DataFrame:
    """Every intervention on every run, at every checkpoint; ``damage_nats`` is the loss minus the learned model's."""
    columns = ("arm", "seed", "step", "intervention", "value", "nats", "damage_nats", "bits_per_byte", "accuracy", "kl_to_full",
               "top1_agreement", "temperature", "nats_fitted")  # fmt: skip
    rows = []
    for run in results.runs:
        learned = {c.step: c.nats for c in run.ablation.conditions if c.intervention == names.NONE} if run.ablation else {}
        for c in run.ablation.conditions if run.ablation else ():
            damage = c.nats - learned[c.step] if c.step in learned else None
            rows.append({"arm": run.arm, "seed": run.seed, "damage_nats": damage} | vars(c))
    return _table(columns, rows)


def forced_gate(results: ScaleResults) -> pd.DataFrame:
    """Loss of the subject with its gate forced to a constant (``gate`` is ``forced``), and learned, at every checkpoint."""
    table = _on_gate(results)
    table = table[table["intervention"].isin((names.GATE, names.NONE))]
    kind = table["intervention"].map({names.GATE: "forced", names.NONE: "learned"})
    columns = ["seed", "step", "gate", "forced_to", "nats", "accuracy", "kl_to_full"]
    return table.assign(gate=kind, forced_to=table["value"])[columns]


def damage(results: ScaleResults) -> pd.DataFrame:
    """Damage of g = 1 and g = 0, of the serial control in the baseline, and of moving the gate part of the way."""
    every, mine = conditions(results), _on_gate(results)
    gate, last = mine[mine["intervention"] == names.GATE], mine[mine["step"] == mine["step"].max()]
    latent = _subjects(results)[0].header.run.size.latent if results.subject else None
    depth = latent.layers if latent is not None else 0  # the control skips as many blocks as LOLM has latent layers
    base = every[(every["arm"] == results.baseline) & every["seed"].isin(mine["seed"])]
    series = {
        NO_LATENT: gate[gate["value"] == 1.0],
        NO_SURFACE: gate[gate["value"] == 0.0],
        SKIPPED: base[(base["intervention"] == names.SKIP_LAST_BLOCKS) & (base["value"] == depth)],
    } | {name: last[last["intervention"] == intervention].sort_values("value") for name, intervention in TOWARD.items()}
    parts = [part.assign(series=name, setting=part["value"]) for name, part in series.items() if len(part)]
    columns = ["series", "seed", "step", "setting", "damage_nats"]
    return pd.concat(parts)[columns] if parts else _table(columns, ())


def _on_gate(results: ScaleResults) -> pd.DataFrame:
    """Rows of :func:`conditions` of the subject's runs whose gate was forced."""
    table = conditions(results)
    forced = table.loc[(table["arm"] == results.subject) & (table["intervention"] == names.GATE), "seed"]
    return table[(table["arm"] == results.subject) & table["seed"].isin(forced)]


def inversion_statistic(results: ScaleResults) -> pd.DataFrame:
    """S at the final weights by removal method, the declared one marked, and that of random halves (one row a draw)."""
    runs, rows = _subjects(results), []
    for method in dep.REMOVAL_METHODS:
        for run in runs if dep.over_seeds(runs, method, results.analysis.confidence) is not None else ():
            rows.append(
                {"removal": method.label, "method": method.way, "seed": run.seed, "declared": method == dep.primary(results)}
                | {"nats": dep.statistic(run, method)}
            )
    for run in runs if rows else ():
        found = dep.null(run)
        for draw in found.draws if found is not None else ():
            rows.append({"removal": HALVES, "method": HALVES, "seed": run.seed, "declared": False, "nats": draw})
    return _table(("removal", "method", "seed", "declared", "nats"), rows)


def trajectory(results: ScaleResults) -> pd.DataFrame:
    """S over checkpoints by the declared removal method (where that has one checkpoint alone, by the forced gate)."""
    runs, method = _subjects(results), dep.primary(results)
    if len(dep.checkpoints(runs, method)) < 2:
        method = dep.RemovalMethod(names.GATE)
    found = dep.trajectory(runs, method)
    return _table(
        ("seed", "step", "removal", "inversion_nats", "gate", "target", "latent_variance_share"),
        (
            {"seed": p.seed, "step": p.step, "removal": method.label, "inversion_nats": p.statistic, "gate": p.gate}
            | {"target": p.target, "latent_variance_share": p.share}
            for p in (found if len({p.step for p in found}) > 1 else ())
        ),
    )


def readout_recovery(results: ScaleResults) -> pd.DataFrame:
    """Damage before and after a readout is refitted, each against the model refitted without an intervention."""
    rows = []
    for run in _subjects(results):
        readouts = run.ablation.readouts if run.ablation else ()
        intact = {r.readout: r.refitted for r in readouts if r.intervention == names.NONE}
        for r in readouts:
            name = REMOVED.get((r.intervention, r.value))
            if name is not None and r.readout in intact:
                harm, left = r.damaged - r.full, r.refitted - intact[r.readout]
                rows.append(
                    {"intervention": name, "refitted": REFITTED.get(r.readout, r.readout), "seed": run.seed}
                    | {"damage_nats": harm, "left_nats": left, "recovered": 1 - left / harm if harm > 0 else None}
                )
    return _table(("intervention", "refitted", "seed", "damage_nats", "left_nats", "recovered"), rows)


def contributions(results: ScaleResults) -> pd.DataFrame:
    """What each addend of the fusion contributes at the final weights, beside the gate's coefficient of it."""
    rows = []
    for run in _subjects(results):
        found = run.contribution()
        naive = {} if found is None or found.gate is None else {"surface": found.gate, "latent": 1 - found.gate}
        for name, addend in found.addends.items() if found is not None else ():
            rows.append({"addend": name, "seed": run.seed, "gate_or_one_minus_gate": naive.get(name)} | vars(addend))
    columns = ("addend", "seed", "gate_or_one_minus_gate", "variance_share", "logit_centred", "mean_norm")
    return _table(columns, rows)


def token_classes(results: ScaleResults) -> pd.DataFrame:
    """Mean gate and damage by class of the token that is read."""
    values = ("gate_mean", "damage_latent_mean", "damage_surface_mean")
    rows = [
        {"class": c.token_class, "seed": run.seed, "tokens": c.tokens} | {name: getattr(c, name) for name in values}
        for run in _subjects(results)
        for c in (run.ablation.token_classes if run.ablation else ())
        if not c.token_class.startswith(names.target(""))
    ]
    measured = any(row[name] is not None for row in rows for name in values)
    return _table(("class", "seed", "tokens", *values), rows if measured else ())
