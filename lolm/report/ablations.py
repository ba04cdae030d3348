"""The data behind the figures of interventions, as :mod:`lolm.report.tables` has the others."""

from __future__ import annotations

import pandas as pd

from lolm.analysis import dependency as dep
from lolm.claims.measures.readouts import READOUT_NAMES
from lolm.records import names
from lolm.records.results import ScaleResults
from lolm.report.tables import ends, mean_references, table

NO_LATENT, NO_SURFACE = "g = 1 (no latent)", "g = 0 (no surface)"
TOWARD = {"toward 1": names.BLEND_TO_ONE, "toward 0": names.BLEND_TO_ZERO}
REMOVED = {
    (names.GATE, 1.0): NO_LATENT,
    (names.GATE, 0.0): NO_SURFACE,
    (names.replaced(names.LATENT, names.MEAN), None): "latent mean",
    (names.replaced(names.SURFACE, names.MEAN), None): "surface mean",
}
HALVES = "random halves"


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
    return table(columns, rows)


def forced_gate(results: ScaleResults) -> pd.DataFrame:
    """Loss of the subject with its gate forced to a constant (``gate`` is ``forced``), and learned, at every checkpoint."""
    table = _on_gate(results)
    table = table[table["intervention"].isin((names.GATE, names.NONE))]
    kind = table["intervention"].map({names.GATE: "forced", names.NONE: "learned"})
    columns = ["seed", "step", "gate", "forced_to", "nats", "accuracy", "kl_to_full"]
    return table.assign(gate=kind, forced_to=table["value"])[columns]


def references(results: ScaleResults) -> dict[str, float]:
    """Mean loss of each trivial model on the tokens that the subject's interventions were scored on, nats a token."""
    return mean_references([run.ablation.references for run in results.subjects if run.ablation is not None])


def skipped(results: ScaleResults) -> str:
    """The serial control in words."""
    return f"{results.label(results.baseline) if results.baseline else 'baseline'} without its last blocks"


def damage(results: ScaleResults) -> pd.DataFrame:
    """Damage of g = 1 and g = 0, of the serial control in the baseline, and of moving the gate part of the way."""
    every, mine = conditions(results), _on_gate(results)
    gate, last = mine[mine["intervention"] == names.GATE], mine[mine["step"] == mine["step"].max()]
    latent = results.subjects[0].header.run.size.latent if results.subject else None
    depth = latent.layers if latent is not None else 0  # the control skips as many blocks as LOLM has latent layers
    base = every[(every["arm"] == results.baseline) & every["seed"].isin(mine["seed"])]
    series = {
        NO_LATENT: gate[gate["value"] == 1.0],
        NO_SURFACE: gate[gate["value"] == 0.0],
        skipped(results): base[(base["intervention"] == names.SKIP_LAST_BLOCKS) & (base["value"] == depth)],
    } | {name: last[last["intervention"] == intervention].sort_values("value") for name, intervention in TOWARD.items()}
    parts = [part.assign(series=name, setting=part["value"]) for name, part in series.items() if len(part)]
    columns = ["series", "seed", "step", "setting", "damage_nats"]
    return pd.concat(parts)[columns] if parts else table(columns, ())


def _on_gate(results: ScaleResults) -> pd.DataFrame:
    """Rows of :func:`conditions` of the subject's runs whose gate was forced."""
    table = conditions(results)
    forced = table.loc[(table["arm"] == results.subject) & (table["intervention"] == names.GATE), "seed"]
    return table[(table["arm"] == results.subject) & table["seed"].isin(forced)]


def dependency(results: ScaleResults) -> pd.DataFrame:
    """S of every run by the declared removal, beside the latent branch's shares and the mean gate; and the call of its arm.

    ``low`` and ``high`` are the interval of the arm's S.
    """
    method, rows = dep.primary(results), []
    for one in dep.calls(results):
        for run in results.of(one.arm):
            rows.append(
                {
                    "arm": one.arm,
                    "seed": run.seed,
                    "inversion_nats": dep.statistic(run, method),
                    "latent_share": dep.latent_share(run),
                }
                | {"latent_spread_share": dep.latent_share(run, spread=True), "gate": run.gate_mean}
                | ends(one.found)
                | {"call": one.called, "call_corrected": one.corrected, "p_adjusted": one.p_value}
            )
    columns = (
        "arm",
        "seed",
        "inversion_nats",
        "low",
        "high",
        "latent_share",
        "latent_spread_share",
        "gate",
        "call",
        "call_corrected",
        "p_adjusted",
    )
    return table(columns, rows if any(row["latent_share"] is not None for row in rows) else ())


def effects(results: ScaleResults) -> pd.DataFrame:
    """Damage of every arm at the final weights without h and without z, by what reads them; and of all but one branch."""
    way, rows = dep.primary(results).way, []
    asked = [(branch, kind, names.effect(branch, kind, way)) for branch, kinds in names.EFFECTS.items() for kind in kinds]
    asked += [(branch, "alone", names.alone(branch)) for branch in names.BRANCHES]
    for run in results.runs if way in names.RECOMPUTED else ():
        found = [(branch, kind, run.damage(name)) for branch, kind, name in asked]
        if any(nats is not None for _, kind, nats in found if kind == names.TOTAL):
            rows += [
                {"arm": run.arm, "seed": run.seed, "stream": branch, "effect": kind, "damage_nats": nats}
                for branch, kind, nats in found
                if nats is not None
            ]
    return table(("arm", "seed", "stream", "effect", "damage_nats"), rows)


def inversion_statistic(results: ScaleResults) -> pd.DataFrame:
    """S at the final weights by removal method, the declared one marked, and that of random halves (one row a draw).

    ``low`` and ``high`` are the interval of the mean by that method.
    """
    runs, rows = results.subjects, []
    for method in dep.ways(runs[0]) if runs else ():
        found = dep.over_seeds(runs, method, results.analysis)
        for run in runs if found is not None else ():
            rows.append(
                {"removal": method.label, "method": method.way, "seed": run.seed, "declared": method == dep.primary(results)}
                | {"nats": dep.statistic(run, method), "latent_share": dep.latent_share(run)}
                | ends(found)
            )
    for run in runs if rows else ():
        null = dep.null(run)
        for draw in null.draws if null is not None else ():
            rows.append({"removal": HALVES, "method": HALVES, "seed": run.seed, "declared": False, "nats": draw})
    return table(("removal", "method", "seed", "declared", "nats", "low", "high", "latent_share"), rows)


def trajectory(results: ScaleResults) -> pd.DataFrame:
    """S over checkpoints by the declared removal method (where that has one checkpoint alone, by the forced gate)."""
    runs, method = results.subjects, dep.primary(results)
    if len(dep.checkpoints(runs, method)) < 2:
        method = dep.RemovalMethod(names.GATE)
    found = dep.trajectory(runs, method)
    return table(
        ("seed", "step", "removal", "inversion_nats", "gate", "target", "latent_share"),
        (
            {"seed": p.seed, "step": p.step, "removal": method.label, "inversion_nats": p.statistic, "gate": p.gate}
            | {"target": p.target, "latent_share": p.share}
            for p in (found if len({p.step for p in found}) > 1 else ())
        ),
    )


def readout_recovery(results: ScaleResults) -> pd.DataFrame:
    """Damage before and after a readout is refitted, each against the model refitted without an intervention."""
    rows = []
    for run in results.subjects:
        for r in run.ablation.readouts if run.ablation else ():
            name = REMOVED.get((r.intervention, r.value))
            if name is not None and r.intact is not None:
                harm, left = r.damaged - r.full, r.refitted - r.intact
                rows.append(
                    {"intervention": name, "refitted": READOUT_NAMES.get(r.readout, r.readout), "seed": run.seed}
                    | {"damage_nats": harm, "left_nats": left, "recovered": r.recovered if harm > 0 else None}
                    | {"intact_change_nats": r.intact - r.full, "steps_kept": r.kept}
                )
    columns = ("intervention", "refitted", "seed", "damage_nats", "left_nats", "recovered", "intact_change_nats", "steps_kept")
    return table(columns, rows)


def contributions(results: ScaleResults) -> pd.DataFrame:
    """What each addend of the fusion contributes at the final weights, beside the gate's coefficient of it."""
    rows = []
    for run in results.subjects:
        found = run.contribution()
        naive = {} if found is None or found.gate is None else {"surface": found.gate, "latent": 1 - found.gate}
        for name, addend in found.addends.items() if found is not None else ():
            rows.append({"addend": name, "seed": run.seed, "gate_or_one_minus_gate": naive.get(name)} | vars(addend))
    columns = ("addend", "seed", "gate_or_one_minus_gate", "variance_share", "logit_centred", "mean_norm")
    return table(columns, rows)


def token_classes(results: ScaleResults) -> pd.DataFrame:
    """Mean gate and damage by class of the token that is read."""
    values = ("gate_mean", "damage_latent_mean", "damage_surface_mean")
    rows = [
        {"class": c.token_class, "seed": run.seed, "tokens": c.tokens} | {name: getattr(c, name) for name in values}
        for run in results.subjects
        for c in (run.ablation.token_classes if run.ablation else ())
        if not c.token_class.startswith(names.target(""))
    ]
    measured = any(row[name] is not None for row in rows for name in values)
    return table(("class", "seed", "tokens", *values), rows if measured else ())
