"""Numbers in docs/scale.md: the table of prices is what `make plan` counts, the speed of generation what was recorded."""

import json
import re
from dataclasses import replace

import pytest
from builders import PARAMS, ROOT

from lolm.accounting.plan import plan_rows
from lolm.accounting.price import GIB, disk, gpu_hours, memory_of, shard_bytes
from lolm.accounting.resolve import resolve_run
from pipeline.estimate import study_flops

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
