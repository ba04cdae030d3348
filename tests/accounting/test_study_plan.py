"""What a study comes to, and which stages an edit touches."""

import json
from dataclasses import replace

import pytest
from builders import PARAMS
from test_resolve import edited

from lolm.accounting.count import account_run
from lolm.accounting.plan import plan_notes, plan_rows, stage_inputs
from lolm.accounting.resolve import resolve_run
from lolm.config import ConfigError, StudyConfig

STAGES = ["corpus", "tokenizer", "shards", "sweep", "train", "evaluate", "ablate", "layers", "recall", "report"]
MADE = {"sweep", "train", "recall", "report"}  # rest on the runs


def with_preset(params, scale, **sections):
    preset = params.scales[scale]
    changed = {name: replace(getattr(preset, name), **values) for name, values in sections.items()}
    return replace(params, scales=params.scales | {scale: replace(preset, **changed)})


def touched(params, scale="tiny", study="main", base=PARAMS) -> set[str]:
    """The stages whose values differ from those of params.yaml."""
    before, after = (json.dumps(stage_inputs(p, scale, study)) for p in (base, params))
    before, after = json.loads(before), json.loads(after)
    return {stage for stage in STAGES if before[stage] != after[stage]}


def test_arms_that_cannot_be_built_are_told_together_and_by_their_keys():
    """What only a built mixer knows: a key's worth of heads, rotated pairs."""
    params, arms = PARAMS, {}
    for arm, options in (("samba", {"kv_heads": 3}), ("transformer_modern", {"head_width": 7}), ("lolm", {"kv_heads": 3})):
        architecture = params.architectures[arm]
        blocks = dict(architecture.surface.blocks)
        name, block = next((name, block) for name, block in blocks.items() if block.mixer.name == "attention")
        blocks[name] = replace(block, mixer=replace(block.mixer, options=options))
        arms[arm] = replace(architecture, surface=replace(architecture.surface, blocks=blocks))
    params = replace(params, architectures=params.architectures | arms)
    with pytest.raises(ConfigError) as caught:
        plan_rows(params, "tiny", "field")
    told = "\n".join(map(str, caught.value.problems))
    assert "scales.tiny.sizes.lolm: mixer 'attention': kv_heads 3 must divide n_heads 4" in told
    assert "sizes.samba: d_ff cannot be derived from lolm" in told
    assert "scales.tiny.sizes.transformer_modern: " in told


def test_rows_of_a_study():
    rows = plan_rows(PARAMS, "smoke", "field")
    assert list(rows) == list(PARAMS.studies["field"].arms)
    costs = account_run(resolve_run(PARAMS, "smoke", "samba", 1))
    row = rows["samba"]
    assert row.parameters == costs.parameters.total
    assert row.mismatch == costs.parameters.total / rows["lolm"].parameters - 1
    assert (row.flops_per_token_training, row.flops_per_token_palm) == (
        costs.flops_per_token.training,
        costs.flops_per_token.palm,
    )
    assert (row.state_elements, row.state_bytes) == (costs.state_elements, costs.state_bytes)


def test_an_unmatched_baseline_is_refused_with_the_width_that_matches():
    pinned = edited("tiny", "transformer", d_ff=512)
    with pytest.raises(ConfigError, match=r"transformer has .*allowed: 0.50%.*transformer.d_ff: 583 leaves"):
        plan_rows(pinned, "tiny", "main")
    unasked = replace(pinned, studies=pinned.studies | {"main": replace(pinned.studies["main"], matched=False)})
    assert plan_rows(unasked, "tiny", "main")["transformer"].mismatch < -0.005
    undeclared = replace(pinned, studies=pinned.studies | {"main": replace(pinned.studies["main"], baseline="")})
    assert plan_rows(undeclared, "tiny", "main")["transformer"].mismatch < -0.005


def test_a_rounding_that_is_too_coarse_is_named():
    coarse = edited("tiny", "transformer", multiple_of=400)
    with pytest.raises(ConfigError, match=r"d_ff 400 derived, in steps of 400: .* from the 1,158,385 parameters of lolm"):
        plan_rows(coarse, "tiny", "main")


def test_stages_and_values_are_plain_and_in_a_stable_order():
    inputs = stage_inputs(PARAMS, "smoke", "gates")
    assert list(inputs) == STAGES
    assert inputs == stage_inputs(PARAMS, "smoke", "gates")
    assert json.loads(json.dumps(inputs, sort_keys=True)) == json.loads(json.dumps(inputs))
    assert inputs["train"]["seeds"] == [1, 2, 3]
    assert inputs["train"]["runs"]["lolm_sum"]["size"]["d_ff"] == 136
    assert "seed" not in inputs["train"]["runs"]["lolm"]
    assert set(inputs["recall"]["runs"]) == set(PARAMS.studies["gates"].arms)
    assert set(stage_inputs(PARAMS, "smoke", "cpc")["recall"]["runs"]) == {"lolm"}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"training": {"steps": 3000}}, {"sweep", "train", "report"}),  # recall has steps of its own
        ({"training": {"weight_decay": 0.2}}, MADE),
        ({"evaluation": {"samples": 3}}, {"evaluate"}),
        ({"ablation": {"refit_steps": 7}}, {"ablate"}),
        ({"layers": {"draws": 7}}, {"layers"}),
        ({"recall": {"steps": 7}}, {"recall"}),
        ({"sweep": {"steps": 7}}, {"sweep"}),
        ({"corpus": {"test_fraction": 0.05}}, {"corpus"}),
        ({"tokenizer": {"train_bytes": 7}}, {"tokenizer"}),
        ({"tokenizer": {"vocab_size": 600}}, {"tokenizer", *MADE}),
        ({"shards": {"shard_tokens": 7}}, {"shards"}),
    ],
)
def test_an_edit_touches_its_stages_and_no_other(change, stages):
    assert touched(with_preset(PARAMS, "tiny", **change)) == stages
    assert touched(with_preset(PARAMS, "smoke", **change)) == set()  # of another scale


def test_edits_of_sizes_seeds_and_analysis():
    assert touched(edited("tiny", d_ff=700)) == MADE
    wider = stage_inputs(edited("tiny", d_ff=700), "tiny", "main")["train"]["runs"]
    assert wider["transformer"]["size"]["d_ff"] > 584  # it follows
    assert touched(edited("tiny", "samba", n_layers=4)) == set()  # not an arm of the study
    study = PARAMS.studies["main"]
    more = replace(PARAMS, studies=PARAMS.studies | {"main": replace(study, seeds=(1, 2, 3, 4))})
    assert touched(more) == {"train", "evaluate", "ablate", "layers", "recall", "report"}
    assert touched(replace(PARAMS, analysis=replace(PARAMS.analysis, confidence=0.9))) == {"report"}
    one = StudyConfig(arms=("lolm",), seeds=(1,), subject="lolm", baseline="")
    assert touched(replace(PARAMS, studies=PARAMS.studies | {"own": one})) == {"report"}


def test_notes_say_what_is_not_matched_and_why():
    wide = edited("20m", d_model=320, n_heads=10)
    rows = plan_rows(wide, "20m", "baselines")
    notes = {note.split()[0]: note for note in plan_notes(wide, "20m", "baselines", rows)}
    assert "in steps of 64" in notes["mamba2"]
    assert "in the parameters a token meets, by " in notes["jamba_moe"]
    assert not {"transformer", "hawk", "samba"} & set(notes)
