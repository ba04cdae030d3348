"""Recompute the headline figures from the committed records without this project: `python tests/independent/recompute.py`.

NumPy and Student's t alone. It reads what runs left (`evaluate/`, `ablate/`), derives each number in its own way, and compares it
with what is printed in `claims.json` and `leaderboard.csv`, of reports/tiny or of the folder given. Exit 1 where one differs.
Studies of fewer than five seeds pool variances over arms, which is not done here.
"""

import csv
import json
import lzma
import sys
from pathlib import Path

import numpy as np
from scipy.stats import t

LEAST_DOCUMENTS, BLOCK, DRAWS, SEED = 30, 16384, 1000, 0  # as declared under `analysis:`


def read(path):
    return json.loads(lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_text())


def resample(units):
    """(1 + DRAWS, units) how often each unit of text counts: the text as it is, then draws of as many units of it."""
    return np.vstack([np.ones(units), np.random.default_rng(SEED).multinomial(units, np.full(units, 1 / units), size=DRAWS)])


def interval(values, units=None):
    """(mean, low, high) of ``values`` by seed, or (seeds, 1 + DRAWS) by seed and draw of so many units of text."""
    values = np.array(values).reshape(len(values), -1)
    own, draws, n = values[:, 0], values[:, 1:], len(values)
    v, df, mean = own.var(ddof=1) / n, n - 1, own.mean()
    half = t.ppf(0.975, df) * np.sqrt(v)
    if units:
        both = (draws - draws.mean(0)).var(1, ddof=1).sum() / (n * df)
        add = max(units / (units - 1) * (draws.mean(0).var(ddof=1) - both), 0)
        half = max(half, t.ppf(0.975, (v + add) / (v / df + add / (units - 1))) * np.sqrt(v + add))
    return mean, mean - half, mean + half


class Run:
    """``cost`` at the ends of its schedule, (1 + DRAWS, ends) ``losses``, and so many equal ``units`` that the text is worth."""

    def __init__(self, folder, arm, seed):
        record, text = (read(folder / "evaluate" / f"{arm}-{seed}.{kind}") for kind in ("json", "text.json.xz"))
        self.gate, ends = (record["gate"] or {}).get("mean"), record["schedule_ends"]
        self.cost = {axis: np.log([end[axis] for end in ends]) for axis in ("tokens", "flops")}
        keys, block = np.array(text["document"]), np.array(text["piece"]) * text["piece_tokens"] // BLOCK
        sizes = np.bincount(keys, text["tokens"])  # documents are the units of the text; blocks of them, where they are few
        keys = np.unique(keys * 10**6 + block * (sizes.sum() ** 2 / (sizes**2).sum() < LEAST_DOCUMENTS), return_inverse=True)[1]
        tokens, part, nats = (np.bincount(keys, text[name]) for name in ("tokens", "subset_tokens", "nats"))
        weights, self.units = resample(len(tokens)), tokens.sum() ** 2 / (tokens**2).sum()
        curve = np.array([weights @ np.bincount(keys, text["ends"][str(end["step"])]) / (weights @ part) for end in ends]).T
        self.losses = curve - curve[:, -1:] + (weights @ nats / (weights @ tokens))[:, None]


def log_multiplier(base, subject, axis):
    """ln of the baseline's cost over the subject's at the lowest loss that both reach, by draw."""
    both = [(run.cost[axis], np.minimum.accumulate(run.losses, axis=1)) for run in (base, subject)]
    levels = np.maximum(both[0][1][:, -1], both[1][1][:, -1])
    at = [[np.interp(-level, -fall, cost, left=np.nan) for fall, level in zip(y, levels, strict=True)] for cost, y in both]
    return np.subtract(*at)


def main(folder, printed):
    claims, same = {claim["id"]: claim for claim in read(printed / "claims.json")}, []

    def compare(name, found, told, digits=3):
        found, told = ([f"{float(x):.{digits}f}" for x in numbers] for numbers in (found, (told["value"], *told["interval"])))
        same.append(found == told)
        print("same  " if found == told else "DIFFER", f"{name:44}", *found, *([] if found == told else ["printed", *told]))

    for study, base, suffix in (("field", "transformer_modern", "_modern"), ("main", "transformer", "")):
        board = list(csv.DictReader((printed / study / "leaderboard.csv").open()))
        runs = {row["arm"]: [Run(folder, row["arm"], seed + 1) for seed in range(int(row["runs"]))] for row in board}
        for row in board:
            found = interval([run.losses[:, -1] for run in runs[row["arm"]]], runs[row["arm"]][0].units)
            told = {"value": row["test_nats"], "interval": (row["test_nats_low"], row["test_nats_high"])}
            compare(f"{study}: test loss of {row['arm']}", found, told)
        pairs, units = list(zip(runs[base], runs["lolm"], strict=True)), runs["lolm"][0].units
        found = interval([ours.losses[:, -1] - theirs.losses[:, -1] for theirs, ours in pairs], units)
        compare(f"{study}: lolm minus {base}", found, claims["matched_budget" + suffix]["sound"])
        claim = claims["efficiency_direction" + suffix]
        for axis, told in (("flops", claim["sound"]), ("tokens", claim["details"]["multiplier in tokens"])):
            found = interval([log_multiplier(*pair, axis) for pair in pairs], units)
            compare(f"{study}: multiplier in {axis}", np.exp(found), told, 2)
    files = [folder / "ablate" / f"lolm-{seed + 1}.json.xz" for seed in range(len(pairs))]
    last = [{c["intervention"]: c["window_nats"] for c in read(file)["conditions"]} for file in files]  # in order of steps
    windows = np.array([c["latent_mean"] for c in last]) - np.array([c["surface_mean"] for c in last])
    count = windows.shape[1]
    found = interval(windows @ resample(count).T / count, count)
    compare("main: S of lolm", found, claims["inversion_preregistered"]["sound"])
    compare("main: gate of lolm", interval([run.gate for run in runs["lolm"]]), claims["gate_level"]["sound"])
    return not all(same)


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2] / "reports" / "tiny"
    sys.exit(main(root, Path(sys.argv[1]) if len(sys.argv) > 1 else root))
