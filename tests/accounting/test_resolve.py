"""What arms resolve to: every size of before, and sizes that follow when another's is changed."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from builders import PARAMS, ROOT, SIZES

from lolm.accounting.count import account_run, count_parameters
from lolm.accounting.matching import closest, quantity
from lolm.accounting.resolve import resolve_run, size_origin
from lolm.config import ConfigError, Params, SizeRule, arms_of
from lolm.config.sizing import rule_of
from lolm.records import fingerprint_of

TABLE = [line.split() for line in (Path(__file__).parent / "resolved.txt").read_text().splitlines() if line[0] != "#"]
EDITED = ("smoke", "nano", "micro", "tiny", "mini", "20m")  # the scales that are meant to be edited
MATCHED = [name for name, study in PARAMS.studies.items() if study.matched]
# What no width can match: heads of Mamba-2 are 16 to 64 wide, and eight layers of Jamba are larger than LOLM of two.
CANNOT = {("20m", "mamba2"), ("tiny", "mamba2"), ("smoke", "mamba2"), ("smoke", "jamba"), ("smoke", "jamba_moe")}


def edited(scale: str, arm: str = "lolm", params: Params = PARAMS, **sizes) -> Params:
    """The parameters with other sizes for an arm at a scale."""
    preset = params.scales[scale]
    rule = replace(preset.sizes.get(arm, SizeRule()), **sizes)
    return replace(params, scales=params.scales | {scale: replace(preset, sizes=preset.sizes | {arm: rule})})


@pytest.mark.parametrize("scale", SIZES)
def test_every_arm_is_what_it_was(scale):
    """The published sizes and those of committed results, whatever rule they come from now."""
    rows = [row for row in TABLE if row[0] == scale]
    assert len(rows) >= 5
    assert {row[1] for row in rows} <= set(arms_of(PARAMS, scale))
    for _, arm, parameters, digest in rows:
        run = resolve_run(PARAMS, scale, arm, 1)
        assert count_parameters(run)[0] == int(parameters), arm
        assert fingerprint_of(run.vocab_size, run.architecture, run.size, run.training)[:8] == digest, arm


def test_the_short_count_is_the_count():
    runs = [resolve_run(PARAMS, "tiny", arm, 1) for arm in arms_of(PARAMS, "tiny")]
    kinds = {repr((run.architecture.family, run.architecture.surface, run.architecture.latent)): run for run in runs}
    for arm, run in ((run.arm, run) for run in kinds.values()):
        for layers in (1, run.size.n_layers, 11):
            deeper = replace(run, size=replace(run.size, n_layers=layers))
            found = account_run(deeper).parameters
            assert count_parameters(deeper) == (found.total, found.active), (arm, layers)


def test_a_run_joins_architecture_size_and_training():
    run = resolve_run(PARAMS, "tiny", "lolm", 2)
    assert (run.scale, run.arm, run.seed) == ("tiny", "lolm", 2)
    assert run.vocab_size == PARAMS.scales["tiny"].tokenizer.vocab_size
    assert run.architecture == PARAMS.architectures["lolm"]
    assert (run.size.d_model, run.size.latent.layers, run.size.future.width) == (128, 1, 64)
    assert run.training == PARAMS.scales["tiny"].training
    assert resolve_run(PARAMS, "tiny", "lolm", 2, 5e-4).size == replace(run.size, learning_rate=5e-4)
    assert {part in run.name for part in ("lolm", "tiny", "2")} == {True}


def test_unknown_scale_arm_and_size():
    with pytest.raises(ConfigError, match="no scale 'tinny'; did you mean 'tiny'"):
        resolve_run(PARAMS, "tinny", "lolm", 1)
    with pytest.raises(ConfigError, match="no arm 'lolmm' under 'architectures'; did you mean 'lolm"):
        resolve_run(PARAMS, "tiny", "lolmm", 1)
    studies = {name: study for name, study in PARAMS.studies.items() if not study.scale}
    tiny = {"tiny": replace(PARAMS.scales["tiny"], sizes={})}
    without = replace(PARAMS, scales=tiny, scale="tiny", studies=studies, budgets={}, external={})
    for arm in ("lolm", "samba", "lolm_sum"):
        with pytest.raises(ConfigError, match=rf"scales\.tiny\.sizes has no entry for arm 'lolm'|'{arm}'"):
            resolve_run(without, "tiny", arm, 1)
        assert arm not in arms_of(without, "tiny")
    size = replace(resolve_run(PARAMS, "tiny", "samba", 1).size, mixers={"mamba2": {}})
    with pytest.raises(ConfigError, match=r"sizes\.samba\.mixers: no block of the arm has a mixer 'mamba2'"):
        replace(resolve_run(PARAMS, "tiny", "samba", 1), size=size)
    with pytest.raises(ConfigError, match=r"sizes\.samba\.d_ff: is missing"):
        replace(resolve_run(PARAMS, "tiny", "samba", 1), size=replace(size, mixers={}, d_ff=0))


# ------------------------------------------------------------------------------------------ derived sizes


@pytest.mark.parametrize(
    ("scale", "change"),
    [
        ("tiny", {"d_model": 160, "n_heads": 5}),
        ("tiny", {"d_ff": 700}),
        ("tiny", {"latent": {"layers": 2, "d_state": 16}}),
        ("smoke", {"d_model": 48}),
        ("mini", {"d_model": 256, "n_heads": 8, "d_ff": 1024}),
        ("20m", {"d_model": 320, "n_heads": 10}),
    ],
)
def test_every_matched_arm_follows_lolm(scale, change):
    """Without a word about any other arm, all of them are as large as LOLM, within the tolerance."""
    params = edited(scale, **change)
    before, now = (count_parameters(resolve_run(p, scale, "lolm", 1))[0] for p in (PARAMS, params))
    assert abs(now / before - 1) > 0.02
    for arm in sorted({arm for name in MATCHED for arm in PARAMS.studies[name].arms} - {"lolm_published", "lolm_v0"}):
        run, origin = resolve_run(params, scale, arm, 1), size_origin(params, scale, arm)
        total, active = count_parameters(run)
        mismatch = (active if arm == "jamba_moe" else total) / now - 1
        if abs(mismatch) > params.analysis.parameter_tolerance:  # allowed where the steps are too coarse, and then it says so
            assert (scale, arm) in CANNOT, (scale, arm, mismatch, origin)
            assert arm == "mamba2" or run.size.d_ff in (1, 16)
            if origin is not None:
                assert f"derived, in steps of {origin.step}: {mismatch:+.3%}" in str(origin)


def test_a_derived_size_is_the_nearest_there_is_and_says_where_it_is_from():
    run, origin = resolve_run(PARAMS, "tiny", "samba", 1), size_origin(PARAMS, "tiny", "samba")
    budget = count_parameters(resolve_run(PARAMS, "tiny", "lolm", 1))[0]
    assert (origin.dial, origin.value, origin.like, origin.of, origin.budget) == ("d_ff", 237, "lolm", "parameters", budget)
    assert run.size.d_ff == origin.value == closest(run, budget, dial="d_ff").value
    assert origin.mismatch == quantity(run, "parameters") / budget - 1
    assert str(origin) == f"d_ff 237 derived: {origin.mismatch:+.3%} from the 1,158,385 parameters of lolm"


def test_a_derived_size_is_rounded_as_the_scale_or_the_arm_says():
    assert size_origin(PARAMS, "20m", "hawk").value % 8 == 0  # width_multiple
    assert size_origin(PARAMS, "20m", "transformer").value == 1024  # multiple_of: 64; LOLM's own d_ff
    run = resolve_run(PARAMS, "tiny", "transformer", 1)
    for width, multiple, rounded in ((300, 8, 304), (308, 16, 304), (312, 16, 320), (312, 1, 312)):  # halves go up
        budget = quantity(replace(run, size=replace(run.size, d_ff=width)), "parameters")
        assert closest(run, budget, dial="d_ff", multiple_of=multiple).value == rounded


def test_a_size_that_is_given_stays_and_is_not_called_derived():
    assert rule_of("transformer", PARAMS.sizes, PARAMS.scales["149m"]).d_ff == 3024
    assert resolve_run(PARAMS, "149m", "transformer", 1).size.d_ff == 3024
    assert size_origin(PARAMS, "149m", "transformer") is None
    assert size_origin(PARAMS, "tiny", "lolm") is None
    assert size_origin(PARAMS, "tiny", "lolm_free_gate") is None
    pinned = edited("tiny", "transformer", d_ff=512)
    assert resolve_run(pinned, "tiny", "transformer", 1).size.d_ff == 512


def test_an_arm_that_is_like_a_derived_one_has_its_size():
    for scale in ("smoke", "tiny"):
        assert resolve_run(PARAMS, scale, "transformer_published", 1).size == resolve_run(PARAMS, scale, "transformer", 1).size
    assert size_origin(PARAMS, "tiny", "transformer_published") == size_origin(PARAMS, "tiny", "transformer")
    deeper = edited("tiny", "transformer_published", n_layers=7)
    assert resolve_run(deeper, "tiny", "transformer_published", 1).size.n_layers == 7


def test_a_decoder_takes_widths_of_lolm_and_none_of_its_parts():
    size = resolve_run(PARAMS, "20m", "mamba", 1).size
    assert (size.d_model, size.n_heads, size.dropout, size.learning_rate) == (256, 8, 0.1, 1e-4)
    assert (size.latent, size.memory, size.regime, size.future, size.d_ff) == (None, None, None, None, 0)


@pytest.mark.parametrize("dial", ["d_model", "n_layers", "latent.layers", "memory.slots", "regime.width", "latent.d_state"])
def test_a_size_that_none_may_lack_can_be_derived(dial):
    params = edited("tiny", "lolm_sum", match=dial)
    origin = size_origin(params, "tiny", "lolm_sum")
    assert origin.dial == dial
    run, lolm = (resolve_run(params, "tiny", arm, 1) for arm in ("lolm_sum", "lolm"))
    assert origin.mismatch == quantity(run, "parameters") / quantity(lolm, "parameters") - 1
    assert run.size != lolm.size


def test_what_no_width_can_match_says_so():
    wrong = edited("tiny", "transformer", match="mixers.attention.window")
    with pytest.raises(
        ConfigError, match=r"scales\.tiny\.sizes\.transformer: mixers\.attention\.window cannot be derived from lolm"
    ):
        resolve_run(wrong, "tiny", "transformer", 1)


def test_a_study_is_resolved_in_well_under_a_second():
    """CPU seconds of this thread, once PyTorch has loaded what it loads at its first meta tensor."""
    resolve_run(PARAMS, "tiny", "samba", 1)
    params = edited("tiny", d_ff=522)  # nothing of it is cached
    started = time.thread_time()
    for arm in PARAMS.studies["baselines"].arms:
        resolve_run(params, "tiny", arm, 1)
    assert time.thread_time() - started < 2.0
    started = time.thread_time()
    for arm in PARAMS.studies["baselines"].arms:
        resolve_run(params, "tiny", arm, 2)
    assert time.thread_time() - started < 0.5


def test_scales_meant_for_editing_pin_next_to_nothing():
    for scale in EDITED:
        for arm in arms_of(PARAMS, scale):
            rule = rule_of(arm, PARAMS.sizes, PARAMS.scales[scale])
            assert rule.match is None or rule.d_ff is None or (scale, arm) in {("smoke", "jamba"), ("smoke", "jamba_moe")}
    assert (ROOT / "params.yaml").read_text().count("\n") < 600
