"""Numbers in docs/scale.md: the table of prices is what `make plan` counts, the speed of generation what was recorded."""

import json
import math
import re
import statistics
from dataclasses import replace

import pytest
from builders import PARAMS, ROOT

from lolm.accounting.plan import plan_rows
from lolm.accounting.price import GIB, disk, gpu_hours, memory_of, shard_bytes
from lolm.accounting.resolve import resolve_run
from pipeline.estimate import flops_per_token, study_flops

ROW = r"\| `{}` \| ([\d.]+), ([\d.]+) \| ([\d.]+), ([\d.]+) \| ([\d.]+) \| (\d+) \| (\d+) \|"


@pytest.mark.parametrize("scale", ["149m", "304m", "1570m"])
def test_row(scale):
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    cells = [float(cell) for cell in re.search(ROW.format(scale), text).groups()]
    params = PARAMS.select(scale, "published")
    preset, rows = params.scales[scale], plan_rows(params, scale, "published")
    runs = [resolve_run(params, scale, arm, 1) for arm in ("lolm_published", "transformer_published")]
    peaks = [memory_of(run, True, activation_checkpointing=kept).peak / GIB for kept in (False, True) for run in runs]
    flops = runs[0].training.all_tokens * rows["lolm_published"].flops_per_token_training
    stored = [disk(replace(runs[0], arm=arm), row.parameters) for arm, row in rows.items()]
    whole = len(params.selected.seeds) * sum(sum(one.values()) for one in stored)
    whole += shard_bytes(preset.corpus, preset.tokenizer.vocab_size) or 0
    hours = gpu_hours(flops, "H100", "bf16", 0.35), gpu_hours(study_flops(params), "H100", "bf16", 0.35)
    assert cells[:4] == pytest.approx(peaks, abs=0.051)
    assert cells[4:6] == pytest.approx(hours, abs=0.51)
    assert cells[6] == pytest.approx(whole / GIB, rel=0.005)


def test_generation_is_as_recorded():
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    said = re.search(r"Generation \(one text.*?\n\n", text, re.DOTALL).group().replace("\n", " ")
    found = json.loads((ROOT / "docs/benchmark-2026-11-29.json").read_text(encoding="utf-8"))["generation"]
    share = {arm: f"1/{row['whole_pass_over_step']['median']:.0f}" for arm, row in found["arms"].items()}
    assert f"{share['lolm']} of a whole pass for LOLM, {share['transformer']} for both Transformers and Samba, " in said
    assert share["transformer"] == share["transformer_modern"] == share["samba"]
    assert f"{share['mamba']} for Mamba and Mamba-2;" in said
    assert share["mamba"] == share["mamba2"]
    growth = {arm: row["growth"]["median"] for arm, row in found["arms"].items()}
    assert f"{growth['mamba']:.2f} times as much for Mamba, {growth['mamba2']:.2f} for Mamba-2, {growth['samba']:.2f} for" in said
    assert f"{growth['lolm']:.1f} for LOLM" in said
    slower = {name: row["over_own"]["median"] for name, row in found["transformers"].items()}
    assert f"{slower['Mamba']:.1f} times as long on a Mamba of the same size, {slower['Llama']:.1f} times on a Llama" in said


def test_speed_is_as_recorded():
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    said = re.search(r"Measured \(one thread.*?\n\n", text, re.DOTALL).group().replace("\n", " ")
    record = json.loads((ROOT / "reports/benchmark.json").read_text(encoding="utf-8"))
    base, wide = (record["steps"][size]["arms"] for size in ("base", "wide"))
    peak = [rows["transformer"]["share_of_peak"]["median"] for rows in (base, wide)]
    assert f"at {peak[0]:.2f} of the peak, with all widths doubled {peak[1]:.2f};" in said
    share = [[f"{rows[arm]['over_baseline']['median']:.2f}" for arm in ("lolm", "mamba", "mamba2")] for rows in (base, wide)]
    assert "LOLM at {} of the Transformer's share, Mamba {}, Mamba-2 {}, ".format(*share[0]) in said
    assert "with all widths doubled {}, {} and {}. The scan".format(*share[1]) in said
    scans = [
        shape[part]["mambapy"]["over_own"]["median"]
        for shape in record["scan"]["shapes"].values()
        for part in shape
        if part in ("forward", "both")
    ]
    layer = record["peers"]["transformers"]["mamba layer"]["over_own"]["median"]
    assert f"{min(scans):.0f} to {max(scans):.0f} times as fast as `mambapy`, a Mamba layer {layer:.0f} times" in said


def test_budgets_are_priced_as_they_are_counted():
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    for scale, study in PARAMS.budgets.items():
        params = PARAMS.select(scale, study)
        arms, seeds = params.selected.arms, params.selected.seeds
        steps = params.scales[scale].training.all_tokens
        flops = len(seeds) * steps * sum(flops_per_token(params, arm) for arm in arms)
        row = f"| `{scale}` | {len(arms)} x {len(seeds)} |"
        cells = next(line for line in text.splitlines() if line.startswith(row)).split("|")
        assert float(cells[5]) == pytest.approx(flops, rel=0.01)
        assert float(cells[6]) == pytest.approx(flops / 50e9 / 3600, abs=0.06)


def test_speed_of_main_is_as_recorded():
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8").replace("\n", " ")
    said = re.search(r"the mean of LOLM's (\d+) and the Transformer's (\d+) in seeds 1 to 3 of `main`", text).groups()
    for arm, speed in zip(("lolm", "transformer"), said, strict=True):
        paths = [ROOT / f"reports/tiny/train/{arm}-{seed}/summary.json" for seed in (1, 2, 3)]
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        assert statistics.mean(run["flops"] / run["seconds"] for run in runs) / 1e9 == pytest.approx(int(speed), abs=0.5)


def test_what_a_hundredth_of_a_nat_is_worth():
    text = (ROOT / "docs/protocol.md").read_text(encoding="utf-8").replace("\n", " ")
    low, high, deviation = map(
        float, re.search(r"0\.01 nats are worth (\d) to (\d) % .*? deviation of ([\d.]+) nats", text).groups()
    )
    worth, variances = [], []
    for arm in PARAMS.select("tiny", "field").selected.arms:
        paths = sorted((ROOT / "reports/tiny/evaluate").glob(f"{arm}-[0-9].json"))
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        ends = [sorted(run["schedule_ends"], key=lambda end: end["step"])[-2:] for run in runs]
        cost = math.log(ends[0][1]["flops"] / ends[0][0]["flops"])
        worth.append(cost / statistics.mean(one["test"]["nats"] - two["test"]["nats"] for one, two in ends))
        variances.append(statistics.variance(run["test"]["nats"] for run in runs))
    assert [round(min(worth)), round(max(worth))] == [low, high]
    assert statistics.mean(variances) ** 0.5 == pytest.approx(deviation, rel=0.3)  # seeds are added
