"""Every kind of record: what it holds comes back; a key that is missing, unknown or of another type is named with its file."""

import dataclasses
import json
import lzma

import pytest
from synthetic import write_results

from lolm.records import (
    Layout,
    RecordError,
    budgets_record,
    essence,
    fingerprint_of,
    from_record,
    names,
    read,
    read_json,
    schema,
    to_record,
    write,
)
from lolm.records.results import load_results
from lolm.records.schema import (
    Ablation,
    BudgetLaw,
    BudgetPoint,
    Budgets,
    BudgetSettings,
    Condition,
    DependencyPoint,
    Divergence,
    Evaluation,
    Layers,
    MeasuredGap,
    PathMultiplier,
    PathPoint,
    PathSlope,
    PlanRow,
    Prediction,
    Recall,
    RunHeader,
    Summary,
    Sweep,
    TextLosses,
    TokenClass,
    Trend,
    Value,
)

KINDS = (Budgets, RunHeader, Summary, Evaluation, Ablation, Layers, Recall, Sweep, Divergence, TextLosses)

ONE = Value(1.0, 0.5, 2.0, 3)
BUDGETS = Budgets(
    scales={"smoke": "main"}, settings=BudgetSettings(0.95, 0.001, 400, 0.1, "mean"),
    subject="lolm", baseline="transformer", made=1, asked=2, missing=("smoke: lolm-2",),
    training_flops=1e9, refused={"mamba": "too few"},
    points=(BudgetPoint("lolm", "smoke", 1, 100, 1000, 6e5, 3.0),),
    laws=(BudgetLaw("lolm", False, ONE, ONE, ONE, ONE, ONE, 6.0, 1.0, 1, 0, None, 0.1, None, 1.0, ("alpha",)),),
    paths=(PathPoint("lolm", 6e5, 100.0, 1000.0, ONE, True),),
    multipliers=(PathMultiplier("transformer", False, 6e5, ONE, True),),
    slopes=(PathSlope("transformer", False, 1e5, 1e6, ONE, 1.0),),
    gaps=(MeasuredGap("transformer", "smoke", 1000, ONE),),
    trends=(Trend("gap", "transformer", "nats", ONE, Value(None)),),
    dependency=(DependencyPoint("smoke", 1, 100, 1000, 0.1, 0.2, 0.1, 0.5, 0.6),),
    predictions=(Prediction("20m", "lolm", 10**7, 10**8, ONE, None),),
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_results(
        tmp_path_factory.mktemp("records"), seeds=(1, 2), diverged=("transformer-2",), studies={"hybrids": {"arms": ("samba",)}}
    )


@pytest.fixture(scope="module")
def found(project):
    """By kind, a record that has something at every field."""
    layout = Layout("smoke", project)
    paths = {
        RunHeader: layout.header("lolm", 1), Summary: layout.summary("lolm", 1), Evaluation: layout.evaluation("lolm", 1),
        Ablation: layout.ablation("lolm", 1), Layers: layout.layers("samba", 1), Recall: layout.recall("samba", 1),
        Sweep: layout.sweep("lolm"), Divergence: layout.divergence("transformer", 2),
        TextLosses: layout.text_losses("lolm", 1),
    }  # fmt: skip
    write(budgets_record(project), BUDGETS)
    return {kind: (path, read_json(path)) for kind, path in (paths | {Budgets: budgets_record(project)}).items()}


def parts(kind, value, seen):
    """Classes that a record is made of."""
    if dataclasses.is_dataclass(value):
        seen.add(type(value))
        for field in dataclasses.fields(value):
            parts(kind, getattr(value, field.name), seen)
    elif isinstance(value, dict | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            parts(kind, inner, seen)
    return seen


def test_the_synthetic_records_have_every_class_of_the_schema(found):
    seen = set().union(*(parts(kind, from_record(kind, raw, path), set()) for kind, (path, raw) in found.items()))
    elsewhere = {schema.External, schema.Downstream, schema.TaskScores, schema.TaskMetric}  # tests/external, tests/downstream
    assert {getattr(schema, name) for name in schema.__all__} - seen <= {schema.Identity, PlanRow} | elsewhere


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(found, tmp_path, kind):
    path, raw = found[kind]
    record = read(path, kind)
    assert to_record(record) == raw
    for name in ("r.json", "r.json.xz"):
        write(tmp_path / name, record)
        assert read(tmp_path / name, kind) == record


def test_round_trip_of_a_plan():
    row = PlanRow(10, 9, 0.001, 1.0, 3.0, 3.1, 4, 16)
    assert from_record(PlanRow, to_record(row), "plan.json") == row


OPTIONAL = {
    field.name
    for name in schema.__all__
    for field in dataclasses.fields(getattr(schema, name))
    if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
}


def mappings(value, where=()):
    """Every mapping inside a plain record, the first of each list alone."""
    if isinstance(value, dict):
        yield where, value
        for key, inner in value.items():
            yield from mappings(inner, (*where, key))
    elif isinstance(value, list) and value:
        yield from mappings(value[0], (*where, 0))


def at(value, where):
    for key in where:
        value = value[key]
    return value


def copy(value):
    return json.loads(json.dumps(value))


FREE = ("by_part", "tasks", "windows", "left_out", "addends", "objectives", "scales", "refused", "ends")  # mappings by name


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_is_missing_renamed_or_unknown_is_named_wherever_it_stands(found, kind):
    path, raw = found[kind]
    for where, mapping in mappings(raw):
        if "run" in where[:2] or where[-1:] in [(name,) for name in FREE]:  # of `run` the tests of configuration say more
            continue
        changed = copy(raw)
        at(changed, where)["surplus"] = 1
        refused(kind, changed, path, "surplus")
        for key in set(mapping) - OPTIONAL:
            changed = copy(raw)
            del at(changed, where)[key]
            refused(kind, changed, path, f"missing key.*{key}|{key}.*missing key")
            at(changed, where)[f"{key}_x"] = mapping[key]
            refused(kind, changed, path, f"{key}_x")


def test_what_claims_rest_on_is_in_every_record():
    """A key that may be missing is one whose measurement is quietly not there; these once were."""
    assert not {"conditions", "contributions", "readouts", "token_classes"} & OPTIONAL


def refused(kind, raw, path, said):
    with pytest.raises(RecordError, match=said) as error:
        from_record(kind, raw, path)
    assert str(path) in str(error.value)


def test_another_type_is_named(found):
    path, raw = found[Evaluation]
    changed = copy(raw)
    changed["test"]["nats"] = "3.1"
    with pytest.raises(RecordError, match=r"test\.nats: expected float"):
        from_record(Evaluation, changed, path)


def test_the_word_that_python_keeps_stands_in_the_record(found):
    path, raw = found[Ablation]
    assert {"class", "tokens"} <= set(raw["token_classes"][0])
    assert read(path, Ablation).token_classes[0].token_class == "all"


def test_compressed_bytes_are_the_same_twice(found, tmp_path):
    record = read(found[Ablation][0], Ablation)
    for name in ("a.json.xz", "b.json.xz"):
        write(tmp_path / name, record)
    assert (tmp_path / "a.json.xz").read_bytes() == (tmp_path / "b.json.xz").read_bytes()
    assert json.loads(lzma.decompress((tmp_path / "a.json.xz").read_bytes())) == to_record(record)


@pytest.mark.parametrize("name", ["r.json", "r.json.xz"])
def test_a_file_cut_short_is_named(found, tmp_path, name):
    path = tmp_path / name
    write(path, read(found[Evaluation][0], Evaluation))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordError, match=name):
        read(path, Evaluation)


def test_values_that_are_not_finite_are_refused(found, tmp_path):
    record = dataclasses.replace(read(found[Summary][0], Summary), val_nats=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "s.json", record)
    assert not (tmp_path / "s.json").exists()


# ---------------------------------------------------------------------------------------------- identity


@dataclasses.dataclass(frozen=True)
class Old:
    steps: int
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class New:
    steps: int
    rate: float = 0.1
    warm: tuple[int, ...] = ()
    more: dict = dataclasses.field(default_factory=dict)


def test_a_field_that_is_added_with_a_default_leaves_the_identity():
    assert essence(Old(3)) == {"steps": 3}
    assert fingerprint_of(Old(3), "x") == fingerprint_of(New(3), "x")
    assert fingerprint_of(Old(3, 0.2)) == fingerprint_of(New(3, 0.2))
    assert fingerprint_of(Old(3)) != fingerprint_of(New(3, warm=(1,)))
    assert essence({"a": [New(1, more={"k": (1, 2)})]}) == {"a": [{"steps": 1, "more": {"k": [1, 2]}}]}


# ---------------------------------------------------------------------------------------------- names


def test_names_that_no_record_can_hold_are_errors(project):
    lolm = load_results(project).of("lolm")[0]
    with pytest.raises(RecordError, match="no intervention 'latent_meen'; did you mean 'latent_mean'"):
        lolm.condition("latent_meen")
    with pytest.raises(RecordError, match="no intervention"):
        lolm.damage(names.joined(names.GATE, "match_nrom"), 1.0)
    with pytest.raises(RecordError, match="no metric 'val/nat'; did you mean 'val/nats'"):
        lolm.points("val/nat")
    with pytest.raises(RecordError, match="no axis 'stepp'"):
        lolm.points(names.VAL_NATS, "stepp")
    with pytest.raises(RecordError, match="no recall task 'mqra'; did you mean 'mqar'"):
        lolm.accuracy("mqra")
    with pytest.raises(RecordError, match="no readout 'heads'"):
        lolm.ablation.readout("heads", names.NONE)
    with pytest.raises(RecordError, match="no class of tokens 'function'"):
        lolm.ablation.token_class("function")


def test_what_an_arm_lacks_is_none_and_not_an_error(project):
    transformer = load_results(project).of("transformer")[0]
    assert transformer.condition(names.replaced(names.LATENT, names.MEAN)) is None
    assert transformer.points(names.GATE_LEVEL) == ([], [])
    assert transformer.ablation.readout(names.HEAD, names.GATE, 1.0) is None
    assert transformer.condition(names.SKIP_LAST_BLOCKS, 1.0).step == 400
    assert transformer.condition(names.SKIP_LAST_BLOCKS, 2.0) is None


@pytest.mark.parametrize(
    "name",
    [
        "gate", "gate+match_norm", "gate=1+skip_last_blocks=1", "gate+memory_zero+regime_zero", "split_18_second",
        "latent_dimensions_lowest_gate", "surface_dimensions_highest_contribution_norm_1", "latent_dimensions_random_0",
        "latent_source_resample", "stack.3.mixer_zero+surface.0.mlp_mean", "latent.1.mixer.attention_gaussian",
    ],
)  # fmt: skip
def test_every_form_of_a_name_is_known(name):
    assert names.check_intervention(name) == name


def test_a_record_with_a_name_that_nobody_can_ask_for_is_refused(tmp_path):
    layout = Layout("smoke", write_results(tmp_path, seeds=(1,)))
    path = layout.ablation("lolm", 1)
    record = read(path, Ablation)
    for change in (
        {"conditions": (Condition(400, "latent_avg", None, 1.0, 1.0, 0.1, 0.0, 1.0), *record.conditions)},
        {"token_classes": (TokenClass(400, "functional", 1, None, None, None, None, None), *record.token_classes)},
        {"readouts": (dataclasses.replace(record.readouts[0], readout="haed"), *record.readouts)},
    ):
        write(path, dataclasses.replace(record, **change))
        with pytest.raises(RecordError, match=r"ablate/lolm-1\.json\.xz: no (intervention|class of tokens|readout) '"):
            load_results(tmp_path)


@dataclasses.dataclass(frozen=True)
class Counted:
    counts: dict[str, int]


def test_a_name_that_python_keeps_is_written_as_it_was_read():
    raw = {"counts": {"class": 1}}
    assert to_record(from_record(Counted, raw, "a.json")) == raw
