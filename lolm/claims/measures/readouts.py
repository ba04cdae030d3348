"""How much of a damage a refitted readout wins back."""

from __future__ import annotations

from collections.abc import Sequence

from lolm.analysis.statistics import Estimate, paired_difference, t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import HOLDS, INCONCLUSIVE, Control, Quantity
from lolm.claims.measures.common import again
from lolm.claims.measures.inversion import DEFINITION
from lolm.claims.numbers import show
from lolm.claims.rules import above, why_of
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults
from lolm.records.schema import Readout

READOUT_NAMES = {
    names.TEMPERATURE: "one temperature",
    names.AFFINE: "gains and biases of the norms",
    names.HEAD: "the head",
    names.HEAD_SCRATCH: "a head from scratch",
    names.FINE_TUNE: "all weights, briefly",
}


def readouts(runs: Sequence[RunRecord], intervention: str, value: float | None, readout: str) -> list[Readout] | None:
    """One row of the readout refits from each run; None unless all have it."""
    names = {intervention, intervention if value is None else f"{intervention}={value:g}"}

    def of(run: RunRecord) -> Readout | None:
        for row in run.ablation.readouts if run.ablation is not None else ():
            if row.readout == readout and row.intervention in names and row.value in (None, value):
                return row
        return None

    found = [row for run in runs if (row := of(run)) is not None]
    return found if found and len(found) == len(runs) else None


def refitted_statistics(results: ScaleResults, runs: Sequence[RunRecord]) -> list[Control]:
    """S after each refit of mean ablation, where it was measured."""
    made = []
    for readout, name in READOUT_NAMES.items():
        latent, surface = (
            readouts(runs, names.replaced(branch, names.MEAN), None, readout) for branch in (names.LATENT, names.SURFACE)
        )
        if latent is None or surface is None:
            continue
        s = paired_difference([r.refitted for r in latent], [r.refitted for r in surface], results.analysis.confidence)
        made.append(
            Control(
                f"S, branch's mean, refitted: {name}",
                Quantity.of(s, "nats", f"{DEFINITION}, each after refitting {name} on training text"),
                "Not what the branch holds, but what the path that is left can learn to do."
                if readout == names.FINE_TUNE
                else "Damage that a refitted readout wins back was never information lost.",
            )
        )
    return made


def _left_after(rows: Sequence[Readout], confidence: float) -> Estimate:
    """Damage left after a refit: refitted with the intervention minus the intact model with the same refit, nats."""
    return t_interval([row.refitted - row.intact for row in rows if row.intact is not None], confidence)


def information(context: Context) -> Reading:
    """Damage of g = 1 that refitting the head leaves, judged against half of the damage."""
    runs, confidence = context.subject(), context.confidence
    rows = {name: readouts(runs, names.GATE, 1.0, name) for name in READOUT_NAMES}
    head = rows[names.HEAD]
    if head is None or any(row.intact is None for row in head):
        raise NotRun(
            f"no head was refitted under g = 1 and in the intact model, stopped on validation text; {again(context.results)}"
        )
    damage = t_interval([r.damaged - r.full for r in head], confidence)
    if damage.value <= 0 or (damage.interval is not None and damage.interval[0] <= 0):
        why = f"There is no damage to divide: at g = 1, {why_of(damage, 0.0, 'nats')}."
        return Reading(runs=runs, verdict=INCONCLUSIVE, why=why)
    left = _left_after(head, confidence)
    half = paired_difference(left.per_seed, [0.5 * d for d in damage.per_seed], confidence)
    brings = t_interval([r.intact - r.full for r in head if r.intact is not None], confidence)
    controls = [
        Control(
            "refitting the head of the intact model",
            Quantity.of(brings, "nats", "loss after the same refit minus full loss, no branch removed"),
            "What the refit brings where nothing is to be won back; it is taken off. Above 0, the refit harms.",
        )
    ]
    for name, found in rows.items():
        if found is not None and name != names.HEAD and all(row.intact is not None for row in found):
            quantity = Quantity.of(
                _left_after(found, confidence), "nats", "loss at g = 1 minus that of the intact model, both refitted"
            )
            sentence = "The more is refitted, the less of the damage can be the readout's."
            controls.append(Control(f"left after refitting {READOUT_NAMES[name]}", quantity, sentence))
    lead = (
        f"Refitting the head on training text leaves {show(left.value, 'nats')} of {show(damage.value, 'nats')}, against the "
        "intact model with its head refitted alike. Left minus half of the damage"
    )
    preset = context.results.params.scales.get(context.results.scale)
    steps = None if preset is None else preset.ablation.refit_steps
    last = 0 if steps is None else sum(row.kept == steps for row in head)
    too_short = last > 0 and above(half, 0.0) == HOLDS  # what is left is then an upper bound, and can only refute
    return Reading(
        left,
        runs=runs,
        judged=half,
        verdict=INCONCLUSIVE if too_short else None,
        why=f"{lead}: {why_of(half, 0.0, 'nats')}." if too_short else None,
        values={"lead": lead},
        more=f"In {last} of {len(head)} runs the last of {steps} steps was the best on validation text, so a longer refit may "
        "win back more, and what is left can only refute the claim."
        if last
        else "",
        details={
            "change of the intact model": Quantity.of(brings, "nats", "the same refit where nothing was removed, test split"),
            "damage at g = 1": Quantity.of(damage, "nats", "readout as learned, minus the intact model's loss"),
            "left minus half of the damage": Quantity.of(half, "nats", "paired by seed"),
        },
        controls=tuple(controls),
    )
