"""Every mistake is named by its full key with what to do, all of a file at once, each where it was made."""

import pickle
from typing import Annotated, get_args, get_origin

import pytest
import yaml
from builders import ROOT

from lolm.config import ConfigError, Params, from_mapping, params_from
from lolm.config.dialect import parse
from lolm.config.mixers import OPTIONS
from lolm.config.sizes import SizeConfig
from lolm.config.strict import PartOf, Range, _hints

RAW, _ = parse((ROOT / "params.yaml").read_text(encoding="utf-8"))
PACKED = pickle.dumps(RAW)  # a copy is made of it faster than by `copy.deepcopy`
# Three of the scales, and what is made at no other: a third of the time.
FEW = pickle.dumps(
    RAW
    | {"scales": {name: RAW["scales"][name] for name in ("tiny", "smoke", "nano")}, "budgets": {}}
    | {"studies": {name: study for name, study in RAW["studies"].items() if "scale" not in study}}
)


def with_changes(changes: dict, packed: bytes = PACKED) -> dict:
    raw = pickle.loads(packed)
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = raw
        for key in parents:
            node = node.setdefault(key, {})
        if value is KeyError:
            del node[last]
        else:
            node[last] = value
    return raw


def mistakes(changes: dict, packed: bytes = PACKED) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        params_from(with_changes(changes, packed))
    return [str(problem) for problem in caught.value.problems]


def test_an_arm_keeps_its_negatives_on_the_recall_tasks_that_it_is_trained_on():
    alone = {"scales.smoke.recall.batch_size": 1}
    params_from(with_changes(alone))  # no arm with negatives of other texts is asked for recall
    text = "scales.smoke.recall.batch_size: 1 leaves arm 'lolm_cpc_documents' no negatives, taken from the other sequences of a"
    assert mistakes(alone | {"studies.cpc.recall": ["lolm_cpc_documents"]}) == [f"{text} batch; set it to 2 or more"]


def test_a_few_scales_are_no_mistake():
    params_from(pickle.loads(FEW))


LAYER = "surfaces.modern.blocks.layer"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # Keys.
        ("scales.tiny.training.step", 5, "unknown key 'scales.tiny.training.step'; did you mean 'steps'?"),
        ("architectures.lolm.gate.biass", 0.0, "unknown key 'architectures.lolm.gate.biass'; did you mean 'bias'?"),
        ("architectures.lolm_sum.size.lik", "lolm", "unknown key 'architectures.lolm_sum.size.lik'; did you mean 'like'?"),
        ("stuby", 1, "unknown key 'stuby'; did you mean 'study'?"),
        ("scales.tiny.training.steps", KeyError, "missing key 'scales.tiny.training.steps'"),
        ("studies.main.baseline", KeyError, "missing key 'studies.main.baseline'"),
        # Types.
        ("scales.tiny.training.steps", "many", "scales.tiny.training.steps: expected int, got str 'many'"),
        ("scales.tiny.training.steps", 5.0, "scales.tiny.training.steps: expected int, got float 5.0; write 5"),
        ("scales.tiny.training.steps", True, "scales.tiny.training.steps: expected int, got bool True"),
        ("scales.tiny.training.steps", None, "scales.tiny.training.steps: expected int, got nothing"),
        ("scales.tiny.training.compile", 1, "scales.tiny.training.compile: expected bool, got int 1"),
        ("scales.tiny.training.clip", float("nan"), "scales.tiny.training.clip: must be finite, got nan"),
        ("scales.tiny.training.clip", 10**400, "scales.tiny.training.clip: must be finite"),
        ("scales.tiny.training.snapshots", 0.5, "scales.tiny.training.snapshots: expected a list, got float 0.5"),
        ("scales.tiny.training.snapshots", [0.5, "x"], "scales.tiny.training.snapshots[1]: expected float, got str 'x'"),
        ("scales.tiny.training.betas", [0.9], "scales.tiny.training.betas: expected 2 values, got 1"),
        ("scales.tiny.sizes", [1], "scales.tiny.sizes: expected a mapping, got list [1]"),
        ("scales.tiny.sizes.lolm", 7, "scales.tiny.sizes.lolm: expected a mapping, got int 7"),
        # Ranges.
        ("scales.tiny.training.batch_size", 0, "scales.tiny.training.batch_size: must be at least 1 and at most"),
        ("scales.tiny.training.warmup_steps", -4, "scales.tiny.training.warmup_steps: must be at least 0"),
        ("scales.tiny.training.clip", -1, "scales.tiny.training.clip: must be above 0, got -1.0"),
        ("scales.tiny.training.clip", 0, "scales.tiny.training.clip: must be above 0, got 0.0"),
        ("scales.tiny.training.weight_decay", -5, "scales.tiny.training.weight_decay: must be at least 0"),
        ("scales.tiny.training.betas", [2, 2], "scales.tiny.training.betas[0]: must be at least 0 and below 1, got 2.0"),
        ("scales.tiny.training.threads", -1, "scales.tiny.training.threads: must be at least 0"),
        ("scales.tiny.training.snapshots", [1.0], "scales.tiny.training.snapshots[0]: must be above 0 and below 1"),
        ("scales.tiny.training.eval_batch_size", 0, "scales.tiny.training.eval_batch_size: must be at least 1"),
        ("scales.tiny.sizes.lolm.n_layers", 0, "scales.tiny.sizes.lolm.n_layers: must be at least 1"),
        ("scales.tiny.sizes.lolm.d_model", 2**40, "sizes.lolm.d_model: must be at least 1 and at most 1,048,576"),
        ("scales.tiny.sizes.lolm.n_layers", 10**6, "sizes.lolm.n_layers: must be at least 1 and at most 1,000"),
        ("scales.tiny.sizes.lolm.memory.banks", 2**53, "sizes.lolm.memory.banks: must be at least 1 and at most 1,048,576"),
        ("scales.tiny.sizes.lolm.regime.codes", 2**53, "sizes.lolm.regime.codes: must be at least 1 and at most 1,048,576"),
        ("scales.tiny.sizes.lolm.n_heads", 0, "scales.tiny.sizes.lolm.n_heads: must be at least 1"),
        ("scales.tiny.sizes.lolm.learning_rate", 0, "scales.tiny.sizes.lolm.learning_rate: must be above 0"),
        ("scales.tiny.sizes.lolm.dropout", 1.0, "scales.tiny.sizes.lolm.dropout: must be at least 0 and below 1"),
        ("scales.tiny.sizes.lolm.regime.tau_steps", 0, "scales.tiny.sizes.lolm.regime.tau_steps: must be at least 1"),
        ("scales.tiny.sizes.lolm.future.temperature", 0, "scales.tiny.sizes.lolm.future.temperature: must be above 0"),
        ("scales.tiny.sizes.lolm.future.positions", 0, "scales.tiny.sizes.lolm.future.positions: must be at least 1"),
        ("scales.tiny.sizes.lolm.memory.chunk_tokens", 0, "scales.tiny.sizes.lolm.memory.chunk_tokens: must be at least 1"),
        (
            "scales.tiny.sizes.mamba.mixers.mamba1.d_state",
            -1,
            "scales.tiny.sizes.mamba.mixers.mamba1.d_state: must be at least 1",
        ),
        ("scales.tiny.sizes.mamba.mixers.mamba1.d_state", [1], "mamba1.d_state: expected int, got list [1]"),
        ("scales.tiny.sizes.mamba.mixers.mamba1.inner_norms", 3, "mamba1.inner_norms: expected bool, got int 3"),
        ("scales.tiny.sizes.mamba.mixers.mamba1.dt_min", 0, "mamba1.dt_min: must be above 0"),
        ("scales.tiny.sizes.mamba.mixers.mamba3", {}, "no mixer 'mamba3'; did you mean 'mamba"),
        ("scales.tiny.sizes.mamba.mixers.mamba1.d_sate", 8, "mixers.mamba1.d_sate'; did you mean 'd_state'?"),
        (f"{LAYER}.mixer.name", "atention", f"{LAYER}.mixer.name: no mixer 'atention'; did you mean 'attention'?"),
        (f"{LAYER}.mixer.options", {"out_bias": 3}, f"{LAYER}.mixer.options.out_bias: expected bool, got int 3"),
        (f"{LAYER}.mixer.options", {"window": "x"}, f"{LAYER}.mixer.options.window: expected int, got str 'x'"),
        (f"{LAYER}.mixer.options", {"rope": 1.5}, f"{LAYER}.mixer.options.rope: must be at least 0 and at most 1"),
        (f"{LAYER}.mixer.options", {"output_map": False}, f"unknown key '{LAYER}.mixer.options.output_map'"),
        ("architectures.lolm_sum.size.match", "d_model.x", "lolm_sum.size.match: there is no size 'd_model.x'; did you mean"),
        ("architectures.lolm_sum.size.match", "latent", "lolm_sum.size.match: there is no size 'latent'"),
        ("architectures.samba.size.match", "mixers.mamba9.d_inner", "samba.size.match: there is no size 'mixers.mamba9.d_inner'"),
        ("scales.tiny.evaluation.samples", -1, "scales.tiny.evaluation.samples: must be at least 0"),
        ("scales.tiny.evaluation.prompt_tokens", 0, "scales.tiny.evaluation.prompt_tokens: must be at least 1"),
        ("scales.tiny.evaluation.lengths", [0], "scales.tiny.evaluation.lengths[0]: must be at least 1"),
        ("scales.tiny.evaluation.lengths", [], "scales.tiny.evaluation.lengths: need at least one item"),
        ("scales.tiny.recall.eval_sequences", 0, "scales.tiny.recall.eval_sequences: must be at least 1"),
        (
            "scales.tiny.ablation.dimension_shares",
            [1.5],
            "scales.tiny.ablation.dimension_shares[0]: must be above 0 and at most 1",
        ),
        ("scales.tiny.tokenizer.vocab_size", 100, "scales.tiny.tokenizer.vocab_size: must be at least 260"),
        ("analysis.confidence", 1, "analysis.confidence: must be above 0 and below 1"),
        ("studies.main.seeds", [-1], "studies.main.seeds[0]: must be at least 0"),
        ("studies.main.seeds", [], "studies.main.seeds: need at least one item"),
        ("studies.main.seeds", [1, 1], "studies.main.seeds: each once; got [1, 1]"),
        ("architectures.lolm.objectives.future_weight", -1, "architectures.lolm.objectives.future_weight: must be at least 0"),
        # Choices and names.
        ("architectures.lolm.latent.form", "mambo", "architectures.lolm.latent.form: 'mambo' is not one of"),
        ("architectures.lolm.recipe", "sounds", "architectures.lolm.recipe: no 'sounds' under 'recipes'; did you mean 'sound'?"),
        ("architectures.lolm.surface", "moderns", "architectures.lolm.surface: no 'moderns' under 'surfaces'"),
        (
            "surfaces.modern.pattern",
            ["laier"],
            "surfaces.modern.pattern: block 'laier' is not among 'blocks'; did you mean",
        ),
        (
            "architectures.lolm@2",
            RAW["architectures"]["lolm"],
            "the name of architectures.lolm@2: 'lolm@2' is not made",
        ),
        ("architectures.a;touch INJ", RAW["architectures"]["lolm"], "architectures.a;touch INJ: 'a;touch INJ' is not made of"),
        ("studies.my study", RAW["studies"]["main"], "the name of studies.my study: 'my study' is not made of letters"),
        ("studies.train", RAW["studies"]["main"], "studies.train: its folder cannot be called so"),
        ("scales.budgets", RAW["scales"]["tiny"], "scales.budgets: its folder cannot be called so"),
        ("scales.external", RAW["scales"]["tiny"], "scales.external: its folder cannot be called so"),
        ("scales.figures", RAW["scales"]["tiny"], "scales.figures: its folder cannot be called so"),
        ("scales.gpu", RAW["scales"]["tiny"], "scales.gpu: its folder cannot be called so"),
        ("scale", "tinny", "scale: 'tinny' is not one of 'scales'; did you mean 'tiny'?"),
        ("study", "fields", "study: 'fields' is not one of 'studies'; did you mean 'field'?"),
        ("study", {"arms": []}, "study: expected str, got dict"),
        ("studies.main.name", "field", "studies.main.name: is 'field'; leave it out"),
        # Clashes of several fields.
        ("scales.tiny.training.warmup_steps", 10**6, "scales.tiny.training.warmup_steps: 1000000 leaves nothing of steps 2000"),
        ("scales.tiny.training.seq_len", 100_000, "scales.tiny.training.eval_tokens: 16384 are less than one sequence"),
        ("scales.tiny.training.schedule", "cosine", "scales.tiny.training.cooldowns: need schedule: wsd"),
        ("scales.tiny.corpus.source", "hub", "scales.tiny.corpus.name: is required where source is 'hub'"),
        ("scales.tiny.corpus.name", "a/b", "scales.tiny.corpus.name: is of source 'hub'; set source"),
        (
            "scales.tiny.corpus.test_fraction",
            0.97,
            "tiny.corpus.validation_fraction: with test_fraction 1: nothing",
        ),
        ("scales.tiny.sweep.factors", [1.0, 2.0], "scales.tiny.sweep.factors: at least three, or none"),
        ("scales.tiny.sweep.factors", [1.0, 3.0, 2.0], "scales.tiny.sweep.factors: must be ascending"),
        ("scales.tiny.recall.pairs", 40, "scales.tiny.recall.pairs: 40 need seq_len of at least 120"),
        ("scales.tiny.sizes.lolm.n_heads", 3, "scales.tiny.sizes.lolm.d_model: 128 must be a multiple of n_heads 3"),
        (
            "scales.tiny.sizes.lolm.n_heads",
            128,
            "128 must be a multiple of n_heads 128 with an even head width",
        ),
        ("scales.tiny.sizes.lolm.memory", KeyError, "scales.tiny.sizes.lolm.memory: is missing, and the arm uses it"),
        ("scales.tiny.sizes.samba.mixers.mamba2", {}, "scales.tiny.sizes.samba.mixers: no block of the arm has a mixer 'mamba2'"),
        ("scales.tiny.sizes.lolm.match", "d_ff", "scales.tiny.sizes.lolm: match: d_ff needs like"),
        ("scales.tiny.sizes.lolm.like", "samba", "goes in a circle"),
        ("scales.tiny.sizes.samba.rate_of", "griffin", "size.rate_of: goes in a circle: samba → griffin → samba"),
        ("scales.tiny.sizes.samba.rate_of", "grifin", "no arm 'grifin' under 'architectures'; did you mean 'griffin'?"),
        ("scales.tiny.sizes.lolm.like", "llom", "scales.tiny.sizes.lolm.like: no arm 'llom' under 'architectures'; did you mean"),
        ("surfaces.jamba_moe.blocks.experts.experts_per_token", 17, "experts_per_token: 17 of 16 experts for a token"),
        ("architectures.lolm.detach", ["latent_gates"], "architectures.lolm.detach[0]: 'latent_gates' is not one of"),
        ("architectures.lolm.detach", ["latent_gate", "latent_gate"], "architectures.lolm.detach: each once"),
        (
            "architectures.transformer.detach",
            ["latent_gate"],
            "transformer.detach: this arm has no edge 'latent_gate' to cut",
        ),
        ("architectures.lolm_no_latent.detach", ["latent_fusion"], "no edge 'latent_fusion' to cut; it has none"),
        ("architectures.lolm_parallel.detach", ["surface_latent"], "no edge 'surface_latent' to cut"),
        ("architectures.lolm_half.detach", ["regime_gate"], "no edge 'regime_gate' to cut"),
        # Studies whose lists disagree.
        (
            "studies.inversion.arms",
            ["lolm", "transformer_deep", "transfomer"],
            "studies.inversion.arms: no arm 'transfomer' under 'architectures'",
        ),
        ("studies.gates.arms", ["lolm", "lolm"], "studies.gates.arms: each once"),
        ("studies.main.subject", "samba", "studies.main.subject: 'samba' is not among the study's arms"),
        (
            "studies.main.baseline",
            "transfomer",
            "studies.main.baseline: 'transfomer' is not among the study's arms",
        ),
        ("studies.main.baseline", "lolm", "studies.main.baseline: 'lolm' is the subject itself; name another"),
        ("studies.cpc.recall", [], "studies.cpc.recall: need at least one item"),
        ("studies.cpc.recall", ["lolm_no_cpcs"], "studies.cpc.recall: 'lolm_no_cpcs' is not among the study's arms"),
        (
            "studies.regime.factors.clamp",
            ["lolm_half"],
            "studies.regime.factors.clamp: 'lolm_half' is not among",
        ),
        ("studies.regime.factors.clamp", ["lolm"], "studies.regime.factors.clamp: 1 of 8 arms are at the high level"),
        (
            "studies.regime.factors.clamp",
            ["lolm", "lolm_reg_ec", "lolm_reg_eb", "lolm_reg_ie"],
            "studies.regime.factors.isolation: is not orthogonal to factors.clamp: 3 of 8",
        ),
        # What would be left out, or be no number, without a word.
        ("scales.tiny.sizes.lolm.future.horizon", 255, "sizes.lolm.future.horizon: 255 leaves nothing to predict in training."),
        ("scales.tiny.sizes.lolm.memory.slots", 1, "scales.tiny.sizes.lolm.memory.slots: must be at least 2"),
        ("scales.smoke.evaluation.prompt_tokens", 3, "chunks: 4 are more than the tokens of evaluation.prompt_tokens 3"),
        (
            "scales.tiny.sizes.lolm.memory.chunks",
            16,
            "memory.chunks: 16 are more than the tokens of recall.seq_len 12; lower them",
        ),
        ("scales.tiny.sizes.lolm.memory.chunks", 300, "memory.chunks: 300 are more than the tokens of training.seq_len 256"),
        (
            "architectures.transformer.gate",
            {"form": "scalar"},
            "architectures.transformer.gate: is of LOLM, and an arm of family",
        ),
        ("architectures.mamba.latent", {"form": "none"}, "architectures.mamba.latent: is of LOLM, and an arm of family decoder"),
        ("architectures.jamba_moe.regime", {"codes": 8}, "unknown key 'architectures.jamba_moe.regime.codes'"),
        ("architectures.hawk.memory", {"enabled": False}, "architectures.hawk.memory: is of LOLM"),
        ("architectures.samba.objectives", {"change_weight": 0.2}, "samba.objectives: is of LOLM, and an arm of family decoder"),
        ("architectures.lolm.output_projection", True, "lolm.output_projection: is of the published Transformer"),
        ("scales.tiny.sizes.samba.latent", {"layers": 2}, "scales.tiny.sizes.samba.latent: is of LOLM's parts"),
        ("architectures.samba.size.memory", {"slots": 8}, "sizes.samba.memory: is of LOLM's parts"),
        # Names.
        ("scales.--help", {"extends": "tiny"}, "'--help' is not made of letters, digits, _ and - alone, with no - in front"),
        # `extends`.
        ("scales.nano.extends", "tinny", "scales.nano.extends: no 'tinny' under 'scales'; did you mean 'tiny'?"),
        ("scales.tiny.extends", "nano", "scales.tiny.extends: goes in a circle: tiny → nano → tiny"),
        ("architectures.lolm_sum.extends", 3, "architectures.lolm_sum.extends: no 3 under 'architectures'"),
        ("analysis.extends", "x", "unknown key 'analysis.extends'"),
    ],
)
def test_a_mistake_is_named_by_its_path(path, value, message):
    found = mistakes({path: value}, FEW)
    assert any(message in line for line in found), found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("scales.tiny.training.step", 5),
        ("scales.tiny.training.clip", 0),
        ("scales.tiny.sizes.lolm.n_heads", 3),
        ("scales.tiny.sizes.lolm.latent", KeyError),
        ("architectures.lolm.gate.biass", 0.0),
        ("architectures.lolm.objectives.future_weight", -1),
        ("scales.nano.extends", "tinny"),
        ("architectures.lolm.extends", "x"),
        ("studies.main.subject", "samba"),
    ],
)
def test_a_mistake_is_said_once_though_much_inherits_it(path, value):
    found = mistakes({path: value})
    assert len([line for line in found if "scales.smoke" not in line]) == 1, found
    assert len(found) <= 2


def test_what_only_the_child_makes_wrong_is_said_of_the_child():
    found = mistakes({"scales.nano.training.steps": 20})
    assert any(line.startswith("scales.nano.training.warmup_steps: 50 leaves nothing of steps 20") for line in found)
    assert not any("scales.tiny" in line for line in found)


def test_all_mistakes_of_a_file_are_said_at_once():
    """One of every kind and stage of checking: none hides another."""
    found = mistakes(
        {
            "stuby": 1,
            "scale": "tinny",
            "analysis.confidence": 2,
            "studies.main.subject": "samba",
            "studies.field.arms": ["lolm", "transformer_modern", "nobody"],
            "studies.gate.seeds": "x",
            "architectures.hawk.label": 3,
            "architectures.griffin.recipe": "sond",
            "architectures.lolm_half.detach": ["regime_gate"],
            "architectures.lolm_concat.extends": "lollm",
            "architectures.lolm_sum.size.match": 3,
            "scales.micro.training.steps": -1,
            "scales.20m.sizes.lolm.n_heads": 7,
            "scales.20m.tokenizer.vocab_size": 3,
            "scales.304m.corpus.max_bytes": 0,
        }
    )
    for words in (
        "'stuby'", "scale: 'tinny'", "analysis.confidence", "studies.main.subject", "no arm 'nobody'", "studies.gate.seeds",
        "architectures.hawk.label", "no 'sond'", "architectures.lolm_half.detach", "no 'lollm'",
        "architectures.lolm_sum.size.match", "scales.micro.training.steps", "scales.20m.tokenizer.vocab_size",
        "scales.304m.corpus.max_bytes",
    ):  # fmt: skip
        assert any(words in line for line in found), (words, found)
    assert len(found) < 24


CLASHES = {
    "scales.tiny.sizes.lolm.d_model": (50, "d_model: 50 must be a multiple of n_heads 4"),
    "scales.tiny.training.eval_tokens": (1, "training.eval_tokens: 1 are less than one sequence"),
    "scales.tiny.training.devices": (3, "training.devices: 3 on 1 node(s) cannot share"),
    "scales.tiny.corpus.validation": (["a"], "corpus.validation: a: named under test too"),
    "studies.main.scale": ("tinny", "studies.main.scale: no scale 'tinny'"),
    "architectures.lolm_sum.size.match": ("latent", "there is no size 'latent'"),
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("scales.tiny.training.steps", -1),
        ("scales.tiny.sizes.lolm.dropout", 2),
        ("scales.tiny.tokenizer", 3),
        ("studies.main.seeds", []),
    ],
)
def test_what_clashes_is_said_beside_what_is_wrong_by_itself_and_no_more(path, value):
    beside = {"scales.tiny.sizes.lolm.n_heads": 4, "scales.tiny.corpus.test": ["a"]}
    clashes = beside | {key: wrong for key, (wrong, _) in CLASHES.items()}
    found = mistakes(clashes | {path: value})
    for words in (path, *(says for _, says in CLASHES.values())):
        assert any(words in line for line in found), (words, found)
    assert set(found) <= {*mistakes(clashes), *mistakes({path: value})}


LIST = ["x", None]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("architectures.lolm.family", "LOLM"),
        ("architectures.lolm.latent", None),
        ("architectures.lolm.latent.form", "mamba2"),
        ("architectures.jamba.size", LIST),
        ("architectures.jamba_moe.size.of", 3),
        ("architectures.lolm_half", LIST),
        ("surfaces.samba.blocks.local.mixer", "attention"),
        ("surfaces.modern.blocks.layer.mixer", LIST),
        ("surfaces.mamba2.blocks", LIST),
        ("studies.isolation.arms", "lolm"),
        ("scales.tiny.tokenizer", "small"),
        ("scales.mini.sizes", LIST),
        ("scales.tiny.sizes.lolm.regime", 8),
        ("scales.304m.sizes.lolm.latent", 4),
        ("scales.304m_gpu.training.schedule_steps", "all"),
    ],
)
def test_what_follows_from_a_mistake_is_no_mistake(path, value):
    found = mistakes({path: value})
    assert len(found) == 1, found
    assert path in found[0]
    assert found[0].isprintable()


def test_arms_are_told_apart_by_their_labels():
    mine = {"extends": "lolm", "gate": {"bias": 1.0}}
    arms = params_from(with_changes({"architectures.lolm_wide": mine})).architectures
    assert (arms["lolm_wide"].label, arms["lolm"].label) == ("lolm_wide", "LOLM v3, sound")
    raw = with_changes({"architectures.lolm_wide": mine | {"label": "Mamba"}})
    with pytest.raises(ConfigError, match=r"architectures\.(lolm_wide|mamba)\.label: 'Mamba' is that of '(mamba|lolm_wide)' too"):
        params_from(raw)


def test_a_text_where_any_text_is_allowed_and_an_integer_for_a_float_pass():
    params = params_from(with_changes({"architectures.lolm.label": "x", "scales.tiny.training.clip": 1}))
    assert params.architectures["lolm"].label == "x"
    assert params.scales["tiny"].training.clip == 1.0
    assert isinstance(params.scales["tiny"].training.clip, float)


def numbers(hint, found: dict, where: str = "", ranged: bool = False) -> None:
    """Every number below a type by its path, and whether a range is said of it."""
    if get_origin(hint) is Annotated:
        base, *demands = get_args(hint)
        numbers(base, found, where, any(isinstance(demand, Range) for demand in demands))
    elif hint in (int, float):
        found[where] = ranged
    elif hasattr(hint, "__dataclass_fields__"):
        for name, inner in _hints(hint).items():
            numbers(inner, found, f"{hint.__name__}.{name}")
    else:
        for inner in get_args(hint):
            numbers(inner, found, where, ranged)


FREE = {"GateConfig.bias", "ObjectiveConfig.regime_entropy_weight"}  # of either sign


def test_every_number_of_the_file_has_a_range():
    found: dict[str, bool] = {}
    numbers(Params, found)
    assert len(found) > 80
    assert {where for where, ranged in found.items() if not ranged} == FREE


# Integers whose upper end is far above what a machine holds: steps, tokens, bytes, documents and thresholds, which pass by.
PASSING = {
    "TrainingConfig": "steps schedule_steps warmup_steps log_every eval_every eval_tokens checkpoint_every",
    "CorpusConfig": "max_documents max_bytes",
    "TokenizerConfig": "train_bytes",
    "RegimeSize": "tau_steps",
    "ShardsConfig": "shard_tokens",
    "EvaluationConfig": "tokens subset_tokens",
    "SweepConfig": "steps",
    "RecallConfig": "steps",
    "AblationConfig": "tokens calibration_tokens boundary_tokens refit_tokens refit_validation_tokens refit_steps "
    "fine_tune_steps",
    "LayersConfig": "tokens",
    "ExternalConfig": "tokens",
    "DownstreamConfig": "limit",
    "AnalysisConfig": "published_window pool_below least_documents block_tokens",
}
SEEDS = {"SweepConfig.seeds", "StudyConfig.seeds", "AnalysisConfig.bootstrap_seed", "ExternalConfig.seed"}


def test_what_is_held_at_once_or_done_one_by_one_is_bounded():
    found: dict[str, int] = {}
    uppers((Params, SizeConfig, *OPTIONS.values()), found)
    assert len(found) > 80
    passing = {f"{name}.{key}" for name, keys in PASSING.items() for key in keys.split()}
    assert {where for where, most in found.items() if most > 2**20} == passing | SEEDS | {"TokenizerConfig.vocab_size"}


def uppers(hint, found: dict, where: str = "") -> None:
    """The upper end of every integer below a type, by its path."""
    if isinstance(hint, tuple):
        for inner in hint:
            uppers(inner, found, where)
    elif get_origin(hint) is Annotated:
        base, *demands = get_args(hint)
        found.update((where, demand.most) for demand in demands if isinstance(demand, Range) and base is int)
        uppers((base, *(demand.cls for demand in demands if isinstance(demand, PartOf))), found, where)
    elif hasattr(hint, "__dataclass_fields__"):
        for name, inner in _hints(hint).items():
            uppers(inner, found, f"{hint.__name__}.{name}")
    else:
        uppers(get_args(hint), found, where) if get_args(hint) else None


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("scales.tiny.tokenizer.vocab_size", 2**31 - 1),
        ("scales.tiny.training.threads", 1024),
        ("scales.tiny.training.devices", 1024),
        ("scales.tiny.training.batch_size", 2**20),
        ("scales.tiny.evaluation.samples", 2**20),
        ("scales.tiny.recall.batch_size", 2**20),
        ("scales.tiny.recall.eval_sequences", 2**20),
        ("scales.tiny.ablation.split_draws", 2**20),
        ("scales.tiny.ablation.refit_checks", 2**20),
        ("scales.tiny.layers.labellings", 2**20),
        ("scales.tiny.sizes.mamba.mixers.mamba1.d_state", 2**20),
        ("analysis.replicates", 100_000),
        ("cluster.poll_seconds", 2**20),
        ("cluster.warning_seconds", 65_535),
    ],
)
def test_one_more_than_the_most_is_refused(path, most):
    with_most = mistakes({path: most + 1}, FEW)
    assert any(f"{path}: must be at least" in line and f" and at most {most:,}, got {most + 1}" in line for line in with_most)
    if path not in ("scales.tiny.training.devices", "cluster.warning_seconds"):  # which clash with others
        params_from(with_changes({path: most}, FEW))


@pytest.mark.parametrize("raw", [None, [], "x", 3, {"scales": 3, "studies": [], "architectures": None, "sizes": 4}])
def test_what_is_no_parameter_file_at_all_is_said(raw):
    with pytest.raises(ConfigError):
        params_from(raw)


def test_every_entry_broken_at_once_raises_nothing_else():
    few = pickle.loads(FEW)
    for value in (None, 3, "x", [], {}, {"extends": "x"}, {"extends": []}):
        for section in ("recipes", "surfaces", "architectures", "scales", "studies"):
            with pytest.raises(ConfigError):
                params_from(few | {section: dict.fromkeys(few[section], value)})


def test_from_mapping_says_all_as_well():
    with pytest.raises(ConfigError, match="(?s)missing key 'x.scale'.*missing key 'x.study'"):
        from_mapping(Params, yaml.safe_load("{}"), "x")
