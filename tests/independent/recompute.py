"""Recompute the headline figures from the committed records without this project: `python tests/independent/recompute.py`.

Standard library and NumPy alone. It reads what runs left (`evaluate/`, `ablate/`), derives each number in its own way, and
compares it with what is printed in `claims.json` and `leaderboard.csv`, of reports/tiny or of the folder given. Exit 1 where one
differs.
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
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    low, high = 0.0, 100.0
    for _ in range(60):
        x = np.linspace(0, (low + high) / 2, 20001)
        below = 0.5 + np.trapezoid(np.exp(log - (freedom + 1) / 2 * np.log1p(x * x / freedom)), x)
        low, high = (x[-1], high) if below < p else (low, x[-1])
    return low


def left_over(rows):
    return rows - rows.mean(-1, keepdims=True) - rows.mean(-2, keepdims=True) + rows.mean((-1, -2), keepdims=True)


def uneven(rows):
    away = [np.var(rows[..., i, :] - rows[..., j, :], axis=-1) for i in range(rows.shape[-2]) for j in range(i)]
    return np.log(np.mean(away, axis=0)) - np.mean(np.log(away), axis=0)


def interval(own, others, paired, text=None):
    """(mean, low, high) of values by seed, with those of other arms; ``text``: (draws by seed, effective number of units)."""
    own, n = np.array(own), len(own)
    rows = np.array([own, *others, *([np.zeros(n)] if paired else [])])
    k, v, df = len(rows), own.var(ddof=1) / n, n - 1
    if n < POOL_BELOW and k > 2:
        null = uneven(np.random.default_rng(0).standard_normal((4000, k, n)))
        rest = (left_over(rows) ** 2).sum() / ((k - 1) * (n - 1))
        if np.mean(null >= uneven(rows)) >= POOL_LEVEL:
            a, b = (0.0, 2 * rest / n) if paired else (rows.mean(0).var(ddof=1) / n, (k - 1) * rest / (k * n))
            v, df = a + b, (a + b) / (a / (n - 1) + b / ((k - 1) * (n - 1)))
    half = quantile(0.975, df) * math.sqrt(v)
    if text is not None:
        draws, units = np.array(text[0]).T, text[1]
        mean, m = draws.mean(1), draws.shape[1]
        both = (draws - mean[:, None]).var(0, ddof=1).sum() / (m * (m - 1))
        add = max(units / (units - 1) * (mean.var(ddof=1) - both), 0)
        half = max(half, quantile(0.975, (v + add) / (v / df + add / (units - 1))) * math.sqrt(v + add))
    return own.mean(), own.mean() - half, own.mean() + half


def read(path):
    return json.loads(lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_text()) if path.exists() else None


class Run:
    def __init__(self, folder, arm, seed):
        record = read(folder / "evaluate" / f"{arm}-{seed}.json")
        self.nats, self.gate, ends = record["test"]["nats"], (record["gate"] or {}).get("mean"), record["schedule_ends"]
        self.cost = {axis: np.log([end[axis] for end in ends]) for axis in ("tokens", "flops")}
        self.ends = np.array([end["test"]["nats"] + self.nats - ends[-1]["test"]["nats"] for end in ends])
        self.conditions = (read(folder / "ablate" / f"{arm}-{seed}.json.xz") or {}).get("conditions", [])
        self.text = read(folder / "evaluate" / f"{arm}-{seed}.text.json.xz")
        self.drawn, self.units = self.draw(self.text) if self.text else (None, 0)

    def s(self, of="nats"):
        last = max(c["step"] for c in self.conditions)
        latent, surface = (
            next(c.get(of, []) for c in self.conditions if c["intervention"] == f"{b}_mean" and c["step"] == last)
            for b in ("latent", "surface")
        )
        return np.array(latent) - np.array(surface)

    def draw(self, t):
        """(D, ends) losses in draws of text, the last the final one; how many units of equal length the text is worth."""
        document, block = np.array(t["document"]), np.array(t["piece"]) * t["piece_tokens"] // BLOCK
        lengths = np.array([np.array(t["tokens"])[document == d].sum() for d in np.unique(document)], float)
        keys = document * 10**6 + (0 if lengths.sum() ** 2 / (lengths**2).sum() >= LEAST_DOCUMENTS else block)

        def sums(values):
            return np.array([np.array(values, float)[keys == key].sum() for key in np.unique(keys)])

        tokens, part = sums(t["tokens"]), sums(t["subset_tokens"])
        weights = np.random.default_rng(SEED).multinomial(len(tokens), np.full(len(tokens), 1 / len(tokens)), size=DRAWS)
        ends = np.array([weights @ sums(t["ends"][step]) / (weights @ part) for step in sorted(t["ends"], key=int)]).T
        return ends - ends[:, -1:] + (weights @ sums(t["nats"]) / (weights @ tokens))[:, None], tokens.sum() ** 2 / (
            tokens**2
        ).sum()


def log_multiplier(base, subject, axis, base_ends, subject_ends):
    """ln of the baseline's cost over the subject's at the lowest loss that both reach; NaN where one begins below it."""
    best = [(run, np.minimum.accumulate(ends)) for run, ends in ((base, base_ends), (subject, subject_ends))]
    level = max(ends[-1] for _, ends in best)
    at = [np.interp(-level, -ends, run.cost[axis]) if ends[0] >= level else math.nan for run, ends in best]
    return at[0] - at[1]


def main(folder, printed):
    claims, wrong = {c["id"]: c for c in json.loads((printed / "claims.json").read_text())}, 0

    def compare(name, found, told, digits=3):
        nonlocal wrong
        told = (told["value"], *told["interval"]) if isinstance(told, dict) else told
        same = [f"{x:.{digits}f}" for x in found] == [f"{float(x):.{digits}f}" for x in told]
        wrong += not same
        print(
            "same  " if same else "DIFFER",
            f"{name:44}",
            *(f"{x:.{digits}f}" for x in found),
            *([] if same else ["printed", *told]),
        )

    for study, base, suffix in (("main", "transformer", ""), ("field", "transformer_modern", "_modern")):
        board, budget = list(csv.DictReader((printed / study / "leaderboard.csv").open())), claims["matched_budget" + suffix]
        seeds = range(1, budget["sound"]["n_seeds"] + 1)
        runs = {row["arm"]: [Run(folder, row["arm"], s) for s in seeds] for row in board if int(row["runs"]) == len(seeds)}
        final = {arm: np.array([run.nats for run in mine]) for arm, mine in runs.items()}
        ours, theirs = runs["lolm"], runs[base]
        both = all(run.text for run in ours + theirs)
        for row in board:
            mine, rest = runs[row["arm"]], [v for arm, v in final.items() if arm != row["arm"]]
            text = ([run.drawn[:, -1] for run in mine], mine[0].units) if all(run.text for run in mine) else None
            told = [row["test_nats"], row["test_nats_low"], row["test_nats_high"]]
            compare(f"{study}: test loss of {row['arm']}", interval(final[row["arm"]], rest, False, text), told)
        rest = [v - final[base] for arm, v in final.items() if arm not in ("lolm", base)]
        text = ([a.drawn[:, -1] - b.drawn[:, -1] for a, b in zip(ours, theirs, strict=True)], ours[0].units) if both else None
        compare(f"{study}: lolm minus {base}", interval(final["lolm"] - final[base], rest, True, text), budget["sound"])
        claim = claims["efficiency_direction" + suffix]
        for axis, told in (("flops", claim["sound"]), ("tokens", claim["details"]["multiplier in tokens"])):
            pairs = {arm: list(zip(theirs, mine, strict=True)) for arm, mine in runs.items() if arm != base}
            logs = {arm: [log_multiplier(b, a, axis, b.ends, a.ends) for b, a in of_arm] for arm, of_arm in pairs.items()}
            rest, text = [v for arm, v in logs.items() if arm != "lolm" and not np.isnan(v).any()], None
            if both:
                drawn = [
                    [log_multiplier(b, a, axis, x, y) for x, y in zip(b.drawn, a.drawn, strict=True)] for b, a in pairs["lolm"]
                ]
                text = (drawn, ours[0].units)
            compare(f"{study}: multiplier in {axis}", np.exp(interval(logs["lolm"], rest, True, text)), told, 2)
        if study == "main":
            windows = [w for run in ours if len(w := run.s("window_nats"))]
            count, text = len(windows[0]) if windows else 0, None
            if len(windows) > 1:
                weights = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=DRAWS)
                text = (np.array(windows) @ weights.T / count, count)
            found = interval([float(run.s()) for run in ours], [], False, text)
            compare("main: S of lolm", found, claims["inversion_preregistered"]["sound"])
            compare("main: gate of lolm", interval([run.gate for run in ours], [], False), claims["gate_level"]["sound"])
    return wrong


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2] / "reports" / "tiny"
    sys.exit(1 if main(root, Path(sys.argv[1]) if len(sys.argv) > 1 else root) else 0)
