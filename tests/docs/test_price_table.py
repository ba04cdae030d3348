"""The table of prices in docs/scale.md is what `make plan` counts."""

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
