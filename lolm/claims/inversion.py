"""Claims about dependency: what forcing the gate does, and whether it says what it was taken to say."""

from __future__ import annotations

from lolm.analysis.statistics import Estimate, geometric_interval, paired_difference, t_interval
from lolm.claims.ledger import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    Claim,
    Quantity,
    above,
    below,
    runs_of,
    show,
    untestable,
    why_of,
)
from lolm.claims.published import clipped_perplexity
from lolm.records.results import RunRecord, ScaleResults

INVERSION = "Dependency inversion: removing the latent stream (g = 1) damages LOLM more than removing the surface stream (g = 0)."
PERSISTS = "The inversion is there at every stage of training."
CONTROL = "The damage at g = 1 shows a dependence that a plain Transformer does not have."
LATENT = "With the latent stream alone (g = 0) LOLM still works as a language model."
SURFACE = "With the surface stream alone (g = 1) LOLM collapses."
PUBLISHED = ("gate_one_nats", "gate_zero_nats")


def claims(results: ScaleResults) -> list[Claim]:
    """Direction at the end and over training, the serial control, and each forced model beside trivial ones."""
    runs = results.of(results.subject) if results.subject else ()
    runs = tuple(run for run in runs if run.condition("gate", 1.0) and run.condition("gate", 0.0) and run.condition("none"))
    if not runs:
        why = "these runs hold no LOLM whose gate was forced to 1 and to 0"
        return [
            untestable("inversion", "inversion", INVERSION, PUBLISHED, why),
            untestable("inversion_over_training", "inversion", PERSISTS, (), why),
            untestable("inversion_control", "inversion", CONTROL, (), why),
            untestable("latent_alone", "inversion", LATENT, ("gate_zero_nats",), why),
            untestable("surface_alone", "inversion", SURFACE, ("gate_one_nats",), why),
        ]
    return [
        _inversion(results, runs),
        _over_training(results, runs),
        _control(results, runs),
        _alone(results, runs, 0.0),
        _alone(results, runs, 1.0),
    ]


def nats(run: RunRecord, intervention: str, value: float | None = None, step: int | None = None) -> float:
    """Loss under an intervention that is known to have been measured."""
    return run.condition(intervention, value, step)["nats"]  # type: ignore[index]


def difference(runs: tuple[RunRecord, ...], confidence: float, step: int | None = None) -> Estimate:
    """Loss at g = 1 minus loss at g = 0 over seeds, nats."""
    return paired_difference([nats(r, "gate", 1.0, step) for r in runs], [nats(r, "gate", 0.0, step) for r in runs], confidence)


def _inversion(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    confidence, margin = results.analysis.confidence, results.analysis.inversion_margin
    gap = difference(runs, confidence)
    ratio = geometric_interval(
        [clipped_perplexity(nats(r, "gate", 1.0)) / clipped_perplexity(nats(r, "gate", 0.0)) for r in runs], confidence
    )
    measured = {
        "loss, learned gate": [nats(r, "none") for r in runs],
        "loss at g = 1": [nats(r, "gate", 1.0) for r in runs],
        "loss at g = 0": [nats(r, "gate", 0.0) for r in runs],
        "uniform": [r.ablation["references"]["uniform"] for r in runs],  # type: ignore[index]
        "unigram": [r.ablation["references"]["unigram"] for r in runs],  # type: ignore[index]
    }
    details = {
        name: Quantity.of(t_interval(values, confidence), "nats", "test split, uncapped") for name, values in measured.items()
    }
    gates = [r.evaluation["gate"]["mean"] for r in runs if r.evaluation and r.evaluation["gate"]]
    why = f"Loss at g = 1 minus loss at g = 0: {why_of(gap, margin, 'nats')}."
    if gates:
        nearer = (
            "1, so forcing it to 0 moves it further"
            if sum(gates) / len(gates) > 0.5
            else "0, so forcing it to 1 moves it further"
        )
        why += f" The learned gate averages {sum(gates) / len(gates):.2f}, nearer to {nearer}."
    why += " Both settings are off the training distribution; the serial control below says what the difference can mean."
    rule = f"holds if the interval lies above {margin:g} nats (fixed before the runs), fails if none of it does"
    return Claim(
        "inversion",
        "inversion",
        INVERSION,
        ("ratio_inversion", *PUBLISHED),
        Quantity.of(ratio, "x", "perplexity at g = 1 over perplexity at g = 0, each capped at e^20 as published"),
        Quantity.of(gap, "nats", "loss at g = 1 minus loss at g = 0, uncapped, paired by seed, final weights, test split"),
        above(gap, margin),
        why,
        rule,
        runs_of(runs),
        details,
    )


def _over_training(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    confidence, margin = results.analysis.confidence, results.analysis.inversion_margin
    common = set.intersection(*(set(run.ablation_steps) for run in runs))
    steps = sorted(s for s in common if all(run.condition("gate", v, s) for run in runs for v in (0.0, 1.0)))
    if len(steps) < 2:
        return untestable("inversion_over_training", "inversion", PERSISTS, (), "the gate was forced at one checkpoint only")
    found = {step: difference(runs, confidence, step) for step in steps}
    verdicts = [above(estimate, margin) for estimate in found.values()]
    verdict = FAILS if FAILS in verdicts else HOLDS if set(verdicts) == {HOLDS} else INCONCLUSIVE
    listed = ", ".join(f"step {step}: {found_there}" for step, found_there in zip(steps, verdicts, strict=True))
    weakest = min(found.values(), key=lambda estimate: estimate.value)
    details = {f"step {step}": Quantity.of(e, "nats", "loss at g = 1 minus loss at g = 0") for step, e in found.items()}
    rule = (
        f"holds if the interval lies above {margin:g} nats at every checkpoint, fails if at any one none of it "
        "does; not corrected for their number"
    )
    return Claim(
        "inversion_over_training",
        "inversion",
        PERSISTS,
        (),
        None,
        Quantity.of(
            weakest,
            "nats",
            f"loss at g = 1 minus loss at g = 0, the smallest of {len(steps)} checkpoints (selected, not corrected for it)",
        ),
        verdict,
        f"The sign against {margin:g} nats by checkpoint: {listed}.",
        rule,
        runs_of(runs),
        details,
    )


def control_depth(
    results: ScaleResults, runs: tuple[RunRecord, ...]
) -> tuple[int | None, tuple[tuple[RunRecord, RunRecord], ...]]:
    """How many last blocks the control skips (as many as LOLM has latent layers), and the pairs in which that was measured."""
    latent = runs[0].config["run"]["size"].get("latent") if runs else None
    if not latent:
        return None, ()
    depth = int(latent["layers"])
    pairs = [
        pair
        for pair in results.pairs(results.subject, results.baseline)
        if pair[0] in runs and pair[1].condition("skip_last_blocks", depth)
    ]
    return depth, tuple(pairs)


def _control(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    depth, pairs = control_depth(results, runs)
    if not pairs:
        return untestable(
            "inversion_control", "inversion", CONTROL, (), "no baseline among these runs had its last blocks skipped"
        )
    confidence, margin = results.analysis.confidence, results.analysis.inversion_margin
    ours = [nats(subject, "gate", 1.0) - nats(subject, "none") for subject, _ in pairs]
    control = [nats(base, "skip_last_blocks", depth) - nats(base, "none") for _, base in pairs]
    excess = paired_difference(ours, control, confidence)
    serial = runs[0].config["run"]["architecture"]["latent"]["input"] == "surface"
    last = "block" if depth == 1 else f"{depth} blocks"
    why = (
        (f"z is computed from h, so g = 1 skips the last {last} of a serial stack. " if serial else "")
        + f"Skipping the plain Transformer's last {last} costs {show(t_interval(control).value, 'nats')}, "
        "" + f"g = 1 costs LOLM {show(t_interval(ours).value, 'nats')}. Their difference: "
        f"{why_of(excess, margin, 'nats')}."
    )
    halves = [subject.damage("gate", 0.5) for subject, _ in pairs]
    level = {}
    if None not in halves:
        half = t_interval(halves, confidence)  # type: ignore[arg-type]
        level["damage of g = 0.5"] = Quantity.of(half, "nats", "both branches kept, the gate's pattern removed")
        why += (
            " The head never saw a constant gate: g = 0.5, which removes no branch, already costs "
            f"{show(half.value, 'nats')}, damage that no missing branch explains."
        )
    details = level | {
        "damage of g = 1": Quantity.of(t_interval(ours, confidence), "nats", "LOLM, test split"),
        f"damage of skipping the last {last}": Quantity.of(t_interval(control, confidence), "nats", "baseline, same tokens"),
    }
    return Claim(
        "inversion_control",
        "inversion",
        CONTROL,
        (),
        None,
        Quantity.of(
            excess,
            "nats",
            f"damage of g = 1 in LOLM minus damage of skipping the last {last} in the Transformer, paired by seed",
        ),
        above(excess, margin),
        why,
        f"holds if the excess lies above {margin:g} nats, fails if none of it does",
        runs_of(run for pair in pairs for run in pair),
        details,
    )


def _alone(results: ScaleResults, runs: tuple[RunRecord, ...], value: float) -> Claim:
    confidence = results.analysis.confidence
    losses = [nats(run, "gate", value) for run in runs]
    unigram = [run.ablation["references"]["unigram"] for run in runs]  # type: ignore[index]
    uniform = [run.ablation["references"]["uniform"] for run in runs]  # type: ignore[index]
    excess, over = paired_difference(losses, unigram, confidence), paired_difference(losses, uniform, confidence)
    state = (
        "non-functional: worse than a uniform guess"
        if above(over, 0.0) == HOLDS
        else "non-functional: worse than the unigram model"
        if above(excess, 0.0) == HOLDS
        else "functional: better than the unigram model"
        if below(excess, 0.0) == HOLDS
        else "not settled against the unigram model"
    )
    why = f"Loss minus that of the unigram model: {why_of(excess, 0.0, 'nats')}. This model is {state}."
    details = {"over uniform": Quantity.of(over, "nats", "loss minus ln V")}
    ours = Quantity.of(
        geometric_interval([clipped_perplexity(loss) for loss in losses], confidence),
        "perplexity",
        "perplexity capped at e^20 as published; own vocabulary",
    )
    sound = Quantity.of(excess, "nats", "loss minus the unigram model's on the same tokens")
    if value == 0:
        return Claim(
            "latent_alone",
            "inversion",
            LATENT,
            ("gate_zero_nats", "gate_zero_ppl"),
            ours,
            sound,
            below(excess, 0.0),
            why,
            "holds if the interval lies below 0, fails if none of it does: who ignores the context does as well",
            runs_of(runs),
            details,
        )
    rule = "holds if the interval lies above 0, fails if none of it does"
    return Claim(
        "surface_alone",
        "inversion",
        SURFACE,
        ("gate_one_nats", "gate_one_ppl"),
        ours,
        sound,
        above(excess, 0.0),
        why,
        rule,
        runs_of(runs),
        details,
    )
