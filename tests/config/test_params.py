"""What ``params.yaml`` holds: designs, presets, templates, and that it survives DVC's writer."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from builders import PARAMS, ROOT, make_run

from lolm.accounting.resolve import resolve_run
from lolm.config import (
    ConfigError,
    Params,
    RunConfig,
    SizeConfig,
    SizeRule,
    TrainingConfig,
    arms_of,
    flatten,
    from_mapping,
    load_params,
    to_mapping,
    tuned_arm,
)
from lolm.config.sizing import rule_of

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
RUNGS = ("nano", "micro", "mini")  # with tiny a ladder of sizes
RUNS = [(scale, arm) for scale in ("smoke", "1570m") for arm in arms_of(PARAMS, scale)]


def test_the_file_is_one_that_a_person_can_read():
    assert max(map(len, TEXT.splitlines())) <= 130
    assert not re.search(r"(^|[ \[{:])[&*][A-Za-z]|<<", re.sub(r"#.*", "", TEXT))


@pytest.mark.parametrize(("scale", "arm"), RUNS)
def test_a_run_survives_the_round_trip_through_json(scale, arm):
    run = resolve_run(PARAMS, scale, arm, 3)
    assert from_mapping(RunConfig, json.loads(json.dumps(to_mapping(run)))) == run


def test_params_survive_the_round_trip(tmp_path):
    plain = json.loads(json.dumps(to_mapping(PARAMS)))
    assert from_mapping(Params, plain) == PARAMS
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    assert load_params(tmp_path / "params.yaml") == PARAMS


def test_runs_recorded_before_a_field_existed_still_load():
    run = resolve_run(PARAMS, "tiny", "lolm", 1)
    old = json.loads(json.dumps(to_mapping(run)))
    del old["architecture"]["detach"]
    for name in ("negatives", "regime_balance_weight", "regime_entropy_weight"):
        del old["architecture"]["objectives"][name]
    assert from_mapping(RunConfig, old) == run


def test_the_templates_load_as_they_stand(tmp_path):
    """An own scale, study and arm are one block each, and resolve."""
    assert TEXT.count("#: ") >= 3
    (tmp_path / "params.yaml").write_text(re.sub(r"^( *)#: ", r"\1", TEXT, flags=re.MULTILINE))
    params = load_params(tmp_path / "params.yaml")
    for section, name in {"scales": "mine", "studies": "mine", "architectures": "my_samba"}.items():
        assert set(getattr(params, section)) - set(getattr(PARAMS, section)) == {name}
    assert params.scales["mine"].evaluation == PARAMS.scales["tiny"].evaluation
    for arm in params.studies["mine"].arms:
        assert resolve_run(params, "mine", arm, 1).size.d_model == 160
    wide, samba = (resolve_run(params, "tiny", arm, 1) for arm in ("my_samba", "samba"))
    assert wide.size.mixers["attention"]["window"] == 192
    assert replace(wide.size, mixers=samba.size.mixers) == samba.size, "it is Samba in all else"
    for scale in params.scales:
        assert set(arms_of(params, scale)) == set(params.architectures)


# ------------------------------------------------------------------------------------------ studies


def test_recall_is_of_all_arms_where_a_study_does_not_say():
    assert PARAMS.studies["main"].recall is None
    assert PARAMS.studies["main"].recall_arms == ("lolm", "transformer")
    assert PARAMS.studies["cpc"].recall_arms == ("lolm",)


def test_a_study_is_selected_by_its_name():
    assert PARAMS.selected == PARAMS.studies[PARAMS.study]
    assert {key: study.name for key, study in PARAMS.studies.items()} == {key: key for key in PARAMS.studies}
    chosen = PARAMS.select("smoke", "field")
    assert (chosen.scale, chosen.selected.name) == ("smoke", "field")
    assert PARAMS.select() == PARAMS
    with pytest.raises(ConfigError, match="no study 'fields' under 'studies'; did you mean 'field'"):
        PARAMS.select(study="fields")
    with pytest.raises(ConfigError, match="no scale 'tinny'; did you mean 'tiny'"):
        PARAMS.select("tinny")


def test_some_studies_are_made_for_certain_scales():
    assert PARAMS.scales_for("main") == ()
    assert PARAMS.scales_for("context") == ("context",)
    assert PARAMS.scales_for("budgets_small") == ("budget_nano", "budget_micro")
    assert PARAMS.scales_for("budgets_large") == ("budget_mini",)


def levels(study: str, of) -> dict[str, tuple[str, ...]]:
    """For each factor the arms of a study at its high level, read from their architectures."""
    arms = PARAMS.studies[study].arms
    high = {arm: of(PARAMS.architectures[arm]) for arm in arms}
    return {factor: tuple(arm for arm in arms if high[arm][factor]) for factor in high["lolm"]}


def products(study: str, *factors: str) -> set[bool]:
    """Whether an odd or an even number of the factors is low, over the arms: one value where they are aliased."""
    design = PARAMS.studies[study].factors
    return {sum(arm not in design[factor] for factor in factors) % 2 == 0 for arm in PARAMS.studies[study].arms}


def test_factors_of_the_isolation_study():
    edges = ("surface_latent", "regime_gate", "latent_fusion", "latent_gate")
    found = levels("isolation", lambda a: {"regime_fusion": a.regime.isolate} | {edge: edge in a.detach for edge in edges})
    design = PARAMS.studies["isolation"].factors
    assert {name: set(arms) for name, arms in found.items()} == {name: set(arms) for name, arms in design.items()}
    cells = [tuple(arm in design[factor] for factor in design) for arm in PARAMS.studies["isolation"].arms]
    assert len(set(cells)) == 8
    assert products("isolation", "surface_latent", "regime_fusion", "latent_fusion") == {True}  # I = ABD
    assert products("isolation", "surface_latent", "regime_gate", "latent_gate") == {False}  # I = -ACE
    assert products("isolation", "regime_fusion", "regime_gate", "latent_fusion", "latent_gate") == {False}  # I = -BCDE
    for factor in design:  # the likeliest interaction stands in no main effect's column
        assert products("isolation", "regime_fusion", "regime_gate", factor) == {True, False}


def test_factors_of_the_regime_study():
    found = levels(
        "regime",
        lambda a: {
            "isolation": a.regime.isolate,
            "entropy_maximised": a.objectives.regime_entropy_weight < 0,
            "clamp": a.regime.clamp is not None,
            "balance": a.objectives.regime_balance_weight > 0,
        },
    )
    design = PARAMS.studies["regime"].factors
    assert {name: set(arms) for name, arms in found.items()} == {name: set(arms) for name, arms in design.items()}
    cells = [tuple(arm in design[factor] for factor in design) for arm in PARAMS.studies["regime"].arms]
    assert {(True,) * 4, (False,) * 4} <= set(cells)  # v3 and v0
    assert len(set(cells)) == 8
    assert products("regime", *design) == {True}  # I = ABCD


@pytest.mark.parametrize("study", ["isolation", "regime"])
def test_arms_of_a_factorial_study_differ_in_their_factors_alone(study):
    lolm = PARAMS.architectures["lolm"]
    for arm in PARAMS.studies[study].arms:
        a = PARAMS.architectures[arm]
        objectives = replace(a.objectives, regime_entropy_weight=-1.0, regime_balance_weight=0.5)
        assert objectives == lolm.objectives
        assert replace(a.regime, isolate=True, clamp=5.0) == lolm.regime
        assert replace(a, label=lolm.label, detach=(), regime=lolm.regime, objectives=lolm.objectives) == lolm
        if study == "isolation":
            assert a.objectives == lolm.objectives
            assert a.regime.clamp == 5.0
        else:
            assert a.detach == ()


# ------------------------------------------------------------------------------------------ presets


@pytest.mark.parametrize("scale", PARAMS.scales)
def test_presets_are_whole(scale):
    preset = PARAMS.scales[scale]
    assert preset.training.seq_len > 8 + 1  # the future horizon
    assert set(arms_of(PARAMS, scale)) == set(PARAMS.architectures)
    sizes = {arm: resolve_run(PARAMS, scale, arm, 1).size for arm in ("lolm", "lolm_published", "lolm_v0")}
    for arm in ("lolm", "lolm_published"):
        assert sizes[arm].memory.chunk_tokens * 4 == preset.training.seq_len
        assert sizes[arm].memory.chunks == 4
        assert sizes[arm].regime.tau_end == 0.5
    assert sizes["lolm_v0"].memory.chunks == 1  # v0 wrote nothing
    assert sizes["lolm_v0"].regime.tau_end == 0.1


@pytest.mark.parametrize("scale", RUNGS)
def test_rungs_of_the_ladder_are_trained_on_the_text_and_the_protocol_of_tiny(scale):
    preset, tiny = PARAMS.scales[scale], PARAMS.scales["tiny"]
    assert (preset.corpus, preset.tokenizer, preset.shards, preset.evaluation, preset.ablation) == (
        tiny.corpus, tiny.tokenizer, tiny.shards, tiny.evaluation, tiny.ablation,
    )  # fmt: skip
    assert preset.recall.tasks == ()
    own = ("steps", "warmup_steps", "eval_every", "checkpoint_every")
    assert replace(preset.training, **{name: getattr(tiny.training, name) for name in own}) == tiny.training


@pytest.mark.parametrize("scale", ["20m", "149m", "304m"])
def test_a_published_scale_on_a_text_at_hand_differs_in_the_text_alone(scale):
    preset, local = PARAMS.scales[scale], PARAMS.scales[f"{scale}_local"]
    assert local.corpus.source == "local"
    assert replace(local, corpus=preset.corpus) == preset


# Facts C: steps, T, micro-batch, accumulation, warm-up, peak rate, clip, precision.
PUBLISHED = {
    "20m": (100_000, 128, 4, 1, 2000, 1e-4, 0.5, "fp32"),
    "149m": (25_000, 1024, 2, 16, 1000, 3e-4, 1.0, "bf16"),
    "304m": (200_000, 2048, 32, 2, 2000, 3e-4, 1.0, "bf16"),
    "1570m": (200_000, 2048, 16, 1, 4000, 1.5e-4, 0.5, "bf16"),
}


@pytest.mark.parametrize("scale", PUBLISHED)
def test_published_schedules(scale):
    t, sizes = PARAMS.scales[scale].training, {arm: resolve_run(PARAMS, scale, arm, 1).size for arm in PARAMS.studies["zoo"].arms}
    rates = {size.learning_rate for size in sizes.values()}
    assert len(rates) == 1
    found = (t.steps, t.seq_len, t.batch_size, t.accumulation, t.warmup_steps, rates.pop(), t.clip, t.precision)
    assert found == PUBLISHED[scale]
    assert (t.weight_decay, t.betas, t.epsilon, t.lr_floor, t.schedule) == (0.1, (0.9, 0.95), 1e-8, 0.1, "cosine")
    assert PARAMS.scales[scale].tokenizer.vocab_size == 50_257
    assert sizes["lolm"].future.hidden == max(512, sizes["lolm"].d_model // 2)


def test_derived_values_of_training():
    training = TrainingConfig(steps=1000, seq_len=64, batch_size=4, accumulation=3, snapshots=(0.5, 0.0001, 0.1, 0.1, 0.9999))
    assert training.tokens_per_step == 64 * 4 * 3
    assert training.snapshot_steps == (1, 100, 500)  # at least one, each once, the last step apart


def test_configurations_are_frozen_and_clashes_are_found_when_built_by_hand():
    with pytest.raises(AttributeError):
        make_run().size.d_model = 3
    with pytest.raises(ConfigError, match="even head width"):
        SizeConfig(d_model=6, n_layers=1, n_heads=2, d_ff=4, learning_rate=1e-3)
    with pytest.raises(ConfigError, match="is missing"):
        make_run("lolm", size={"latent": None})
    assert replace(make_run(), seed=5).seed == 5


def test_flatten_gives_dotted_keys():
    assert flatten({"a": {"b": 1, "c": {"d": (2,)}}, "e": {}}) == {"a.b": 1, "a.c.d": (2,), "e": {}}


def test_a_rule_is_made_anew_only_where_scale_and_arm_both_say_something():
    """Every process reads the file, and asks for 3,000 rules when it does."""
    arm = next(arm for arm in PARAMS.sizes if arm not in PARAMS.scales["smoke"].sizes)
    assert rule_of(arm, PARAMS.sizes, PARAMS.scales["smoke"]) is PARAMS.sizes[arm]
    assert rule_of("lolm", {}, PARAMS.scales["smoke"]) is PARAMS.scales["smoke"].sizes["lolm"]
    assert rule_of(arm, {}, PARAMS.scales["smoke"]) == SizeRule()


def test_variants_take_the_rate_of_the_arm_they_vary():
    for arm in ("lolm_parallel", "lolm_transformer_conv_latent", "lolm_free_gate", "lolm_no_cpc", "lolm_iso_zf", "lolm"):
        assert tuned_arm(PARAMS, "tiny", arm) == "lolm"
    for arm in ("griffin", "jamba", "jamba_moe", "hymba", "hawk"):
        assert tuned_arm(PARAMS, "tiny", arm) == "samba"
    assert tuned_arm(PARAMS, "tiny", "transformer_conv") == "transformer_modern"
    assert tuned_arm(PARAMS, "tiny", "ladder_1_decoder") == "lolm_v0"
    for arm in ("lolm_published", "transformer_published", "transformer", "mamba"):
        assert tuned_arm(PARAMS, "tiny", arm) == arm


def test_who_gives_a_rate_at_a_scale_tunes_from_it():
    def told(arm: str, **own) -> Params:
        tiny = PARAMS.scales["tiny"]
        rule = replace(tiny.sizes.get(arm, SizeRule()), **own)
        return replace(PARAMS, scales=PARAMS.scales | {"tiny": replace(tiny, sizes=tiny.sizes | {arm: rule})})

    assert tuned_arm(told("lolm_parallel", learning_rate=1e-3), "tiny", "lolm_parallel") == "lolm_parallel"
    assert tuned_arm(told("lolm_parallel", rate_of="lolm_parallel"), "tiny", "lolm_parallel") == "lolm_parallel"
    assert tuned_arm(told("lolm_parallel", rate_of="mamba"), "tiny", "lolm_parallel") == "mamba"
