"""Strict loading: every mistake names its dotted path and what to do."""

import copy
import json
from dataclasses import replace

import pytest
import yaml
from builders import PARAMS, ROOT, make_run

from lolm.config import (
    ConfigError,
    Params,
    RunConfig,
    SizeConfig,
    StackConfig,
    TrainingConfig,
    flatten,
    from_mapping,
    load_params,
    resolve_run,
    scale_of,
    to_mapping,
)

RAW = json.loads(json.dumps(yaml.safe_load((ROOT / "params.yaml").read_text())))  # no shared anchors
RUNS = [(scale, arm) for scale, preset in PARAMS.scales.items() for arm in preset.sizes]
RUNGS = ("nano", "micro", "mini")  # with tiny a ladder of sizes, for the main arms alone


def with_change(path: str, value) -> dict:
    raw = copy.deepcopy(RAW)
    *parents, last = path.split(".")
    node = raw
    for key in parents:
        node = node[key]
    if value is KeyError:
        del node[last]
    else:
        node[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("scales.tiny.training.step", 5, r"unknown key 'scales\.tiny\.training\.step'; did you mean 'steps'\?"),
        ("architectures.lolm.gate.biass", 0.0, r"'architectures\.lolm\.gate\.biass'; did you mean 'bias'\?"),
        ("stuby", 1, r"unknown key 'stuby'; did you mean 'study'\?"),
        ("scales.tiny.training.zzz", 1, r"unknown key 'scales\.tiny\.training\.zzz'; known: .*steps"),
        ("scales.tiny.training.steps", "many", r"scales\.tiny\.training\.steps: expected int, got str 'many'"),
        ("scales.tiny.training.steps", 5.0, r"scales\.tiny\.training\.steps: expected int, got float 5\.0"),
        ("scales.tiny.training.steps", True, r"scales\.tiny\.training\.steps: expected int, got bool True"),
        ("scales.tiny.training.steps", None, r"scales\.tiny\.training\.steps: expected int, got nothing"),
        ("scales.tiny.training.compile", 1, r"scales\.tiny\.training\.compile: expected bool, got int 1"),
        ("scales.tiny.sizes.lolm.learning_rate", "3e-4", r"tiny\.sizes\.lolm\.learning_rate: .*as in 3\.0e-4"),
        ("scales.tiny.training.snapshots", 0.5, r"scales\.tiny\.training\.snapshots: expected a list, got float"),
        ("scales.tiny.training.snapshots", [0.5, "x"], r"scales\.tiny\.training\.snapshots\[1\]: expected float"),
        ("scales.tiny.training.betas", [0.9], r"scales\.tiny\.training\.betas: expected 2 values, got 1"),
        ("scales.tiny.sizes", [1], r"scales\.tiny\.sizes: expected a mapping, got list"),
        ("scales.tiny.sizes.lolm", 7, r"scales\.tiny\.sizes\.lolm: expected a mapping, got int 7"),
        ("architectures.lolm.latent.form", "mambo", r"architectures\.lolm\.latent\.form: 'mambo' .*did you mean 'mamba'\?"),
        ("scales.tiny.training.steps", KeyError, r"missing key 'scales\.tiny\.training\.steps'"),
        ("studies.main.baseline", KeyError, r"missing key 'studies\.main\.baseline'"),
        ("study", "fields", r"study: 'fields' is not one of 'studies'; did you mean 'field'\?"),
        ("studies.main.name", "field", r"studies\.main\.name: is 'field'; leave it out"),
        ("architectures.lolm.surface.pattern", ["laier"], r"architectures\.lolm\.surface: .*'laier'.*did you mean 'layer'\?"),
        ("scales.tiny.training.batch_size", 0, r"scales\.tiny\.training: training\.batch_size must be at least 1, got 0"),
        ("scales.tiny.training.warmup_steps", 10**6, r"scales\.tiny\.training: training\.warmup_steps 1000000 leaves nothing"),
        ("scales.tiny.training.snapshots", [1.0], r"scales\.tiny\.training: training\.snapshots"),
        ("scales.tiny.sizes.lolm.n_heads", 3, r"scales\.tiny\.sizes\.lolm: d_model 128 must be a multiple of n_heads 3"),
        ("scales.tiny.sizes.lolm.n_heads", 128, r"scales\.tiny\.sizes\.lolm: .*even head width"),
        ("scales.tiny.sizes.lolm.dropout", 1.0, r"scales\.tiny\.sizes\.lolm: dropout must be in \[0, 1\)"),
        ("scales.tiny.corpus.source", "hub", r"scales\.tiny\.corpus: corpus\.name is required"),
        ("scales.tiny.tokenizer.vocab_size", 100, r"scales\.tiny\.tokenizer: .*at least 260"),
        ("scale", "tinny", r"scale: 'tinny' is not a preset of 'scales'; did you mean 'tiny'\?"),
        ("studies.inversion.arms", ["lolm", "transfomer"], r"no arm 'transfomer' .*did you mean 'transformer'\?"),
        ("studies.gates.arms", ["lolm", "lolm"], r"studies\.gates: arms: need at least one, each once"),
        ("studies.main.seeds", [], r"studies\.main: seeds: need at least one"),
        ("scales.tiny.sweep.factors", [1.0, 2.0], r"scales\.tiny\.sweep: sweep\.factors: at least three"),
        ("scales.tiny.recall.pairs", 40, r"scales\.tiny\.recall: recall\.pairs 40 need recall\.seq_len of at least 120"),
        ("scales.tiny.evaluation.lengths", [0], r"scales\.tiny\.evaluation: evaluation\.lengths"),
        ("architectures.lolm.detach", ["latent_gates"], r"lolm\.detach\[0\]: 'latent_gates' .*did you mean 'latent_gate'\?"),
        ("architectures.lolm.detach", ["latent_gate", "latent_gate"], r"architectures\.lolm: detach: names an edge twice"),
        ("architectures.transformer.detach", ["latent_gate"], r"no edge 'latent_gate' to cut; it has none"),
        ("architectures.lolm_no_latent.detach", ["latent_fusion"], r"no edge 'latent_fusion' to cut; it has none"),
        ("architectures.lolm_no_regime.detach", ["latent_regime"], r"no edge 'latent_regime' to cut; it has surface_latent, "),
        ("architectures.lolm_parallel.detach", ["surface_latent"], r"no edge 'surface_latent' to cut"),
        ("architectures.lolm_half.detach", ["regime_gate"], r"no edge 'regime_gate' to cut"),
        ("studies.cpc.recall", [], r"studies\.cpc: recall: need at least one arm"),
        ("studies.cpc.recall", ["lolm_no_cpcs"], r"studies\.cpc: recall: 'lolm_no_cpcs' .*did you mean 'lolm_no_cpc'\?"),
        ("studies.regime.factors.clamp", ["lolm_half"], r"studies\.regime: factors\.clamp: 'lolm_half' is not among"),
        ("studies.regime.factors.clamp", ["lolm"], r"factors\.clamp: 1 of 8 arms are at the high level; it must be half"),
        ("studies.regime.factors.clamp", ["lolm", "lolm"], r"factors\.clamp: each arm once"),
        (
            "studies.regime.factors.clamp",
            ["lolm", "lolm_reg_ec", "lolm_reg_eb", "lolm_reg_ie"],
            r"factors\.isolation and factors\.clamp are not orthogonal: 3 of 8",
        ),
        ("architectures.jamba_moe.surface.blocks.experts.experts_per_token", 17, r"experts: 16 .*experts_per_token 17"),
    ],
)
def test_a_mistake_is_named_by_its_path(path, value, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(Params, with_change(path, value))


def test_a_dot_in_a_name_is_refused_since_dvc_reads_it_as_a_level():
    raw = copy.deepcopy(RAW)
    raw["scales"]["1.57b"] = raw["scales"]["tiny"]
    with pytest.raises(ConfigError, match="'1.57b'.*dot"):
        from_mapping(Params, raw)


def test_a_text_value_where_any_text_is_allowed_passes():
    assert from_mapping(Params, with_change("architectures.lolm.label", "x")).architectures["lolm"].label == "x"


def test_an_integer_is_a_float_where_a_float_is_wanted():
    value = from_mapping(Params, with_change("scales.tiny.training.clip", 1)).scales["tiny"].training.clip
    assert value == 1.0
    assert isinstance(value, float)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such file"):
        load_params(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1,")
    with pytest.raises(ConfigError, match=r"broken\.yaml: not valid YAML"):
        load_params(tmp_path / "broken.yaml")
    (tmp_path / "wrong.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match=r"wrong\.yaml: the file: expected a mapping, got list"):
        load_params(tmp_path / "wrong.yaml")


@pytest.mark.parametrize(("scale", "arm"), RUNS)
def test_a_run_survives_the_round_trip_through_json(scale, arm):
    run = resolve_run(PARAMS, scale, arm, 3)
    assert from_mapping(RunConfig, json.loads(json.dumps(to_mapping(run)))) == run
    assert from_mapping(RunConfig, to_mapping(run)) == run


def test_params_survive_the_round_trip():
    assert from_mapping(Params, json.loads(json.dumps(to_mapping(PARAMS)))) == PARAMS


def test_unknown_scale_arm_and_size():
    with pytest.raises(ConfigError, match="no scale 'tinny'; did you mean 'tiny'"):
        scale_of(PARAMS, "tinny")
    with pytest.raises(ConfigError, match="no arm 'lolmm' under 'architectures'; did you mean 'lolm"):
        resolve_run(PARAMS, "tiny", "lolmm", 1)
    size = replace(PARAMS.scales["tiny"].sizes["samba"], mixers={"mamba2": {}})
    with pytest.raises(ConfigError, match=r"sizes\.samba\.mixers: no block of the arm has a mixer 'mamba2'"):
        replace(resolve_run(PARAMS, "tiny", "samba", 1), size=size)
    with pytest.raises(ConfigError, match=r"sizes\.samba\.d_ff is missing"):
        replace(resolve_run(PARAMS, "tiny", "samba", 1), size=replace(size, mixers={}, d_ff=0))
    raw = with_change("scales.tiny.sizes.lolm_v0", KeyError)
    with pytest.raises(ConfigError, match=r"scales\.tiny\.sizes has no entry for arm 'lolm_v0'"):
        resolve_run(from_mapping(Params, raw), "tiny", "lolm_v0", 1)


def test_a_run_joins_architecture_size_and_training():
    run = resolve_run(PARAMS, "tiny", "lolm", 2)
    assert (run.scale, run.arm, run.seed) == ("tiny", "lolm", 2)
    assert run.vocab_size == PARAMS.scales["tiny"].tokenizer.vocab_size
    assert run.architecture == PARAMS.architectures["lolm"]
    assert run.size == PARAMS.scales["tiny"].sizes["lolm"]
    assert run.training == PARAMS.scales["tiny"].training
    assert resolve_run(PARAMS, "tiny", "lolm", 2, 5e-4).size == replace(run.size, learning_rate=5e-4)
    assert {part in run.name for part in ("lolm", "tiny", "2")} == {True}


def test_runs_recorded_before_a_field_existed_still_load():
    run = resolve_run(PARAMS, "tiny", "lolm", 1)
    old = json.loads(json.dumps(to_mapping(run)))
    del old["architecture"]["detach"]
    for name in ("negatives", "regime_balance_weight", "regime_entropy_weight"):
        del old["architecture"]["objectives"][name]
    assert from_mapping(RunConfig, old) == run


# ------------------------------------------------------------------------------------------ studies


def test_every_study_says_which_arms_are_trained_on_the_recall_tasks():
    """DVC reads the list from params.yaml and knows no default."""
    assert [name for name, study in PARAMS.studies.items() if study.recall is None] == []
    assert replace(PARAMS.selected, recall=None).recall_arms == PARAMS.selected.arms


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


def test_derived_values_of_training():
    training = TrainingConfig(steps=1000, seq_len=64, batch_size=4, accumulation=3, snapshots=(0.5, 0.0001, 0.1, 0.1, 0.9999))
    assert training.tokens_per_step == 64 * 4 * 3
    assert training.snapshot_steps == (1, 100, 500)  # at least one, each once, the last step apart


@pytest.mark.parametrize("scale", PARAMS.scales)
def test_presets_are_whole(scale):
    preset = PARAMS.scales[scale]
    assert preset.training.seq_len > 8 + 1  # the future horizon
    if scale in RUNGS:
        tiny = PARAMS.scales["tiny"]
        assert (preset.corpus, preset.tokenizer, preset.training.cooldowns) == (
            tiny.corpus,
            tiny.tokenizer,
            tiny.training.cooldowns,
        )
        assert set(PARAMS.studies["sizes"].arms) <= set(preset.sizes)
        return
    assert set(preset.sizes) == set(PARAMS.architectures)
    for arm in ("lolm", "lolm_published"):
        assert preset.sizes[arm].memory.chunk_tokens * 4 == preset.training.seq_len
        assert preset.sizes[arm].memory.chunks == 4
        assert preset.sizes[arm].regime.tau_end == 0.5
    assert preset.sizes["lolm_v0"].memory.chunks == 1  # v0 wrote nothing
    assert preset.sizes["lolm_v0"].regime.tau_end == 0.1


# Facts C: steps, T, micro-batch, accumulation, warm-up, peak rate, clip, precision.
PUBLISHED = {
    "20m": (100_000, 128, 4, 1, 2000, 1e-4, 0.5, "fp32"),
    "149m": (25_000, 1024, 2, 16, 1000, 3e-4, 1.0, "bf16"),
    "304m": (200_000, 2048, 32, 2, 2000, 3e-4, 1.0, "bf16"),
    "1570m": (200_000, 2048, 16, 1, 4000, 1.5e-4, 0.5, "bf16"),
}


@pytest.mark.parametrize("scale", PUBLISHED)
def test_published_schedules(scale):
    t, sizes = PARAMS.scales[scale].training, PARAMS.scales[scale].sizes
    rates = {sizes[arm].learning_rate for arm in sizes}
    assert len(rates) == 1
    found = (t.steps, t.seq_len, t.batch_size, t.accumulation, t.warmup_steps, rates.pop(), t.clip, t.precision)
    assert found == PUBLISHED[scale]
    assert (t.weight_decay, t.betas, t.epsilon, t.lr_floor, t.schedule) == (0.1, (0.9, 0.95), 1e-8, 0.1, "cosine")
    assert PARAMS.scales[scale].tokenizer.vocab_size == 50_257
    assert sizes["lolm"].future.hidden == max(512, sizes["lolm"].d_model // 2)


def test_configurations_are_frozen_and_values_are_checked_when_built_by_hand():
    with pytest.raises(AttributeError):
        make_run().size.d_model = 3
    with pytest.raises(ConfigError, match="even head width"):
        SizeConfig(d_model=6, n_layers=1, n_heads=2, d_ff=4, learning_rate=1e-3)
    with pytest.raises(ConfigError, match="at least one block name"):
        StackConfig(blocks={}, pattern=())
    with pytest.raises(ConfigError, match="is missing"):
        make_run("lolm", size={"latent": None})
    assert replace(make_run(), seed=5).seed == 5


def test_flatten_gives_dotted_keys():
    assert flatten({"a": {"b": 1, "c": {"d": (2,)}}, "e": {}}) == {"a.b": 1, "a.c.d": (2,), "e": {}}
