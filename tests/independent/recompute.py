"""Recompute the headline figures from the committed records with nothing of this project: `python tests/independent/recompute.py`.

Standard library and NumPy alone. Reads what runs left (`evaluate/*.json`, their losses by piece of text, `ablate/*.json.xz`), derives
each number in its own way, and compares it with what is printed in `claims.json` and `leaderboard.csv`. Exit 1 where one differs.
"""

import csv
import json
import lzma
import math
import sys
from pathlib import Path

import numpy as np

POOL_BELOW, POOL_LEVEL, LEAST_DOCUMENTS, BLOCK, DRAWS, SEED = 5, 0.1, 30, 16384, 1000, 0  # as declared under `analysis:`


def quantile(p, freedom):
    """Of Student's t, by bisection over the integral of its density."""

    def below(t):
        x = np.linspace(0, t, 20001)
        log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        return 0.5 + np.trapezoid(np.exp(log - (freedom + 1) / 2 * np.log1p(x * x / freedom)), x)

    low, high = 0.0, 100.0
    for _ in range(60):
        low, high = ((low + high) / 2, high) if below((low + high) / 2) < p else (low, (low + high) / 2)
    return low


def leftover(rows):
    return rows - rows.mean(-1, keepdims=True) - rows.mean(-2, keepdims=True) + rows.mean((-1, -2), keepdims=True)


def uneven(rows):
    squares = (leftover(rows) ** 2).sum(-1)
    return np.log(squares.mean(-1)) - np.log(squares).mean(-1)


def interval(own, others, paired, text=None):
    """(mean, low, high) of values by seed; ``others`` of the other arms; ``text``: (draws by seed, effective number of units)."""
    own, n = np.array(own), len(own)
    rows = np.array([own, *others, *([np.zeros(n)] if paired else [])])
    k, v, df = len(rows), own.var(ddof=1) / n, n - 1
    if (
        n < POOL_BELOW
        and k > 2
        and np.mean(uneven(np.random.default_rng(0).standard_normal((4000, k, n))) >= uneven(rows)) >= POOL_LEVEL
    ):
        rest = (leftover(rows) ** 2).sum() / ((k - 1) * (n - 1))
        if paired:
            v, df = 2 * rest / n, (k - 1) * (n - 1)
        else:
            a, b = rows.mean(0).var(ddof=1) / n, (k - 1) * rest / (k * n)
            v, df = a + b, (a + b) / (a / (n - 1) + b / ((k - 1) * (n - 1)))
    half = quantile(0.975, df) * math.sqrt(v)
    if text is not None:
        draws, units = text
        mean, scale = draws.mean(1), units / (units - 1)
        both = ((draws - mean[:, None]).var(0, ddof=1).sum()) / (n * (n - 1))
        add = max(scale * (mean.var(ddof=1) - both), 0)
        half = max(half, quantile(0.975, (v + add) / (v / df + add / (units - 1))) * math.sqrt(v + add))
    return own.mean(), own.mean() - half, own.mean() + half


class Run:
    def __init__(self, folder, arm, seed):
        self.record = json.loads((folder / "evaluate" / f"{arm}-{seed}.json").read_text())
        path, ablation = folder / "evaluate" / f"{arm}-{seed}.text.json.xz", folder / "ablate" / f"{arm}-{seed}.json.xz"
        self.text = json.loads(lzma.open(path).read()) if path.exists() else None
        self.conditions = json.loads(lzma.open(ablation).read())["conditions"] if ablation.exists() else []
        self.nats, ends = self.record["test"]["nats"], self.record["schedule_ends"]
        self.cost = {axis: [end[axis] for end in ends] for axis in ("tokens", "flops")}
        self.ends = [end["test"]["nats"] + self.nats - ends[-1]["test"]["nats"] for end in ends]
        self.gate = (self.record["gate"] or {}).get("mean")

    def s(self):
        last = max(c["step"] for c in self.conditions)
        latent, surface = (
            [c["nats"] for c in self.conditions if c["intervention"] == f"{b}_mean" and c["step"] == last]
            for b in ("latent", "surface")
        )
        return latent[0] - surface[0]

    def drawn(self):
        """(D, ends) losses in draws of text, the last being the final one, and the effective number of units."""
        t = self.text
        keys = [(d, p * t["piece_tokens"] // BLOCK) for d, p in zip(t["document"], t["piece"])]
        lengths = np.array(
            [sum(n for n, d in zip(t["tokens"], t["document"]) if d == k) for k in sorted(set(t["document"]))], float
        )
        if lengths.sum() ** 2 / (lengths**2).sum() >= LEAST_DOCUMENTS:
            keys = [(d, 0) for d in t["document"]]
        order = {key: i for i, key in enumerate(sorted(set(keys)))}

        def sums(values):
            total = np.zeros(len(order))
            for key, value in zip(keys, values):
                total[order[key]] += value
            return total

        tokens, part = sums(t["tokens"]), sums(t["subset_tokens"])
        weights = np.random.default_rng(SEED).multinomial(len(order), np.full(len(order), 1 / len(order)), size=DRAWS)
        final = weights @ sums(t["nats"]) / (weights @ tokens)
        ends = np.array([weights @ sums(t["ends"][step]) / (weights @ part) for step in sorted(t["ends"], key=int)]).T
        return ends - ends[:, -1:] + final[:, None], tokens.sum() ** 2 / (tokens**2).sum()


def log_multiplier(base, subject, axis, base_ends=None, subject_ends=None):
    """ln of the baseline's cost over the subject's at the lowest loss that both reach; NaN where one is below it from the first."""
    both = [
        np.minimum.accumulate(e)
        for e in (base.ends if base_ends is None else base_ends, subject.ends if subject_ends is None else subject_ends)
    ]
    level = max(both[0][-1], both[1][-1])
    at = [np.interp(-level, -e, np.log(r.cost[axis])) if e[0] >= level else math.nan for e, r in zip(both, (base, subject))]
    return at[0] - at[1]


def main(folder, printed):
    claims, wrong = {c["id"]: c for c in json.loads((printed / "claims.json").read_text())}, 0

    def compare(name, found, told, digits=3):
        nonlocal wrong
        same = [f"{x:.{digits}f}" for x in found] == [f"{float(x):.{digits}f}" for x in told]
        wrong += not same
        print(
            "same  " if same else "DIFFER",
            f"{name:44}",
            *(f"{x:.{digits}f}" for x in found),
            *([] if same else ["printed", *told]),
        )

    def quantity(q):
        return (q["value"], *q["interval"])

    for study, subject, base, suffix in (("main", "lolm", "transformer", ""), ("field", "lolm", "transformer_modern", "_modern")):
        board = list(csv.DictReader((printed / study / "leaderboard.csv").open()))
        n = claims["matched_budget" + suffix]["sound"]["n_seeds"]
        runs = {row["arm"]: [Run(folder, row["arm"], seed + 1) for seed in range(n)] for row in board if int(row["runs"]) == n}
        draws = {arm: [run.drawn() for run in mine] if all(run.text for run in mine) else None for arm, mine in runs.items()}
        units = next((found[0][1] for found in draws.values() if found), 0)
        for row in board:
            arm, values = row["arm"], {a: [run.nats for run in mine] for a, mine in runs.items()}
            text = draws[arm] and (np.array([d[:, -1] for d, _ in draws[arm]]).T, units)
            told = [row["test_nats"], row["test_nats_low"], row["test_nats_high"]]
            compare(
                f"{study}: test loss of {arm}",
                interval(values[arm], [v for a, v in values.items() if a != arm], False, text),
                told,
            )
        both = draws[subject] and draws[base]
        away = [np.subtract(values[a], values[base]) for a in runs if a not in (subject, base)]
        text = both and (np.array([a[:, -1] - b[:, -1] for (a, _), (b, _) in zip(draws[subject], draws[base])]).T, units)
        claim = claims["matched_budget" + suffix]
        compare(
            f"{study}: {subject} minus {base}",
            interval(np.subtract(values[subject], values[base]), away, True, text),
            quantity(claim["sound"]),
        )
        claim = claims["efficiency_direction" + suffix]
        for axis, told in (("flops", claim["sound"]), ("tokens", claim["details"]["multiplier in tokens"])):
            logs = {a: [log_multiplier(b, r, axis) for r, b in zip(mine, runs[base])] for a, mine in runs.items() if a != base}
            others = [v for a, v in logs.items() if a != subject and not np.isnan(v).any()]
            text = both and (
                np.array(
                    [
                        [log_multiplier(b, r, axis, y, x) for x, y in zip(dr[0], db[0])]
                        for r, b, dr, db in zip(runs[subject], runs[base], draws[subject], draws[base])
                    ]
                ).T,
                units,
            )
            compare(f"{study}: multiplier in {axis}", np.exp(interval(logs[subject], others, True, text)), quantity(told), 2)
        if study == "main":
            compare(
                "main: S of lolm",
                interval([run.s() for run in runs[subject]], [], False),
                quantity(claims["inversion_preregistered"]["sound"]),
            )
            compare(
                "main: gate level of lolm",
                interval([run.gate for run in runs[subject]], [], False),
                quantity(claims["gate_level"]["sound"]),
            )
    return wrong


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2] / "reports" / "tiny"
    sys.exit(1 if main(root, Path(sys.argv[1]) if len(sys.argv) > 1 else root) else 0)
